"""Captures under way: who looks, and the memory in which each replica, and link, gives its packets away.

A capture is the process that asked for it, and ends with it. Its memory is stored in the keeper, so that neither a new
incarnation of a replica nor a new manager interrupts it: whoever is new is told of it, and goes on in the same memory.
"""

import asyncio
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from neatstack.control import messages, pages
from neatstack.control.errors import NeatError
from neatstack.control.line import refusal
from neatstack.control.processes import Link
from neatstack.control.replicas import Replicas, Told
from neatstack.control.store import Entry, Store

log = logging.getLogger("neat.captures")

MOST = 4  # stack.pxd: CAPTURES
HEADER = 4096  # driver/capture.pxd: CAPTURE_HEADER
LEAST_BUFFER, MOST_BUFFER = 1 << 18, 1 << 30  # bytes
ANSWER_TIME = 5.0  # seconds for link
KEY = "capture."


@dataclass(eq=False)
class Capture:
    """One of them. `memories`: of each slot, then link's."""

    number: int
    pid: int
    pidfd: int
    memories: list[int]

    @property
    def key(self) -> str:
        return f"{KEY}{self.number}"

    def told(self, place: int) -> Told:
        """How slot `place` is told of it; link is behind the last."""
        return Told({"op": "capture", "capture": self.number}, (self.memories[place],))


class Captures:
    """All of them."""

    def __init__(self, store: Store, replicas: Replicas, link: Link) -> None:
        self.store = store
        self.replicas = replicas
        self.link = link
        self.by_number: dict[int, Capture] = {}

    def contents(self, place: int) -> Iterator[Told]:
        """What a new incarnation of slot `place` has to know; -1: link."""
        for capture in self.by_number.values():
            yield capture.told(place)

    async def start(self, pid: int, size: int) -> Capture:
        """Every replica gives away its packets to process `pid` from now on, through `size` bytes. Raises NeatError."""
        if type(size) is not int or not LEAST_BUFFER <= size <= MOST_BUFFER or size & (size - 1):
            raise NeatError(f"a buffer of {size!r} bytes; it takes a power of two from {LEAST_BUFFER} to {MOST_BUFFER}")
        number = next((n for n in range(MOST) if n not in self.by_number), None)
        if number is None:
            who = ", ".join(str(capture.pid) for capture in self.by_number.values())
            raise NeatError(f"{MOST} captures are under way (processes {who}); end one first")
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            raise NeatError(f"process {pid} is not there") from None
        names = [*map(str, range(len(self.replicas.slots))), "link"]
        memories = [pages.memory(f"capture-{number}-{name}", HEADER + size) for name in names]
        capture = Capture(number, pid, pidfd, memories)
        self._attend(capture)
        self.store.put(capture.key, {"capture": number, "pid": pid}, [pidfd, *memories])
        await self._tell(capture)
        if self.by_number.get(number) is not capture:
            raise NeatError(f"process {pid} has ended")
        return capture

    def resume(self, entries: Iterable[Entry]) -> None:
        """A restarted manager has found these in the keeper; what the last one may not have told is told again."""
        for entry in entries:
            pidfd, *memories = entry.descriptors
            capture = Capture(entry.data["capture"], entry.data["pid"], pidfd, memories)
            self._attend(capture)
            for slot in self.replicas.slots:
                self.replicas.ask(slot, capture.told(slot.number))
            self.link.ask(capture.told(-1))

    def _attend(self, capture: Capture) -> None:
        self.by_number[capture.number] = capture
        asyncio.get_running_loop().add_reader(capture.pidfd, self._end, capture)

    async def _tell(self, capture: Capture) -> None:
        """Wait until all write. Raises NeatError when one refuses, and then none does."""
        told = [answer for s in self.replicas.slots for answer in self.replicas.tell_one(s, capture.told(s.number))]
        of_link = self.link.ask(capture.told(-1))
        try:
            await self.replicas.answers(told)
            if of_link is not None:
                await asyncio.wait([of_link], timeout=ANSWER_TIME)
                if refused := refusal(of_link):
                    raise refused
        except Exception as error:
            self._end(capture)
            raise NeatError(f"a capture was refused: {error}") from None

    def _end(self, capture: Capture) -> None:
        """Who looked is gone."""
        if self.by_number.get(capture.number) is not capture:
            return
        asyncio.get_running_loop().remove_reader(capture.pidfd)
        del self.by_number[capture.number]
        stop = Told({"op": "uncapture", "capture": capture.number})
        for slot in self.replicas.slots:
            self.replicas.ask(slot, stop)
        self.link.ask(stop)
        self.store.drop(capture.key)
        messages.close([capture.pidfd, *capture.memories])
        log.debug("capture %d (process %d) has ended", capture.number, capture.pid)

    def describe(self, capture: Capture) -> dict[str, Any]:
        """The answer to who asked for it; the memories that go with it are in the order of `places`."""
        numbers = [slot.number for slot in self.replicas.slots]
        return {
            "ok": True,
            "capture": capture.number,
            "places": [*numbers, None],
            "active": sorted(self.replicas.active),
        }
