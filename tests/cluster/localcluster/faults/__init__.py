"""Seeded faults of the API server and of the operator."""
