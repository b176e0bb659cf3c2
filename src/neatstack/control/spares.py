"""Spares: replica processes already started and isolated, which wait for a slot to serve.

They are stored in the keeper under `spare.N`, so that a restarted manager finds them. Which slot one was given to is
stored only after it was told (replicas.py says why that is safe).
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from neatstack.control import launch, recovery
from neatstack.control.errors import NeatError
from neatstack.control.line import ControlLine
from neatstack.control.store import Entry, Store

log = logging.getLogger("neat.spares")

Spawn = Callable[[], tuple[int, int, socket.socket]]  # pid, pidfd, our end of its control socket

READY_TIME = 20.0  # seconds; a process that takes longer to become ready is killed
NICE = 5  # of a process that starts ahead: it takes CPU time that replicas and programs may want
PAUSE = 0.05  # seconds after an adoption before the next spare starts: it would compete with the replica for the CPU
POLL = 0.005  # seconds between two looks of one who waits for a spare
FAILURES = 3  # in a row: then nobody waits any longer
STEADY = 1.0  # seconds of life after which a spare's death is not taken for a failure to start


def set_nice(pid: int, value: int) -> None:
    """Its share of CPU time, if it is still there."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, value)


@dataclass(eq=False)
class Spare:
    """A process that waits, or starts in order to."""

    number: int
    pid: int
    pidfd: int
    line: ControlLine
    ready: bool = False
    started_at: float = 0.0  # monotonic seconds

    @property
    def key(self) -> str:
        return f"spare.{self.number}"


class Spares:
    """All spares of the stack."""

    def __init__(self, store: Store, spawn: Spawn, wanted: int, busy: Callable[[], bool]) -> None:
        self.store = store
        self.wanted = wanted
        self.waiting: list[Spare] = []  # the oldest first
        self.before_start: Callable[[], None] = lambda: None  # keys of those that were used are free then
        self._spawn = spawn
        self._busy = busy  # is a replica taking over?
        self._failures = 0  # in a row
        self._timer: asyncio.TimerHandle | None = None

    def adopt(self, number: int, entry: Entry) -> None:
        """A restarted manager has found this one in the keeper."""
        pidfd, control = entry.descriptors
        self._add(number, entry.data["pid"], pidfd, socket.socket(fileno=control), entry.data["ready"])

    def take(self) -> Spare:
        """The one to use: ready, else starting, else started now. It stays stored until `used`. Raises OSError."""
        for spare in self.waiting:
            if spare.ready:
                self.waiting.remove(spare)
                return spare
        if not self.waiting:
            self._start()
        spare = self.waiting.pop(0)
        set_nice(spare.pid, 0)
        return spare

    async def one_ready(self, limit: float) -> None:
        """Wait until one is ready, and start one if none is there; `limit` seconds. Raises NeatError."""
        end = time.monotonic() + limit
        failures = self._failures
        try:
            while not any(spare.ready for spare in self.waiting):
                if time.monotonic() > end or self._failures >= failures + FAILURES:
                    raise NeatError("no spare process becomes ready; `neat status` and the log tell more")
                if not self.waiting and self._timer is None:
                    self._start()
                await asyncio.sleep(POLL)
        except OSError as error:
            raise NeatError(f"no process can be started: {error.strerror}; try again") from None

    def used(self, spare: Spare) -> None:
        """It serves a slot, and is stored as the slot's."""
        self.store.drop(spare.key)

    def discard(self, spare: Spare) -> None:
        """It was taken, and is of no use. Returns when it is gone."""
        launch.end(spare.pidfd)
        self.waiting.append(spare)  # where its death is looked for

    def refill(self, after: float = PAUSE) -> None:
        """Start what is missing, `after` seconds from now or later."""
        if self._timer is None and len(self.waiting) < self.wanted:
            self._timer = asyncio.get_running_loop().call_later(after, self._refill)

    def close(self) -> None:
        """Forget all, as when this manager ends; the processes stay."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
        for spare in self.waiting:
            loop.remove_reader(spare.pidfd)
            os.close(spare.pidfd)
            spare.line.close()
        self.waiting.clear()

    def _refill(self) -> None:
        self._timer = None
        if self._busy():
            self.refill()
            return
        if len(self.waiting) < self.wanted:
            try:
                self._start()
            except OSError as error:
                log.error("a spare cannot be started: %s", error)
                self._failures += 1
            self.refill(recovery.delay(self._failures))  # one at a time

    def _start(self) -> None:
        self.before_start()
        pid, pidfd, control = self._spawn()
        set_nice(pid, NICE)
        taken = {spare.number for spare in self.waiting}
        number = next(n for n in range(len(taken) + 1) if n not in taken)
        self._remember(self._add(number, pid, pidfd, control, False))

    def _add(self, number: int, pid: int, pidfd: int, control: socket.socket, ready: bool) -> Spare:
        loop = asyncio.get_running_loop()
        spare = Spare(number, pid, pidfd, ControlLine(control, lambda said: self._said(spare, said)), ready)
        spare.started_at = time.monotonic()
        self.waiting.append(spare)
        loop.add_reader(pidfd, self._died, spare)
        loop.call_later(READY_TIME, self._check, spare)
        return spare

    def _said(self, spare: Spare, message: dict[str, Any]) -> None:
        if message.get("ready"):
            spare.ready = True
            set_nice(spare.pid, 0)
            self._remember(spare)

    def _check(self, spare: Spare) -> None:
        if spare in self.waiting and not spare.ready:
            log.warning("spare (pid %d) does not become ready: killed", spare.pid)
            signal.pidfd_send_signal(spare.pidfd, signal.SIGKILL)

    def _remember(self, spare: Spare) -> None:
        data = {"process": True, "pid": spare.pid, "ready": spare.ready}
        self.store.put(spare.key, data, [spare.pidfd, spare.line.sock.fileno()])

    def _died(self, spare: Spare) -> None:
        asyncio.get_running_loop().remove_reader(spare.pidfd)
        log.warning("spare (pid %d) %s", spare.pid, recovery.describe(launch.exit_code(spare.pidfd)))
        launch.reap(spare.pidfd)
        os.close(spare.pidfd)
        spare.line.close()
        self.waiting.remove(spare)
        self.store.drop(spare.key)
        failed = not spare.ready or time.monotonic() - spare.started_at < STEADY
        self._failures = self._failures + 1 if failed else 0
        self.refill(recovery.delay(self._failures))
