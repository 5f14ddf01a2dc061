"""State streams of runtime pods."""
