"""Decides how many pods a service needs."""
