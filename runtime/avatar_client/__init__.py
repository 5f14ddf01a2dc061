"""A client of the wire protocol, with a recorder and a load generator."""
