"""The watchdog: a replica that has work and makes no progress for 100 ms is killed, and its slot given to a spare.

Replicas are watched through the page that each writes (`sleep_seq`, `progress_ns`): no call, no message. One that
moves is well. One that sleeps is well as long as nothing waits for it. What stands still with work in hand is looked at
closely before it is killed: it may only be short of CPU time, which others use.
"""

import asyncio
import functools
import logging
import os
import select
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from neatstack.control.programs import Programs
from neatstack.control.recovery import Stage
from neatstack.control.replicas import Replicas
from neatstack.control.slots import PROGRESS, SLEEP_SEQ, Slot

log = logging.getLogger("neat.watchdog")

HANG = 100_000_000  # ns without progress
PERIOD = 25_000_000  # ns between two looks
PERIOD_ASLEEP = 50_000_000  # when all sleep
LATE = 100_000_000  # ns that we ourselves may be late; more, and what we have seen means nothing
BUSY = 20_000_000  # ns of CPU time that no batch takes
PATIENCE = 1_000_000_000  # ns after which it does not matter why


def cpu_time(pid: int) -> int:
    """ns that the process has run. 0 if it is gone."""
    try:
        return time.clock_gettime_ns((~pid << 3) | 2)  # CPUCLOCK_SCHED of the whole process
    except OSError:
        return 0


def is_runnable(pid: int) -> bool:
    """Does the process run, or would if it had a CPU?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "R"
    except OSError:
        return True  # gone, which its pidfd tells


@dataclass(frozen=True)
class Senses:
    """What the judgement of one process needs to know of the machine."""

    cpu_time: Callable[[int], int] = cpu_time
    is_runnable: Callable[[int], bool] = is_runnable


class Watch:
    """One replica, as the watchdog has seen it."""

    def __init__(self, senses: Senses) -> None:
        self._senses = senses
        self._seen: tuple[int, int, int] | None = None  # incarnation, sleep_seq, progress_ns
        self.since: int | None = None  # when it was first seen standing still with work
        self._used = 0  # CPU time at that moment

    def forget(self) -> None:
        """What was seen means nothing any more."""
        self._seen = self.since = None

    def hangs(self, now: int, pid: int, seen: tuple[int, int, int], has_work: Callable[[], bool]) -> bool:
        """Take a look. `has_work` is asked only about one that sleeps and stands still."""
        if seen != self._seen:
            moved, self._seen, self.since = True, seen, None
        else:
            moved = False
        if seen[1] & 1 and (moved or not has_work()):
            self.since = None
            return False
        if self.since is None:
            self.since, self._used = now, self._senses.cpu_time(pid)
            return False
        if now - self.since < HANG:
            return False
        if now - self.since >= PATIENCE or self._senses.cpu_time(pid) - self._used >= BUSY:
            return True
        return not self._senses.is_runnable(pid)


class Watchdog:
    """Looks at all replicas, again and again."""

    def __init__(
        self,
        replicas: Replicas,
        programs: Programs,
        senses: Senses | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.replicas = replicas
        self.programs = programs
        self._clock = clock
        self._watches = [Watch(senses or Senses()) for _ in replicas.slots]
        self._due = clock()
        self._timer: asyncio.TimerHandle | None = None
        self._poll = select.poll()
        for slot in replicas.slots:
            self._poll.register(slot.tap, select.POLLIN)

    def run(self) -> None:
        """Look from now on, until `stop`. By timers, not in a task: most of what an idle stack costs is this."""
        try:
            wait = self.look()
        except Exception:
            log.exception("the watchdog has stumbled")
            wait = PERIOD
        self._timer = asyncio.get_running_loop().call_later(wait / 1e9, self.run)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def look(self) -> int:
        """Look once at all; kill what hangs. Returns the ns until the next look is due."""
        now = self._clock()
        if now - self._due > LATE:  # we were stopped, and so perhaps was everybody
            for watch in self._watches:
                watch.forget()
        readable: set[int] | None = None  # descriptors of queues; asked for once a look, if at all
        asleep = True

        def has_work(slot: Slot) -> bool:
            nonlocal readable
            if readable is None:
                readable = {descriptor for descriptor, _ in self._poll.poll(0)}
            if slot.tap in readable:
                return True
            if any(program.has_commands(slot.number) for program in self.programs):
                os.eventfd_write(slot.doorbell, 1)  # a program may leave a command for later: now it is for now
                return True
            return False

        period = PERIOD_ASLEEP
        for slot, watch in zip(self.replicas.slots, self._watches, strict=True):
            if slot.stage is not Stage.RUNNING or slot.killed is not None:
                watch.forget()
                continue
            words = slot.words
            seen = slot.incarnation, words[SLEEP_SEQ], slot.long_words[PROGRESS]
            if watch.hangs(now, slot.pid, seen, functools.partial(has_work, slot)):
                self.replicas.kill(slot, "it made no progress for 100 ms")
            asleep = asleep and bool(seen[1] & 1)
            if watch.since is not None and watch.since + HANG > now:  # be there when its time is up
                period = min(period, watch.since + HANG - now)
        period = min(period, PERIOD_ASLEEP if asleep else PERIOD)
        self._due = self._clock() + period
        return period
