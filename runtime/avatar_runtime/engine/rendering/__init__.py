"""From requests of frames to JPEG images."""
