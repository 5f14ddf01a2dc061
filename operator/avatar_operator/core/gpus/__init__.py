"""GPU classes, batch sizes, pools and placement."""
