"""Prepared avatars and their caches."""
