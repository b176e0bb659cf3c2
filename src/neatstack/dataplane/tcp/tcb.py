"""The transmission control block (see tcb.pxd)."""
