"""Which frames of which sessions ride together, decided from values alone."""
