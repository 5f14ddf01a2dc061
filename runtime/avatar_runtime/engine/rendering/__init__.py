"""From frame requests to JPEG images."""
