"""Faults of the API server and of the operator, by seed."""
