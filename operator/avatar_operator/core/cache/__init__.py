"""What the operator keeps of the objects that it watches."""
