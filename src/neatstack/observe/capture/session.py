"""A capture under way: the memory of every replica and of link, read again and again.

Nobody is asked for anything while it lasts, and nobody waits for us: who captures too slowly misses packets, which are
counted.
"""

import mmap
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from neatstack.control import rundir
from neatstack.control.errors import NeatError

LATE = 1_000_000  # ns after which a packet that has its time is surely there to be read
LOOKS = 16  # reads of one source before the next has its turn


@dataclass(frozen=True)
class Packet:
    """A frame as it is on a wire. `at` is ns since 1970."""

    at: int
    outgoing: bool
    data: bytes
    source: "Source" = field(repr=False)


@dataclass(eq=False)
class Source:
    """A replica, or link. Its counts are of packets as they are on a wire."""

    replica: int | None
    reader: Any
    received: int = 0  # in all, but for those that are missing
    accepted: int = 0  # by the filter
    kept: int = 0

    @property
    def name(self) -> str:
        return "link" if self.replica is None else f"replica {self.replica}"

    @property
    def missing(self) -> int:
        """Packets, as they cross the device, that were overwritten before they were read."""
        lost: int = self.reader.lost
        return lost


class Session:
    """From now until this process ends. Raises NeatError.

    `replicas`: only these (then not link); None: all, and those that start later.
    """

    def __init__(self, stack: str, buffer: int, replicas: Iterable[int] | None = None) -> None:
        from neatstack.dataplane.driver.capture_memory import CaptureReader

        answer, descriptors = rundir.ask_for_descriptors(stack, {"op": "capture", "buffer": buffer})
        self.stack = stack
        self.started = time.time_ns()
        self._epoch = self.started - time.monotonic_ns()
        self._held: list[Packet] = []
        self.active: list[int] = answer["active"]
        wanted = None if replicas is None else set(replicas)
        if wanted and not wanted <= set(self.active):
            strange, there = min(wanted - set(self.active)), ", ".join(map(str, self.active))
            raise NeatError(f"no replica {strange}; there are: {there}", status=2)
        self.sources = []
        for place, descriptor in zip(answer["places"], descriptors, strict=True):
            if wanted is None or place in wanted:
                memory = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
                self.sources.append(Source(place, CaptureReader(memory)))
            os.close(descriptor)

    def take(self, final: bool = False) -> list[Packet]:
        """What has come since, in the order of time. `final`: also what could still be overtaken."""
        until = time.monotonic_ns() - LATE + self._epoch
        found = self._held
        for source in self.sources:
            for _ in range(LOOKS):
                frames = source.reader.read()
                if not frames:
                    break
                source.received += len(frames)
                found += [Packet(at + self._epoch, out, data, source) for at, out, data in frames]
        found.sort(key=attrgetter("at"))
        if final:
            self._held = []
            return found
        ready = next((n for n, packet in enumerate(found) if packet.at > until), len(found))
        self._held = found[ready:]
        return found[:ready]

    def over(self) -> bool:
        """Has the stack ended?"""
        return not rundir.is_running(self.stack)
