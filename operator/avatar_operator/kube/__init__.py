"""The only callers of the Kubernetes API."""
