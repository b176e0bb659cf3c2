"""Spares: replica processes already started and isolated, which wait for a slot to serve.

Each runs the code that is to be used now, or, during an upgrade, another one's (code.py).
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
from neatstack.control.code import Code
from neatstack.control.errors import NeatError
from neatstack.control.line import ControlLine
from neatstack.control.store import Entry, Store

log = logging.getLogger("neat.spares")

Spawn = Callable[[Code], tuple[int, int, socket.socket]]  # pid, pidfd, our end of its control socket

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
    code: Code
    version: str  # that it says it has
    ready: bool = False
    unwanted: bool = False  # it is being ended
    started_at: float = 0.0  # monotonic seconds

    @property
    def key(self) -> str:
        return f"spare.{self.number}"


class Spares:
    """All spares of the stack."""

    def __init__(self, store: Store, code: Code, spawn: Spawn, wanted: int, busy: Callable[[], bool]) -> None:
        self.store = store
        self.code = code  # to start from
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
        data = entry.data
        spare = self._add(number, data["pid"], pidfd, socket.socket(fileno=control), Code.from_data(data["code"]))
        spare.ready, spare.version = data["ready"], data["version"]

    def take(self, code: Code) -> Spare:
        """The one to use: ready, else starting, else started now. It stays stored until `used`. Raises OSError."""
        for spare in self._of(code):
            if spare.ready:
                self.waiting.remove(spare)
                return spare
        spare = next(iter(self._of(code)), None) or self._start(code)
        self.waiting.remove(spare)
        set_nice(spare.pid, 0)
        return spare

    async def one_ready(self, limit: float, code: Code | None = None) -> None:
        """Wait until one is ready, and start one if none is there; `limit` seconds. Raises NeatError."""
        code = code or self.code
        end = time.monotonic() + limit
        failures = self._failures
        try:
            while not any(spare.ready for spare in self._of(code)):
                if time.monotonic() > end or self._failures >= failures + FAILURES:
                    what = f"no process of version {code.version} becomes ready"
                    raise NeatError(f"{what}; `neat status` and the log tell more")
                if not self._of(code) and (self._timer is None or code != self.code):
                    self._start(code)
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

    def drop_others(self) -> None:
        """End those that run other code than what is to be used."""
        for spare in self.waiting:
            if spare.code != self.code and not spare.unwanted:
                spare.unwanted, spare.ready = True, False
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(spare.pidfd, signal.SIGKILL)

    def refill(self, after: float = PAUSE) -> None:
        """Start what is missing, `after` seconds from now or later."""
        if self._timer is None and len(self._of(self.code)) < self.wanted:
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

    def _of(self, code: Code) -> list[Spare]:
        """Those that run this code, the oldest first."""
        return [spare for spare in self.waiting if spare.code == code and not spare.unwanted]

    def _refill(self) -> None:
        self._timer = None
        if self._busy():
            self.refill()
            return
        if len(self._of(self.code)) < self.wanted:
            try:
                self._start(self.code)
            except OSError as error:
                log.error("a spare cannot be started: %s", error)
                self._failures += 1
            self.refill(recovery.delay(self._failures))  # one at a time

    def _start(self, code: Code) -> Spare:
        self.before_start()
        pid, pidfd, control = self._spawn(code)
        set_nice(pid, NICE)
        taken = {spare.number for spare in self.waiting}
        number = next(n for n in range(len(taken) + 1) if n not in taken)
        spare = self._add(number, pid, pidfd, control, code)
        self._remember(spare)
        return spare

    def _add(self, number: int, pid: int, pidfd: int, control: socket.socket, code: Code) -> Spare:
        loop = asyncio.get_running_loop()
        line = ControlLine(control, lambda said: self._said(spare, said))
        spare = Spare(number, pid, pidfd, line, code, code.version)
        spare.started_at = time.monotonic()
        self.waiting.append(spare)
        loop.add_reader(pidfd, self._died, spare)
        loop.call_later(READY_TIME, self._check, spare)
        return spare

    def _said(self, spare: Spare, message: dict[str, Any]) -> None:
        if message.get("ready"):
            spare.ready = True
            spare.version = str(message.get("version", spare.version))
            set_nice(spare.pid, 0)
            self._remember(spare)

    def _check(self, spare: Spare) -> None:
        if spare in self.waiting and not spare.ready:
            log.warning("spare (pid %d) does not become ready: killed", spare.pid)
            signal.pidfd_send_signal(spare.pidfd, signal.SIGKILL)

    def _remember(self, spare: Spare) -> None:
        data = {"process": True, "pid": spare.pid, "ready": spare.ready, "version": spare.version}
        data["code"] = spare.code.to_data()
        self.store.put(spare.key, data, [spare.pidfd, spare.line.sock.fileno()])

    def _died(self, spare: Spare) -> None:
        asyncio.get_running_loop().remove_reader(spare.pidfd)
        if not spare.unwanted:
            log.warning("spare (pid %d) %s", spare.pid, recovery.describe(launch.exit_code(spare.pidfd)))
        launch.reap(spare.pidfd)
        os.close(spare.pidfd)
        spare.line.close()
        self.waiting.remove(spare)
        self.store.drop(spare.key)
        failed = not spare.ready or time.monotonic() - spare.started_at < STEADY
        if not spare.unwanted:
            self._failures = self._failures + 1 if failed else 0
        self.refill(recovery.delay(self._failures))
