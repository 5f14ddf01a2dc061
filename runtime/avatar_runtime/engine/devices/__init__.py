"""Devices that compute frames: CPU and CUDA by torch, and simulated GPUs."""
