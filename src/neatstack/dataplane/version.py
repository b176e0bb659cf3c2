"""Which version of the data plane this is, and what it needs to take over what another one has left.

    python -c "from neatstack.dataplane.version import main; main()" MAX_TCBS

prints that as JSON, so that an installation can be asked before one of its processes is given anything.
"""

import json
import os
import sys

import cython
from cython.cimports.neatstack.dataplane.channel.layout import NEAT_LAYOUT_VERSION
from cython.cimports.neatstack.dataplane.channel.region import REGION_VERSION
from cython.cimports.neatstack.dataplane.stack import Counters, Listener, RegionHeader
from cython.cimports.neatstack.dataplane.tcp.tcb import Tcb

from neatstack import __version__ as VERSION
from neatstack.dataplane.channel.region import region_size

PROTOCOL = 3  # of what manager and replica tell each other (docs/architecture.md)


def state() -> dict:
    """What must agree. `layout`: the memory shared with programs and the manager; `region`: what connections need."""
    return {
        "layout": NEAT_LAYOUT_VERSION,
        "protocol": PROTOCOL,
        "region": REGION_VERSION,
        "sizes": {
            "Tcb": cython.sizeof(Tcb),
            "RegionHeader": cython.sizeof(RegionHeader),
            "Counters": cython.sizeof(Counters),
            "Listener": cython.sizeof(Listener),
        },
    }


def describe(max_tcbs: int) -> dict:
    """This installation, with the size of a region for so many connections."""
    parent = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
    return {"version": VERSION, "parent": parent, "state": state(), "region_size": region_size(max_tcbs)}


def main() -> None:
    """Print `describe`."""
    print(json.dumps(describe(int(sys.argv[1]))))
