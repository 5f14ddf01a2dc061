"""A Kubernetes control plane of real components, without root or containers."""
