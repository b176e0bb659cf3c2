"""The structure that every layer shares (see stack.pxd)."""

import cython
from cython.cimports.neatstack.dataplane.stack import Stack
from cython.cimports.neatstack.dataplane.tcp.tcb import Tcb


def sizes() -> dict:
    """Sizes in bytes of the structures that tests bound."""
    return {"Tcb": cython.sizeof(Tcb), "Stack": cython.sizeof(Stack)}
