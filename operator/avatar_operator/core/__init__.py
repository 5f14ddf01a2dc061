"""Every decision of the operator, as functions of values."""
