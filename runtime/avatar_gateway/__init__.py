"""The session gateway: authenticates callers, places sessions on pods, and proxies them."""
