"""Which frames of which sessions share a batch, decided without I/O."""
