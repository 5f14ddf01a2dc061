"""The only caller of the Kubernetes API."""
