"""The HTTP and WebSocket servers of the gateway."""
