"""Controllers: read, plan, apply, write status."""
