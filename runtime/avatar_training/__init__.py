"""Trains the small demonstration model and prepares its avatars."""
