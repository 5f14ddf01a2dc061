"""The session gateway: authentication, placement on pods, proxying."""
