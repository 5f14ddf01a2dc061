"""Random clients for the protocol of `/v1/realtime`, and an oracle for what a session answers."""
