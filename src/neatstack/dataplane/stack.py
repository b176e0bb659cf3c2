"""The structure that every layer shares (see stack.pxd)."""

import cython
from cython.cimports.neatstack.dataplane.stack import Stack
from cython.cimports.neatstack.dataplane.tcp.tcb import Late, Tally, Tcb


def sizes() -> dict:
    """Sizes in bytes of the structures that tests bound."""
    return {
        "Tcb": cython.sizeof(Tcb),
        "Late": cython.sizeof(Late),
        "Tally": cython.sizeof(Tally),
        "Stack": cython.sizeof(Stack),
    }
