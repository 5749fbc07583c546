"""Where an experiment runs, and where its results go."""
