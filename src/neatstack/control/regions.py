"""State regions as the manager reads them: flows and connections, while their replicas go on writing."""

import contextlib
import mmap
import os
from collections.abc import Collection, Iterator

from neatstack.control.slots import Slot

FLOW = 16  # bytes of struct neat_steer_flow


class Region:
    """One region, mapped to read. What a replica has not yet set up, or sets up in another layout, has no flows."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory

    def live_flows(self, keys: tuple[int, int, int], buckets: Collection[int] | None = None) -> bytes:
        """The flows of all connections, or of those in these buckets, packed."""
        from neatstack.dataplane import flows

        try:
            return bytes(flows.live_flows(self._memory, keys, buckets))
        except ValueError:
            return b""

    def count_owned(self, packed: bytes) -> int:
        """How many of these flows have a connection here."""
        from neatstack.dataplane import flows

        try:
            return len(flows.owns(self._memory, packed)) // FLOW
        except ValueError:
            return 0

    def in_use(self) -> tuple[int, int]:
        """How many connections there are, and how many of them are not over: closed, but not by their program."""
        from neatstack.dataplane import flows

        try:
            return flows.in_use(self._memory)
        except ValueError:
            return 0, 0

    def strays(self) -> tuple[int, bytes]:
        """How many segments there ever were of no connection, and the flows of the last, packed."""
        from neatstack.dataplane import flows

        try:
            return flows.strays(self._memory)
        except ValueError:
            return 0, b""


@contextlib.contextmanager
def open_region(slot: Slot) -> Iterator[Region]:
    """The slot's region, also if the slot is given another one meanwhile."""
    descriptor = os.dup(slot.region)
    try:
        memory = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
    finally:
        os.close(descriptor)
    try:
        yield Region(memory)
    finally:
        memory.close()
