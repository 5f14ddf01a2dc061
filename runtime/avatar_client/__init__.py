"""A client of the wire protocol, its recorder, and the load generator."""
