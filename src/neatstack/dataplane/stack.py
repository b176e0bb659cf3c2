"""The structure that every layer shares (see stack.pxd)."""

import cython
from cython.cimports.neatstack.dataplane.stack import Stack
from cython.cimports.neatstack.dataplane.tcp.tcb import Late, Tcb


def sizes() -> dict:
    """Sizes in bytes of the structures that tests bound."""
    return {"Tcb": cython.sizeof(Tcb), "Late": cython.sizeof(Late), "Stack": cython.sizeof(Stack)}
