"""One module per kind: its type and its parser."""
