"""The masked video autoencoder and its classifier."""
