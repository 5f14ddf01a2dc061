"""Face detectors and face parsers, and which of them a preparation uses."""
