"""Stand-ins for what cannot run here: GPU nodes with hollow pods, gateways, an API server."""
