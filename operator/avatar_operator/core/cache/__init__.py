"""The operator's copies of the objects that it watches."""
