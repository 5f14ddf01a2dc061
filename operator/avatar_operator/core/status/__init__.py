"""From a plan to conditions and status."""
