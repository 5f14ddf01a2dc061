"""The only sockets of the gateway."""
