"""What the operator, the gateway and the runtime exchange, each defined once."""
