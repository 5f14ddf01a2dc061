"""How the small demonstration model and its avatars are made."""
