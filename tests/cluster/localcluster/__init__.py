"""A real Kubernetes control plane and process nodes, without root or containers."""
