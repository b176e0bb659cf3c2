"""Sockets on their way from program to program (SCM_RIGHTS).

In a message of a Unix socket goes, in place of a socket of the stack, one end of a pair; we have the other. The kernel
says how long the socket is on its way: until the last copy of that end is closed, whether in a program or in a message
that nobody will read. So long NEAT_IN_FLIGHT holds the socket like a program, and its memory is kept here.
"""

import asyncio
import errno
import itertools
import os
import secrets
import select
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from neatstack.control import messages
from neatstack.control.line import Told
from neatstack.control.ports import Refused
from neatstack.control.replicas import Replicas
from neatstack.control.store import Entry, Store

IN_FLIGHT = 255  # NEAT_IN_FLIGHT
MOST = 4096  # sockets in flight
SHARE_OF_USER = MOST // 2  # of one user other than root
AGAIN = 0.01  # seconds until a replica's successor is asked


@dataclass(eq=False)
class Passed:
    """One of them, each time that it is sent."""

    number: int
    token: int
    uid: int  # of who has sent it
    binding: int  # 0: none
    memory: int  # the channel that it lives in,
    replica: int  # of a connection; -1: it is none
    socket: int  # and the slot
    end: int = -1  # ours, of the pair
    memories: dict[int, int] = field(default_factory=dict)  # memfds of that channel, by slot of the stack

    @property
    def key(self) -> str:
        return f"passed.{self.number}"

    @property
    def place(self) -> tuple[int, int, int]:
        """Of a connection."""
        return self.memory, self.replica, self.socket

    def to_data(self) -> dict[str, Any]:
        """For the keeper."""
        names = ("number", "token", "uid", "binding", "memory", "replica", "socket")
        return {**{name: getattr(self, name) for name in names}, "slots": list(self.memories)}

    @classmethod
    def from_entry(cls, entry: Entry) -> "Passed":
        slots = entry.data.pop("slots")
        end, *memories = entry.descriptors
        return cls(**entry.data, end=end, memories=dict(zip(slots, memories, strict=True)))


class InFlight:
    """All of them."""

    def __init__(self, store: Store, replicas: Replicas, on_end: Callable[[Passed], None]) -> None:
        self.store = store
        self.replicas = replicas
        self.on_end = on_end
        self.by_number: dict[int, Passed] = {}
        self._numbers = itertools.count(1)
        self._watched: dict[int, Passed] = {}  # by `end`
        self._ended: set[asyncio.Task[None]] = set()
        self._poll = select.epoll()
        asyncio.get_running_loop().add_reader(self._poll, self._hung_up)

    def __iter__(self) -> Iterator[Passed]:
        return iter(list(self.by_number.values()))

    def resume(self, entries: Iterable[Entry]) -> None:
        """A restarted manager has found these in the keeper."""
        for entry in entries:
            self._watch(Passed.from_entry(entry))
        self._numbers = itertools.count(max(self.by_number, default=0) + 1)

    def add(self, uid: int, binding: int, place: tuple[int, int, int], memories: dict[int, int]) -> tuple[Passed, int]:
        """One more, which nobody holds yet, and the receiver's end of the pair. Raises Refused."""
        if len(self.by_number) >= MOST or (uid and sum(one.uid == uid for one in self) >= SHARE_OF_USER):
            raise Refused(errno.ETOOMANYREFS)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        kept = {slot: os.dup(memory) for slot, memory in memories.items()}
        token = secrets.randbits(64) or 1
        passed = Passed(next(self._numbers), token, uid, binding, *place, ours.detach(), kept)
        self.store.put(passed.key, passed.to_data(), [passed.end, *kept.values()])
        self._watch(passed)
        return passed, theirs.detach()

    def find(self, number: int, token: int) -> Passed:
        """The one of that number, for who knows its token. Raises Refused."""
        passed = self.by_number.get(number)
        if passed is None or not secrets.compare_digest(passed.token.to_bytes(8, "big"), token.to_bytes(8, "big")):
            raise Refused(errno.EPERM)
        return passed

    async def share(self, passed: Passed, holder: int, other: int) -> None:
        """Program `other` holds what `holder` holds. Raises ReplicaError when it does not."""
        where = {"channel": passed.memory, "socket": passed.socket}
        await self._tell(passed.replica, Told({"op": "hold", **where, "holder": holder, "other": other}), lambda: True)

    async def _tell(self, number: int, told: Told, needed: Callable[[], bool]) -> None:
        """Have the replica do it, or whoever comes after it: doing it twice does no harm. Raises ReplicaError."""
        while number in self.replicas.active and needed():
            answer = self.replicas.ask(self.replicas.slots[number], told)
            if answer is not None:
                await self.replicas.answers([answer])
                if answer.done() and answer.exception() is None:
                    return
            await asyncio.sleep(AGAIN)

    def _watch(self, passed: Passed) -> None:
        self.by_number[passed.number] = passed
        self._watched[passed.end] = passed
        self._poll.register(passed.end, 0)  # no more than that the other end is closed

    def _hung_up(self) -> None:
        for end, _ in self._poll.poll(0):
            passed = self._watched.pop(end)
            self._poll.unregister(end)
            del self.by_number[passed.number]
            self.on_end(passed)
            task = asyncio.ensure_future(self._end(passed))
            self._ended.add(task)
            task.add_done_callback(self._ended.discard)

    async def _end(self, passed: Passed) -> None:
        told = Told({"op": "let_go", "channel": passed.memory, "socket": passed.socket})
        alone = lambda: all(other.place != passed.place for other in self)  # noqa: E731
        try:
            if passed.replica >= 0:
                await self._tell(passed.replica, told, alone)
        finally:
            self.store.drop(passed.key)
            messages.close([passed.end, *passed.memories.values()])
