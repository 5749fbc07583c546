"""Training runs: from an experiment to weights."""
