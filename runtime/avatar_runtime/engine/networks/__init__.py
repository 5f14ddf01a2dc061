"""The networks of MuseTalk, and their weights."""
