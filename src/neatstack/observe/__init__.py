"""Watching a stack from outside: rates, the live view, and the endpoint for Prometheus. Asks only control.sock."""
