"""Mode bridge: an upstream Realtime endpoint answers, and the avatar speaks its answers."""
