"""One poller of the stack for all viewers, and what each viewer is sent."""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from neatstack.dashboard.picture import MEMORY, picture, sample
from neatstack.observe.client import Feed

MOST_VIEWERS = 64
WAITING = 16  # messages; a viewer that is further behind is not reading


class TooMany(Exception):
    """There are as many viewers as there may be."""


class Viewer:
    """What waits for one viewer."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[bytes] = asyncio.Queue(WAITING)
        self.dropped = asyncio.Event()

    def take(self, message: bytes) -> None:
        """Never waits: who does not read is dropped."""
        try:
            self.messages.put_nowait(message)
        except asyncio.QueueFull:
            self.dropped.set()


class Hub:
    """Asks the stack once a round, remembers what the charts show, and tells all viewers."""

    def __init__(self, feed: Feed, interval: float) -> None:
        self.feed, self.interval = feed, interval
        self.viewers: set[Viewer] = set()
        self.closed = asyncio.Event()
        self._samples: deque[dict[str, Any]] = deque(maxlen=MEMORY)
        self._message = message("state", picture(feed))

    async def run(self) -> None:
        """Go on until cancelled."""
        async for answered in self.feed.follow(self.interval):
            told = picture(self.feed)
            view = self.feed.view
            if answered and view is not None and view.seconds > 0:  # the first answer has no rates
                told["sample"] = sample(view, told["time"])
                self._samples.append(told["sample"])
            self._message = message("state", told)
            for viewer in self.viewers:
                viewer.take(self._message)

    def close(self) -> None:
        """Every viewer's stream ends."""
        self.closed.set()
        for viewer in self.viewers:
            viewer.dropped.set()

    @contextlib.contextmanager
    def viewer(self) -> Iterator[Viewer]:
        """A new viewer, who is told the past and then what happens. Raises TooMany."""
        if len(self.viewers) >= MOST_VIEWERS or self.closed.is_set():
            raise TooMany
        made = Viewer()
        events = [asdict(event) for event in self.feed.events]
        made.take(message("past", {"samples": list(self._samples), "events": events}))
        made.take(self._message)
        self.viewers.add(made)
        try:
            yield made
        finally:
            self.viewers.discard(made)


def message(kind: str, value: dict[str, Any]) -> bytes:
    """A server-sent event. JSON has no line ends of its own."""
    return f"event: {kind}\ndata: {json.dumps(value, separators=(',', ':'))}\n\n".encode()
