"""A TCP/IP network stack in user space, split over isolated replicas."""

__version__ = "0.1.0"
