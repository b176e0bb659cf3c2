"""Experiments that anybody can repeat: a laboratory of network namespaces, a load, faults, and reports."""
