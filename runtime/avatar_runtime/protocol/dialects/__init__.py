"""Other forms of the same protocol, translated at the edge: a session knows the GA form only."""
