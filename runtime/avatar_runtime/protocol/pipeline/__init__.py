"""Mode speech: text or the caller's speech in, and the avatar speaks the answer of endpoints."""
