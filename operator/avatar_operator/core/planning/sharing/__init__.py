"""How services share GPUs that are short: each gets its minimum first, then by weight."""
