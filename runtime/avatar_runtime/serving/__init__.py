"""The only sockets of the runtime: sessions and administration."""
