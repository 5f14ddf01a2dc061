"""Plans the preparation of avatars, and what services wait for."""
