"""The offline and administrative commands of the gateway."""
