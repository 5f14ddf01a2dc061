"""The engine's benchmark: what it measures, and how its document is shown."""
