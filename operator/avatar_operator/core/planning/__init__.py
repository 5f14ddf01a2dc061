"""From what is observed to a list of actions."""
