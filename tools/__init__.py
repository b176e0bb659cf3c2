"""What helps those who work on the project; not installed."""
