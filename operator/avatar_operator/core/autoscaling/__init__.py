"""How many pods a service needs."""
