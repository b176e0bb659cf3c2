"""The replicas' processes: started, told, watched, replaced.

A slot is for good: its queue, doorbell, page and link sockets stay while incarnations come and go. What a new
incarnation must know (channels, listeners, grants) is not kept here: `contents` tells it, from the manager's tables,
so that a request that comes while a replica is down is not lost.
"""

import asyncio
import functools
import itertools
import logging
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from neatstack.control import launch, messages, pages
from neatstack.control.errors import NeatError
from neatstack.control.store import Entry, Store

log = logging.getLogger("neat.replicas")

ANSWER_TIME = 5.0  # seconds; a replica that takes longer to answer hangs, and is killed
READY_TIME = 20.0
DEATHS_AT_START = 3
QUICK = 1.0  # a process that dies within so many seconds of its start is held back
BACKOFF_MOST = 2.0

Spawn = Callable[["Slot"], tuple[int, int, socket.socket]]  # pid, pidfd, our end of its control socket


class ReplicaGone(Exception):
    """The replica has died; its next incarnation will be told everything."""


class ReplicaError(Exception):
    """The replica refuses a request; `args[0]` says why."""


@dataclass(frozen=True)
class Told:
    """One request to a replica."""

    message: dict[str, Any]
    descriptors: tuple[int, ...] = ()


class ControlLine:
    """Requests to one incarnation and their answers, in order, without ever blocking."""

    def __init__(self, sock: socket.socket, ready: Callable[[], None]) -> None:
        self.sock = sock
        self._ready = ready
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(time.monotonic_ns())  # so that a restarted manager repeats none
        self._unsent: deque[tuple[dict[str, Any], list[int]]] = deque()
        self._waiting: dict[int, asyncio.Future[None]] = {}
        sock.setblocking(False)
        self._loop.add_reader(sock, self._receive)

    def request(self, told: Told) -> "asyncio.Future[None]":
        """Send; the future is done when the replica has answered. Its errors are ReplicaError and ReplicaGone."""
        number = next(self._numbers)
        answer: asyncio.Future[None] = self._loop.create_future()
        answer.add_done_callback(_retrieve)
        self._waiting[number] = answer
        message = {**told.message, "id": number}
        if self._unsent or not self._send(message, list(told.descriptors)):
            if not self._unsent:
                self._loop.add_writer(self.sock, self._flush)
            # whoever asked may close its descriptors before this message gets its turn
            self._unsent.append((message, [os.dup(descriptor) for descriptor in told.descriptors]))
        return answer

    def waits_for(self, answers: set["asyncio.Future[None]"]) -> bool:
        """Is one of `answers` owed by this incarnation?"""
        return any(answer in answers for answer in self._waiting.values())

    def close(self) -> None:
        """The incarnation is gone: fail what waits for it."""
        self._loop.remove_reader(self.sock)
        self._loop.remove_writer(self.sock)
        self.sock.close()
        for _, descriptors in self._unsent:
            messages.close(descriptors)
        self._unsent.clear()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ReplicaGone())
        self._waiting.clear()

    def _send(self, message: dict[str, Any], descriptors: list[int]) -> bool:
        try:
            messages.send(self.sock, message, descriptors)
        except BlockingIOError:
            return False
        except OSError:
            return True  # it is dead, which its pidfd tells
        return True

    def _flush(self) -> None:
        while self._unsent:
            message, descriptors = self._unsent[0]
            if not self._send(message, descriptors):
                return
            messages.close(descriptors)
            self._unsent.popleft()
        self._loop.remove_writer(self.sock)

    def _receive(self) -> None:
        try:
            received = messages.receive(self.sock)
        except BlockingIOError:
            return
        except (OSError, ValueError) as error:
            log.warning("a replica sent something strange: %s", error)
            return
        if received is None:
            self._loop.remove_reader(self.sock)
            return
        message, descriptors = received
        messages.close(descriptors)
        if message.get("ready"):
            self._ready()
            return
        answer = self._waiting.pop(message.get("id", 0), None)
        if answer is None or answer.done():
            return
        if message.get("ok"):
            answer.set_result(None)
        else:
            answer.set_exception(ReplicaError(str(message.get("error"))))


def _retrieve(future: "asyncio.Future[None]") -> None:
    """Nobody needs to wait for an answer: an error that nobody asked for is not worth a warning of asyncio."""
    if not future.cancelled():
        future.exception()


@dataclass
class Slot:
    """Replica i: what stays, and the incarnation that runs now."""

    number: int
    region: int  # descriptors
    doorbell: int
    page: int
    link_ours: int  # the replica's end of the socket to link
    link_theirs: int  # link's end
    incarnation: int = 0
    pid: int = 0
    pidfd: int = -1
    line: ControlLine | None = None
    state: str = "stopped"  # stopped, starting, running
    started_at: float = 0.0  # monotonic seconds
    quick_deaths: int = 0
    fate: str = ""  # of the last incarnation that died
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    def create(cls, number: int, region_size: int) -> "Slot":
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        return cls(
            number,
            pages.memory(f"region-{number}", region_size),
            pages.doorbell(),
            pages.memory(f"replica-{number}", pages.REPLICA_PAGE_SIZE),
            ours.detach(),
            theirs.detach(),
        )

    @functools.cached_property
    def page_read_only(self) -> int:
        """The page, for programs."""
        return pages.read_only(self.page)

    @property
    def descriptors(self) -> list[int]:
        return [self.region, self.doorbell, self.page, self.link_ours, self.link_theirs]


class Replicas:
    """All slots of the stack."""

    def __init__(
        self,
        store: Store,
        slots: list[Slot],
        region_size: int,
        spawn: Spawn,
        contents: Callable[[int], Iterable[Told]],
    ) -> None:
        self.store = store
        self.slots = slots
        self.active: set[int] = set()  # the slots that shall have a process
        self._region_size = region_size
        self._spawn = spawn
        self._contents = contents
        self._tasks: set[asyncio.Task[None]] = set()
        self._trouble = asyncio.Event()  # a replica dies again and again

    async def start(self, numbers: Iterable[int]) -> None:
        """Start these slots and wait until all are ready. Raises NeatError when one does not."""
        chosen = [self.slots[number] for number in numbers]
        self.active |= {slot.number for slot in chosen}
        for slot in chosen:
            self._launch(slot)
        ready = asyncio.gather(*(slot.ready.wait() for slot in chosen))
        trouble = asyncio.create_task(self._trouble.wait())
        either: set[asyncio.Future[Any]] = {ready, trouble}
        await asyncio.wait(either, timeout=READY_TIME, return_when=asyncio.FIRST_COMPLETED)
        trouble.cancel()
        if not ready.done():
            ready.cancel()
            why = next((f": its process {slot.fate}" for slot in chosen if slot.fate), " in time")
            raise NeatError(f"a replica does not become ready{why}")

    def adopt(self, number: int, process: Entry) -> None:
        """A restarted manager takes a running incarnation over, without the incarnation noticing."""
        slot = self.slots[number]
        self.active.add(number)
        pidfd, control = process.descriptors
        slot.incarnation, slot.pid = process.data["incarnation"], process.data["pid"]
        self._watch(slot, pidfd, socket.socket(fileno=control))
        if process.data["ready"]:
            slot.state = "running"
            slot.ready.set()

    def restart(self, number: int) -> None:
        """The slot shall have a process and has none."""
        self.active.add(number)
        self._launch(self.slots[number])

    def tell(self, *requests: Told) -> list["asyncio.Future[None]"]:
        """Send to every running replica at once, in this order. Those that start later learn it from `contents`."""
        lines = [slot.line for slot in self.slots if slot.state == "running" and slot.line is not None]
        return [line.request(told) for line in lines for told in requests]

    def tell_one(self, slot: Slot, told: Told) -> list["asyncio.Future[None]"]:
        """As `tell`, to one replica."""
        return [slot.line.request(told)] if slot.state == "running" and slot.line is not None else []

    async def answers(self, told: list["asyncio.Future[None]"]) -> None:
        """Wait for the answers to `tell`. A replica that has died is no error; one that does not answer is killed.

        Raises ReplicaError when one refuses.
        """
        if not told:
            return
        _, late = await asyncio.wait(told, timeout=ANSWER_TIME)
        for slot in self.slots:
            if slot.line is not None and slot.line.waits_for(late):
                self.kill(slot, "does not answer")
        for answer in told:
            if answer.done() and isinstance(answer.exception(), ReplicaError):
                answer.result()

    def kill(self, slot: Slot, why: str) -> None:
        """End the incarnation; its death is noticed and it is replaced."""
        log.warning("replica %d (pid %d) %s: killed", slot.number, slot.pid, why)
        if slot.pidfd >= 0:
            signal.pidfd_send_signal(slot.pidfd, signal.SIGKILL)

    def _launch(self, slot: Slot) -> None:
        """Start the next incarnation of a slot that has no process."""
        slot.incarnation += 1
        slot.state = "starting"
        slot.ready.clear()
        slot.started_at = time.monotonic()
        pid, pidfd, control = self._spawn(slot)
        slot.pid = pid
        self._watch(slot, pidfd, control)
        self._remember(slot)

    def _watch(self, slot: Slot, pidfd: int, control: socket.socket) -> None:
        slot.pidfd = pidfd
        slot.state = "starting"
        slot.line = ControlLine(control, lambda: self._is_ready(slot))
        loop = asyncio.get_running_loop()
        loop.add_reader(pidfd, self._died, slot)
        loop.call_later(READY_TIME, self._check_ready, slot, slot.incarnation)

    def _check_ready(self, slot: Slot, incarnation: int) -> None:
        if slot.incarnation == incarnation and slot.state == "starting":
            self.kill(slot, "does not become ready")

    def _remember(self, slot: Slot) -> None:
        assert slot.line is not None
        data = {"process": True, "pid": slot.pid, "incarnation": slot.incarnation, "ready": slot.ready.is_set()}
        self.store.put(f"process.{slot.number}", data, [slot.pidfd, slot.line.sock.fileno()])

    def _is_ready(self, slot: Slot) -> None:
        """The incarnation serves packets: tell it everything that the stack has."""
        assert slot.line is not None
        slot.state = "running"
        for told in self._contents(slot.number):
            slot.line.request(told).add_done_callback(functools.partial(_log_refusal, slot, told))
        slot.ready.set()
        self._remember(slot)
        log.info("replica %d: incarnation %d is ready (pid %d)", slot.number, slot.incarnation, slot.pid)

    def _died(self, slot: Slot) -> None:
        """The paper's recovery: another incarnation with the listeners, but without the connections, takes the slot."""
        asyncio.get_running_loop().remove_reader(slot.pidfd)
        slot.fate = launch.fate(slot.pidfd)
        log.warning("replica %d: incarnation %d (pid %d) %s", slot.number, slot.incarnation, slot.pid, slot.fate)
        os.close(slot.pidfd)
        slot.pidfd = -1
        assert slot.line is not None
        slot.line.close()
        slot.line = None
        slot.state = "stopped"
        if slot.number in self.active:
            quick = time.monotonic() - slot.started_at < QUICK
            slot.quick_deaths = slot.quick_deaths + 1 if quick else 0
            if slot.quick_deaths >= DEATHS_AT_START:
                self._trouble.set()
            self._later(self._replace(slot))

    async def _replace(self, slot: Slot) -> None:
        if slot.quick_deaths:
            await asyncio.sleep(min(0.02 * 2**slot.quick_deaths, BACKOFF_MOST))
        os.close(slot.region)
        slot.region = pages.memory(f"region-{slot.number}", self._region_size)
        self.remember_slot(slot)
        try:
            self._launch(slot)
        except OSError as error:
            log.error("replica %d cannot be started: %s", slot.number, error)
            slot.state = "stopped"
            slot.quick_deaths += 1
            self._later(self._replace(slot))

    def remember_slot(self, slot: Slot) -> None:
        """Store what stays of the slot."""
        self.store.put(f"slot.{slot.number}", {"incarnation": slot.incarnation}, slot.descriptors)

    def _later(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _log_refusal(slot: Slot, told: Told, answer: "asyncio.Future[None]") -> None:
    if isinstance(answer.exception(), ReplicaError):
        log.error("replica %d refuses %s: %s", slot.number, told.message, answer.exception())
