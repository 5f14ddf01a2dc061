"""Builds the images of the project as OCI archives with buildah, without a container engine."""
