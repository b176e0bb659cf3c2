"""Rejuvenation again and again, at times that nobody can foretell.

When it is due next is stored in the keeper, so that another manager goes on with it: it neither begins at once, nor
puts it off for ever because managers die more often than that.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

from neatstack.control import durations
from neatstack.control.errors import NeatError
from neatstack.control.store import Entry, Store

log = logging.getLogger("neat.schedule")

KEY = "rejuvenation"
GRACE = 2.0  # seconds that a new manager leaves, should it be due already
AGAIN = 5.0  # seconds until it is tried again because something else is under way
JITTER = 0.1
CHANCE = secrets.SystemRandom()

Between = Callable[[float, float], float]


class Schedule:
    """When `rejuvenate` is to be called; `busy` tells what else is under way. Times are seconds of CLOCK_MONOTONIC."""

    def __init__(
        self,
        store: Store,
        rejuvenate: Callable[[], Awaitable[Any]],
        busy: Callable[[], str | None],
        between: Between = CHANCE.uniform,
    ) -> None:
        self.store = store
        self.every: float | None = None  # None: never
        self.jitter = JITTER
        self.due = 0.0
        self._rejuvenate = rejuvenate
        self._busy = busy
        self._between = between
        self._timer: asyncio.TimerHandle | None = None
        self._running: asyncio.Task[None] | None = None

    def set(self, every: object, jitter: object = None) -> dict[str, Any]:
        """From now on: `every` so many seconds, each time longer or shorter by up to a `jitter` part; 0: never again.

        Raises NeatError for what makes no sense.
        """
        part = JITTER if jitter is None else jitter
        if not isinstance(part, int | float) or isinstance(part, bool) or not 0 <= part <= 1:
            raise NeatError(f"the jitter {part!r} is no fraction; choose one from 0 to 1, such as 0.2")
        try:
            self.every = None if every == 0 and every is not False else durations.seconds(every)
        except ValueError as error:
            raise NeatError(str(error)) from None
        self.jitter = float(part)
        self._plan()
        return {"rejuvenation": self.status()}

    def resume(self, entry: Entry | None) -> None:
        """A former manager has died."""
        if entry is None:
            return
        self.every, self.jitter = entry.data["every"], entry.data["jitter"]
        self.due = max(entry.data["due"], time.monotonic() + GRACE)
        self._wait(self.due)

    def status(self) -> dict[str, Any] | None:
        """For `neat status`."""
        if self.every is None:
            return None
        left = max(0.0, self.due - time.monotonic())
        return {"every": self.every, "jitter": self.jitter, "next_in": round(left, 3)}

    def stop(self) -> None:
        """Call no more, as when this manager ends."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _plan(self) -> None:
        """Choose the next time, and store it."""
        self.stop()
        if self.every is None:
            self.store.drop(KEY)
            return
        self.due = time.monotonic() + self.every * (1 + self._between(-self.jitter, self.jitter))
        self.store.put(KEY, {"every": self.every, "jitter": self.jitter, "due": self.due})
        self._wait(self.due)

    def _wait(self, until: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(max(0.0, until - time.monotonic()), self._begin)

    def _begin(self) -> None:
        if what := self._busy():
            log.info("rejuvenation is due and waits: %s is under way", what)
            self._wait(time.monotonic() + AGAIN)
            return
        self._plan()  # before: one that the manager dies of is not tried again at once
        self._running = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            await self._rejuvenate()
        except NeatError as error:
            log.error("a rejuvenation has failed: %s", error)
        except Exception:
            log.exception("a rejuvenation has failed")
