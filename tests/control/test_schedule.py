"""Durations, and rejuvenation at chosen times."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from neatstack.control import durations, schedule
from neatstack.control.errors import NeatError
from neatstack.control.schedule import Schedule
from tests.control.stage import MemoryStore


@pytest.mark.parametrize(("written", "expected"), [
    ("90s", 90), ("90", 90), ("10m", 600), ("1h", 3600), ("2d", 172800), ("1.5m", 90), (" 5 s ", 5),
    (60, 60), (1, 1), (2.5, 2.5),
])  # fmt: skip
def test_durations(written: Any, expected: float) -> None:
    assert durations.seconds(written) == expected


@pytest.mark.parametrize("written", [
    "", "m", "10 minutes", "-5s", "1h30m", "0s", "0.5s", 0, -1, 0.99, "400d", 1e300, float("nan"), float("inf"), None,
    True, [5], "1e3s", "١s", "99999999999999999999d",
])  # fmt: skip
def test_no_durations(written: Any) -> None:
    with pytest.raises(ValueError, match="no duration; write|choose a duration"):
        durations.seconds(written)


def test_durations_in_text() -> None:
    written = {90: "90s", 600: "10m", 3600: "1h", 172800: "2d", 2.5: "2.5s", 5400: "90m"}
    for duration, text in written.items():
        assert durations.text(duration) == text
        assert durations.seconds(text) == duration


class Clockwork:
    """A schedule, and how often it has called."""

    def __init__(self, store: Any = None) -> None:
        self.store = store or MemoryStore()
        self.calls: list[float] = []
        self.busy: str | None = None
        self.error: Exception | None = None
        self.asked: list[tuple[float, float]] = []
        self.schedule = self.make()

    def make(self) -> Schedule:
        store: Any = self.store
        return Schedule(store, self.call, lambda: self.busy, self.between)

    def between(self, least: float, most: float) -> float:
        self.asked.append((least, most))
        return most

    async def call(self) -> None:
        self.calls.append(time.monotonic())
        if self.error is not None:
            raise self.error

    async def called(self, times: int) -> None:
        async with asyncio.timeout(10):
            while len(self.calls) < times:
                await asyncio.sleep(0.005)


def clockwork(monkeypatch: pytest.MonkeyPatch, play: Callable[[Clockwork], Awaitable[None]]) -> None:
    monkeypatch.setattr(durations, "LEAST", 0.01)

    async def run() -> None:
        made = Clockwork()
        try:
            await play(made)
        finally:
            made.schedule.stop()

    asyncio.run(run())


def test_again_and_again_with_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(c: Clockwork) -> None:
        began = time.monotonic()
        answer = c.schedule.set(0.1, 0.5)
        assert answer["rejuvenation"]["every"] == 0.1 and 0.1 < answer["rejuvenation"]["next_in"] <= 0.15
        await c.called(3)
        assert c.asked[0] == (-0.5, 0.5) and len(c.asked) >= 3
        assert 0.45 <= c.calls[2] - began < 2
        assert c.schedule.set(0) == {"rejuvenation": None}
        count = len(c.calls)
        await asyncio.sleep(0.3)
        assert len(c.calls) == count and c.store.entries == {}

    clockwork(monkeypatch, play)


def test_a_failure_is_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(c: Clockwork) -> None:
        c.schedule.set(0.05)
        for c.error in (NeatError("no spare"), RuntimeError("strange")):
            await c.called(len(c.calls) + 2)

    clockwork(monkeypatch, play)


def test_it_waits_for_what_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(c: Clockwork) -> None:
        monkeypatch.setattr(schedule, "AGAIN", 0.05)
        c.busy = "scaling"
        c.schedule.set(0.05)
        await asyncio.sleep(0.3)
        assert c.calls == []
        c.busy = None
        await c.called(1)

    clockwork(monkeypatch, play)


def test_another_manager_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins neither at once nor anew."""

    async def play(c: Clockwork) -> None:
        monkeypatch.setattr(schedule, "GRACE", 0.1)
        c.schedule.set(1.0, 0)
        due = c.schedule.due
        for _ in range(3):
            c.schedule.stop()
            await asyncio.sleep(0.05)
            c.schedule = c.make()
            c.schedule.resume(c.store.entries.get(schedule.KEY))
            assert c.schedule.due == due and c.calls == []
        c.schedule.stop()
        await asyncio.sleep(1.0)  # it is due while there is no manager
        c.schedule = c.make()
        began = time.monotonic()
        c.schedule.resume(c.store.entries.get(schedule.KEY))
        await c.called(1)
        assert 0.09 < c.calls[0] - began < 1
        status = c.schedule.status()
        assert status is not None and status["every"] == 1 and status["next_in"] > 0.5

    clockwork(monkeypatch, play)


def test_it_is_put_off_before_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """A manager that dies of a rejuvenation does not begin with one."""

    async def play(c: Clockwork) -> None:
        c.schedule.set(0.2, 0)
        await c.called(1)
        assert c.store.entries[schedule.KEY].data["due"] > c.calls[0] + 0.1

    clockwork(monkeypatch, play)


def test_no_schedule_to_go_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(c: Clockwork) -> None:
        c.schedule.resume(None)
        assert c.schedule.status() is None

    clockwork(monkeypatch, play)


@pytest.mark.parametrize(("every", "jitter", "words"), [
    (0.5, None, "between 1 second"),
    ("soon", None, "no duration"),
    (-1, None, "between"),
    (False, None, "no duration"),
    (None, None, "no duration"),
    (60, 1.5, "fraction"),
    (60, -0.1, "fraction"),
    (60, "much", "fraction"),
    (60, True, "fraction"),
    (60, float("nan"), "fraction"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(every: Any, jitter: Any, words: str) -> None:
    async def run() -> None:
        c = Clockwork()
        with pytest.raises(NeatError, match=words):
            c.schedule.set(every, jitter)
        assert c.schedule.status() is None and c.store.entries == {}

    asyncio.run(run())
