"""Offline commands: files in, files out."""
