"""The model and the device, owned by one thread."""
