"""Preparation of an avatar from a video, a photo or a folder of pictures."""
