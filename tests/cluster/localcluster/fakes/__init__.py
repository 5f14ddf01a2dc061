"""Fakes for what cannot run on this machine: GPU nodes, a gateway, an API server."""
