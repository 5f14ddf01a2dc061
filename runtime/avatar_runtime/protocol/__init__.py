"""The session protocol without I/O: messages in, messages out."""
