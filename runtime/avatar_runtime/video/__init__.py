"""Video encoders: raw images in, access units out."""
