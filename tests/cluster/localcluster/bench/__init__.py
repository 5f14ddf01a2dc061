"""`make bench`: every CPU benchmark, one JSON file each."""
