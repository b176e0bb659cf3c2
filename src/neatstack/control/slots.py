"""A slot: replica i of the stack, whichever process serves it."""

import asyncio
import functools
import mmap
import socket
from dataclasses import dataclass, field
from typing import Any

from neatstack.control import pages
from neatstack.control.code import Code
from neatstack.control.line import Answer, ControlLine, Told
from neatstack.control.recovery import How, Purpose, Recovery, Stage

SLEEP_SEQ = 3  # struct neat_replica_page, as 32-bit words
PROGRESS, SLEPT = 2, 3  # as 64-bit words


@dataclass(eq=False)
class Slot:
    """What stays, and the process that serves it now."""

    number: int
    tap: int  # descriptors
    region: int
    doorbell: int
    page: int
    link_ours: int  # the replica's end of the socket to link
    link_theirs: int  # link's end
    incarnation: int = 0
    own_death_ns: int | None = None  # CLOCK_MONOTONIC of the last death of itself
    pid: int = 0
    pidfd: int = -1
    line: ControlLine | None = None
    first: tuple[Answer, ...] = ()  # the answers to `adopt` and `run`
    stage: Stage | None = None  # None: no process
    how: How = "fresh"  # how this incarnation was started
    code: Code | None = None  # what it runs
    version: str = ""  # that it says it has
    successor: Code | None = None  # what the next incarnation is to run, if that is settled
    fallback: Code | None = None  # what runs again should this incarnation, or that one, not be able to take over
    killed: str | None = None  # why we have killed it
    pardoned: bool = False  # and that was for no fault of its own
    next_how: How | None = None  # how its successor is to start, whatever it dies of
    retiring: bool = False  # it is being stopped for good
    purpose: Purpose | None = None  # it is being replaced on purpose
    quit_ns: int | None = None  # CLOCK_MONOTONIC, when it said that it stops
    failures: int = 0  # in a row
    fate: str = ""  # of the last incarnation that died
    recovery: Recovery | None = None  # under way
    served: bool = False  # it has once been served
    recoveries: int = 0
    last_recovery: Recovery | None = None
    replaced: asyncio.Future[Recovery] | None = None  # who waits for the end of the next recovery
    ready: asyncio.Event = field(default_factory=asyncio.Event)  # it serves

    @classmethod
    def create(cls, number: int, tap: int, region_size: int) -> "Slot":
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        return cls(
            number,
            tap,
            pages.memory(f"region-{number}", region_size),
            pages.doorbell(),
            pages.memory(f"replica-{number}", pages.REPLICA_PAGE_SIZE),
            ours.detach(),
            theirs.detach(),
        )

    @classmethod
    def from_data(cls, number: int, tap: int, data: dict[str, Any], descriptors: list[int]) -> "Slot":
        """What `to_data` and `descriptors` say."""
        region, doorbell, page, ours, theirs = descriptors
        return cls(number, tap, region, doorbell, page, ours, theirs, data["incarnation"], data["own_death_ns"])

    def to_data(self) -> dict[str, Any]:
        """For the keeper: what stays."""
        return {"incarnation": self.incarnation, "own_death_ns": self.own_death_ns}

    @property
    def descriptors(self) -> list[int]:
        return [self.region, self.doorbell, self.page, self.link_ours, self.link_theirs]

    @property
    def state(self) -> str:
        """For people."""
        return self.stage.value if self.stage else "stopped"

    @functools.cached_property
    def page_read_only(self) -> int:
        """The page, for programs."""
        return pages.read_only(self.page)

    @functools.cached_property
    def _view(self) -> memoryview:
        return memoryview(mmap.mmap(self.page, pages.REPLICA_PAGE_SIZE, prot=mmap.PROT_READ))

    @functools.cached_property
    def words(self) -> memoryview:
        """The page as 32-bit words, to read."""
        return self._view.cast("I")

    @functools.cached_property
    def long_words(self) -> memoryview:
        """The page as 64-bit words, to read."""
        return self._view.cast("Q")

    @property
    def has_taken_over(self) -> bool:
        """Has the process answered that it serves?"""
        return bool(self.first) and all(answer.done() and answer.exception() is None for answer in self.first)

    def adopt_request(self, secrets: dict[str, str]) -> Told:
        """How a spare is given the slot. `secrets`: of the stack, see dataplane/engine.py; in hexadecimal."""
        message = {"op": "adopt", "replica": self.number, "incarnation": self.incarnation, "how": self.how}
        message.update(secrets)
        return Told(message, (self.region, self.tap, self.doorbell, self.page, self.link_ours))
