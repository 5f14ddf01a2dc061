"""Builds conditions and status from a plan."""
