"""`make bench`: runs every CPU benchmark; each one writes a JSON file."""
