"""control.sock for programs that watch a stack all the time: asyncio, and no answer is a state, not an error.

    feed = Feed(rundir.find(None))
    async for _ in feed.follow(interval=1.0):
        draw(feed.view, feed.events, feed.problem)

A manager that is being restarted does not answer for some tenths of a second; `problem` says so, and the next round
finds its successor.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from neatstack.control import rundir
from neatstack.control.errors import NeatError
from neatstack.observe.rates import HISTORY, Meter, StackView, is_number

LONGEST = 1 << 24  # bytes of an answer: thousands of programs
PATIENCE = 2.0  # seconds for an answer to a question
COMMAND_LIMIT = 120.0  # seconds for a command, which may wait until connections have been taken over
EVENTS = 500  # remembered


class Client:
    """One connection to a stack's control.sock, opened when it is needed and again after an error.

    For questions: one whose connection has ended since the last is asked again. What changes something goes by
    `command`.
    """

    def __init__(self, name: str, limit: float = PATIENCE) -> None:
        self.name, self.limit = name, limit
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, **request: Any) -> dict[str, Any]:
        """The answer, within the limit. Raises NeatError with one line: what the stack refuses, or why none came."""
        try:
            async with asyncio.timeout(self.limit):
                answer = await self._ask_anew(json.dumps(request).encode() + b"\n")
        except BaseException as error:
            self.close()  # a late answer would be taken for the next one's
            if not isinstance(error, OSError | ValueError | TimeoutError):
                raise
            raise NeatError(self._why(error)) from None
        if "error" in answer:
            raise NeatError(str(answer["error"]))
        return answer

    def close(self) -> None:
        """Does nothing twice; the next question opens it again."""
        if self._streams:
            self._streams[1].close()
            self._streams = None

    async def _ask_anew(self, request: bytes) -> dict[str, Any]:
        """The connection of the last question may lead to a manager that is no more, while its successor is there."""
        used = self._streams is not None
        try:
            return await self._exchange(request)
        except ConnectionError:
            if not used:
                raise
            self.close()
            return await self._exchange(request)

    async def _exchange(self, request: bytes) -> dict[str, Any]:
        if self._streams is None:
            path = rundir.directory(self.name) / "control.sock"
            self._streams = await asyncio.open_unix_connection(path, limit=LONGEST)
        reader, writer = self._streams
        writer.write(request)
        await writer.drain()
        line = await reader.readline()
        if not line.endswith(b"\n"):
            raise ConnectionResetError
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise ValueError("not an object")
        return answer

    def _why(self, error: BaseException) -> str:
        if isinstance(error, PermissionError):
            return no_right(self.name)
        if not rundir.is_running(self.name):
            return f"stack {self.name} has ended"
        if isinstance(error, TimeoutError):
            return f"stack {self.name} does not answer"
        if isinstance(error, ValueError):
            return f"stack {self.name} gives an answer that makes no sense"
        return f"the manager of stack {self.name} is not there"


def check_right(name: str) -> None:
    """Raises NeatError when this user may not control the stack."""
    path = rundir.directory(name) / "control.sock"
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        raise NeatError(no_right(name))


def no_right(name: str) -> str:
    return f"no right to control stack {name}; run as the user who started it, or as root"


async def command(name: str, **request: Any) -> dict[str, Any]:
    """One request that changes something, on a connection of its own: others are not kept waiting. Raises NeatError."""
    client = Client(name, COMMAND_LIMIT)
    try:
        return await client.ask(**request)
    finally:
        client.close()


@dataclass(frozen=True)
class Event:
    """Something that happened to a stack."""

    id: int
    at_ns: int  # CLOCK_MONOTONIC
    time: float  # seconds since 1970
    kind: str  # crash, rejuvenation, upgrade, scale_up, scale_down, drained, deadline, autoscale
    replica: int | None
    text: str
    gap_ms: float | None  # nobody served the replica's connections for so long
    adopted: int | None
    lost: int | None

    @classmethod
    def parse(cls, told: dict[str, Any]) -> Event:
        """What is missing is 0, empty or None."""

        def value(name: str) -> Any:
            return told[name] if is_number(told.get(name)) else None

        return cls(
            id=value("id") or 0,
            at_ns=value("at_ns") or 0,
            time=value("time") or 0.0,
            kind=str(told.get("kind", "")),
            replica=value("replica"),
            text=str(told.get("text", "")),
            gap_ms=value("gap_ms"),
            adopted=value("adopted"),
            lost=value("lost"),
        )


class Feed:
    """What is known of a stack: asked anew in each round, kept while nobody answers."""

    def __init__(self, name: str, history: int = HISTORY, events: int = EVENTS, limit: float = PATIENCE) -> None:
        self.name = name
        self.meter = Meter(history)
        self.events: deque[Event] = deque(maxlen=events)  # oldest first
        self.fresh: list[Event] = []  # those that the last round brought
        self.problem: str | None = None  # why the last round brought no answer
        self.answered: float | None = None  # time.monotonic() of the last answer
        self._started = time.monotonic()
        self._since, self._last = 0, -1  # what to ask for; the last event that was taken
        self._client = Client(name, limit)

    @property
    def view(self) -> StackView | None:
        return self.meter.view

    @property
    def silent_for(self) -> float:
        """Seconds without an answer; 0 while there are answers."""
        if self.problem is None:
            return 0.0
        return time.monotonic() - (self._started if self.answered is None else self.answered)

    async def poll(self) -> bool:
        """One round: status, and the events since the last one. Did the stack answer?"""
        self.fresh = []
        try:
            answer = await self._client.ask(op="status")
        except NeatError as error:
            self.problem = str(error)
            return False
        self.meter.take(answer)
        self.problem, self.answered = None, time.monotonic()
        with contextlib.suppress(NeatError):  # a stack that keeps no events; or its manager has just ended
            await self._take_events()
        return True

    async def follow(self, interval: float) -> AsyncGenerator[bool, None]:
        """A round every `interval` seconds, as long as the caller likes; yields whether the stack answered."""
        try:
            while True:
                started = time.monotonic()
                yield await self.poll()
                await asyncio.sleep(max(0.0, started + interval - time.monotonic()))
        finally:
            self.close()

    def close(self) -> None:
        self._client.close()

    async def _take_events(self) -> None:
        answer = await self._client.ask(op="events", since=self._since)
        following = answer.get("next")
        if isinstance(following, int) and following < self._since:  # another manager counts from the start
            self._since, self._last = 0, -1
            answer = await self._client.ask(op="events", since=0)
            following = answer.get("next")
        told = answer.get("events")
        for event in (Event.parse(each) for each in told or [] if isinstance(each, dict)):
            if event.id > self._last:
                self.events.append(event)
                self.fresh.append(event)
                self._last = event.id
        if isinstance(following, int):
            self._since = following
