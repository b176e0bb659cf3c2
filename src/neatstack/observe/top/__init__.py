"""The live view of `neat top`."""
