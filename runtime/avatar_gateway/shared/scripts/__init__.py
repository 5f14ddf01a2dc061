"""Lua scripts that Redis runs, each as a whole, so that gateways cannot interfere."""
