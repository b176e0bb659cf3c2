"""How busy replicas are, and scaling by itself: with replicas' pages that a test writes."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from neatstack.control import activity, autoscale
from neatstack.control.activity import SECOND, Activity, slept
from neatstack.control.autoscale import Autoscale
from neatstack.control.change import Change
from neatstack.control.device import QueueDrops
from neatstack.control.errors import NeatError
from neatstack.control.events import Events
from neatstack.control.recovery import Stage
from neatstack.control.settings import Settings
from neatstack.control.slots import PROGRESS, SLEEP_SEQ, SLEPT
from neatstack.control.store import Entry


class Slot:
    """A slot with a page that the test writes."""

    def __init__(self, number: int = 0) -> None:
        self.number, self.incarnation, self.stage = number, 1, Stage.RUNNING
        self.words, self.long_words = [0] * 16, [0] * 8


class Drops:
    def __init__(self) -> None:
        self.count = 0

    def read(self) -> int:
        return self.count


def test_a_sleep_that_lasts_counts_as_well() -> None:
    slot: Any = Slot()
    slot.long_words[SLEPT], slot.long_words[PROGRESS] = 5 * SECOND, 100 * SECOND
    assert slept(slot, 103 * SECOND) == 5 * SECOND
    slot.words[SLEEP_SEQ] = 7
    assert slept(slot, 103 * SECOND) == 8 * SECOND
    assert slept(slot, 99 * SECOND) == 5 * SECOND


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_busy_is_the_share_of_time_without_sleep(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    slot: Any = Slot()
    now = [100 * SECOND]
    monkeypatch.setattr(activity.time, "monotonic_ns", lambda: now[0])

    async def play() -> None:
        looks = Activity([slot], Drops())  # type: ignore[arg-type]
        assert looks.busy(0) is None
        for _ in range(8):
            looks.run()
            now[0] += SECOND // 4
            slot.long_words[SLEPT] += round((1 - share) * SECOND / 4)
        assert looks.busy(0) == pytest.approx(share) and looks.recent(0) == pytest.approx(share)
        slot.stage = None
        looks.run()
        assert looks.busy(0) is None

    asyncio.run(play())


def test_drops_of_a_device() -> None:
    assert QueueDrops(Settings(device="lo")).read() >= 0
    assert QueueDrops(Settings(device="none0")).read() == 0


class World:
    """What autoscaling acts on."""

    def __init__(self, active: int = 1, room: int = 4) -> None:
        self.active = list(range(active))
        self.replicas = SimpleNamespace(slots=[None] * room)
        self.change, self.events = Change(), Events()
        self.work = 0.0  # replicas that it would keep busy
        self.queue_drops = 0
        self.stored: dict[str, Any] = {}
        self.refuse = ""

    async def scale(self, wanted: int) -> None:
        if self.refuse:
            raise NeatError(self.refuse)
        self.active = list(range(wanted))

    def recent(self, number: int) -> float | None:
        return min(1.0, self.work / len(self.active))

    def put(self, key: str, data: Any) -> None:
        self.stored[key] = data

    def drop(self, key: str) -> None:
        del self.stored[key]


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred times as fast."""
    real = time.monotonic
    monkeypatch.setattr(autoscale, "PERIOD", 0.005)
    monkeypatch.setattr(autoscale, "time", SimpleNamespace(monotonic=lambda: real() * 100))


async def until(world: World, active: int) -> None:
    async with asyncio.timeout(10):
        while len(world.active) != active:
            await asyncio.sleep(0.005)


def test_the_number_follows_the_load(fast: None) -> None:
    async def play() -> None:
        world: Any = World()
        its = Autoscale(world, world, world)
        its.start(1, 4)
        assert its.bounds == {"min": 1, "max": 4} and world.stored == {"autoscale": {"min": 1, "max": 4}}
        world.work = 2.0
        await until(world, 4)
        world.work = 0.1
        await until(world, 1)
        texts = [event["text"] for event in world.events.since(0)["events"]]
        assert texts[0].startswith("1 -> 2 replicas: busy 100% of the last 2 s")
        assert texts[-1].startswith("2 -> 1 replicas: busy 5%")
        world.work = 2.0
        assert its.stop() and not its.stop()
        assert its.bounds is None and world.stored == {}
        await asyncio.sleep(0.1)
        assert len(world.active) == 1

    asyncio.run(play())


def test_a_refusal_is_no_end(fast: None) -> None:
    async def play() -> None:
        world: Any = World()
        its = Autoscale(world, world, world)
        world.refuse = "a rejuvenation is under way"
        world.work = 2.0
        its.start(1, 4)
        await asyncio.sleep(0.2)
        world.refuse = ""
        await until(world, 4)
        its.stop()

    asyncio.run(play())


def test_the_next_manager_goes_on(fast: None) -> None:
    async def play() -> None:
        world: Any = World()
        its = Autoscale(world, world, world)
        its.resume(None)
        assert its.bounds is None
        its.resume(Entry({"min": 2, "max": 3}, []))
        await until(world, 2)
        its.stop()

    asyncio.run(play())


@pytest.mark.parametrize(
    "request_, why",
    [
        ({"min": 0, "max": 2}, "from 0 to 2 replicas is no range"),
        ({"min": 3, "max": 2}, "from 3 to 2 replicas is no range"),
        ({"min": 1, "max": 9}, "room for 4 replicas"),
        ({"min": "1", "max": 2}, "whole numbers"),
        ({"min": True, "max": 2}, "whole numbers"),
        ({}, "whole numbers"),
    ],
)
def test_bounds_that_cannot_be(request_: dict[str, Any], why: str) -> None:
    async def play() -> None:
        world: Any = World()
        with pytest.raises(NeatError, match=why):
            autoscale.told(Autoscale(world, world, world), request_)

    asyncio.run(play())
