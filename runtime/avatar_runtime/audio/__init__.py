"""Sound to encoder contexts and feature windows."""
