"""`avatar-runtime bench`."""
