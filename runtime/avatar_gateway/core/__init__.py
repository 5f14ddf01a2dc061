"""The gateway's decisions, as functions of values."""
