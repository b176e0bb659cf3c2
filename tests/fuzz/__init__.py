"""Hostile input: frames at the device, and channels of hostile programs. Each file also runs by itself, see --help."""
