"""What a frozen encoder knows: its features, judged by nearest neighbours and by a linear classifier."""
