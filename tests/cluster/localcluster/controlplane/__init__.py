"""A Kubernetes control plane from real components, without root or containers."""
