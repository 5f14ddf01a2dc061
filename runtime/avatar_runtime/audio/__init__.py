"""From audio to encoder contexts and feature windows."""
