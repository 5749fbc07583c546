"""The only calls to Kubernetes: what a job becomes there, how it is followed, and why it does not start."""
