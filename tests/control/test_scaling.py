"""Buckets move and flows stay: with models of kernel and regions, and a manager that dies anywhere."""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import random
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from typing import Any

import pytest

from neatstack.control import regions, scaling
from neatstack.control.change import Change
from neatstack.control.errors import NeatError
from neatstack.control.events import Events
from neatstack.control.line import ReplicaGone, Told
from neatstack.control.pages import BUCKETS, TABLE_MOVED, TABLE_MOVING, StackPage
from neatstack.control.scaling import Scaling
from neatstack.control.store import Entry


class Killed(BaseException):
    """The manager is no more."""


class World:
    """Kernel, stack page and replicas: what outlives a manager. A flow is a number; its bucket the rest by 256."""

    def __init__(self, replicas: int, room: int = 4) -> None:
        self.owners = [n % replicas for n in range(BUCKETS)]
        self.next: dict[int, int] = {}
        self.pinned: dict[int, int] = {}
        self.looks = False
        self.flows: dict[int, set[int]] = {n: set() for n in range(room)}  # of each replica
        self.queued: list[tuple[int, int]] = []  # SYNs on their way: replica, flow
        self.active = set(range(replicas))  # that have a process
        self.page = StackPage(
            IPv4Address("10.0.0.2"), IPv4Address("255.255.255.0"), None, 1500, room, (1 << replicas) - 1,
            b"\2" * 6, room, 4096, (1, 1, 1), list(self.owners),
        )  # fmt: skip
        self.view = mmap.mmap(-1, mmap.PAGESIZE)
        self.stored: dict[str, Entry] = {}
        self.chance = random.Random(1)
        self.step = 0
        self.die_at = -1
        self.fresh = 1000 * BUCKETS  # the next flow to be opened
        self.lost: list[int] = []  # whose SYN was dropped: a second's delay for the peer
        self.most_pins = 1 << 20
        self.deaf: set[int] = set()

    # what peers do, at any moment

    def open_flows(self, count: int = BUCKETS) -> None:
        """SYNs come, are steered and queued."""
        for _ in range(count):
            flow = self.fresh
            self.fresh += 1
            bucket = flow % BUCKETS
            to = self.owners[bucket]
            if bucket in self.next:
                to = self.next[bucket]
                assert self.looks
                self.pinned.setdefault(flow, to)
            self.queued.append((to, flow))

    def take_in(self, replica: int) -> None:
        """The replica looks at its queue: it takes what the page lets it take."""
        for to, flow in [each for each in self.queued if each[0] == replica]:
            self.queued.remove((to, flow))
            entry = self.page.table[flow % BUCKETS]
            if entry in (replica, TABLE_MOVING, TABLE_MOVED | replica):
                self.flows[replica].add(flow)
            else:
                self.lost.append(flow)

    def check(self) -> None:
        """Every packet of every flow comes to its replica."""
        for replica, flows in self.flows.items():
            for flow in flows:
                to = self.pinned.get(flow) if self.looks else None
                assert (self.owners[flow % BUCKETS] if to is None else to) == replica, (flow, replica, to)

    def moment(self) -> None:
        """Between any two steps of the manager."""
        self.step += 1
        if self.step == self.die_at:
            raise Killed
        self.open_flows(64)
        for number in self.active:
            if self.chance.random() < 0.5:
                self.take_in(number)
        self.check()

    # the steering program

    def table(self) -> list[int]:
        return list(self.owners)

    def moving(self) -> dict[int, int]:
        return dict(self.next)

    def mark_moving(self, moves: dict[int, int]) -> None:
        for bucket, to in moves.items():
            self.next[bucket] = to
            if bucket % 64 == 0:
                self.moment()

    def set_table(self, owners: list[int]) -> None:
        for bucket, owner in enumerate(owners):
            self.owners[bucket] = owner
            self.next.pop(bucket, None)
            if bucket % 64 == 0:
                self.moment()

    def synchronize(self) -> None:
        self.moment()

    def pin_flows(self, flows: bytes, replica: int) -> None:
        numbers = unpacked(flows)
        if len(self.pinned) + len(numbers) > self.most_pins:
            raise OSError(28, "no room for more pins")
        self.pinned.update(dict.fromkeys(numbers, replica))
        self.moment()

    def look_at_pins(self, look: bool) -> None:
        self.looks = look

    def count_pins(self) -> dict[int, int]:
        return {n: sum(to == n for to in self.pinned.values()) for n in set(self.pinned.values())}

    # replicas and keeper

    @property
    def replicas(self) -> Any:
        return Replicas(self)

    def put(self, key: str, data: dict[str, Any]) -> None:
        self.stored[key] = Entry(data, [])


def packed(flows: set[int]) -> bytes:
    return b"".join(flow.to_bytes(16, "big") for flow in sorted(flows))


def unpacked(flows: bytes) -> list[int]:
    return [int.from_bytes(flows[at : at + 16], "big") for at in range(0, len(flows), 16)]


class Slot:
    def __init__(self, world: World, number: int) -> None:
        self.world, self.number, self.incarnation, self.how = world, number, 1, "adopt"
        self.ready = asyncio.Event()
        if number in world.active:
            self.ready.set()


class Replicas:
    def __init__(self, world: World) -> None:
        self.world, self.active = world, world.active
        self.slots = [Slot(world, number) for number in world.flows]
        self.spares = self
        self.resets: list[int] = []
        self.retired: list[int] = []

    async def one_ready(self, limit: float) -> None:
        self.world.moment()

    async def start(self, numbers: list[int]) -> None:
        self.active.update(numbers)
        self.slots[numbers[0]].ready.set()

    def ask(self, slot: Slot, told: Told) -> asyncio.Future[dict[str, Any]]:
        assert told.message == {"op": "settle"}
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        if slot.number in self.world.deaf:
            self.world.deaf.discard(slot.number)
            answer.set_exception(ReplicaGone())
            return answer
        self.world.take_in(slot.number)
        self.world.moment()
        answer.set_result({"ok": True, "settled": True})
        return answer

    def retire(self, slot: Slot) -> None:
        assert not self.world.flows[slot.number]
        self.active.discard(slot.number)
        self.retired.append(slot.number)

    def reset(self, slot: Slot, why: str) -> None:
        self.resets.append(slot.number)
        self.world.flows[slot.number].clear()


class Region:
    def __init__(self, slot: Slot) -> None:
        self.flows = slot.world.flows[slot.number]

    def live_flows(self, keys: Any, buckets: Any = None) -> bytes:
        return packed({flow for flow in self.flows if buckets is None or flow % BUCKETS in buckets})

    def in_use(self) -> tuple[int, int]:
        return len(self.flows), len(self.flows)

    def strays(self) -> tuple[int, bytes]:
        return 0, b""


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regions of the model, and its removal of pins."""

    @contextlib.contextmanager
    def open_region(slot: Any) -> Iterator[Any]:
        yield Region(slot)

    def remove_pins(self: Any, opened: dict[int, Region], owners: list[int]) -> None:
        world = self.steering
        for flow, to in list(world.pinned.items()):
            alive = flow in world.flows[to] or (to, flow) in world.queued
            if owners[flow % BUCKETS] == to or not alive:
                del world.pinned[flow]

    monkeypatch.setattr(regions, "open_region", open_region)
    monkeypatch.setattr(Scaling, "_remove_pins", remove_pins)
    monkeypatch.setattr(scaling, "LOOK_EVERY", 0.002)
    monkeypatch.setattr(scaling, "LOOK_SELDOM", 0.002)


def manager(world: World) -> Scaling:
    page: Any = world.page
    return Scaling(world, page, world.view, world, world.replicas, Change(), Events())  # type: ignore[arg-type]


def filled(replicas: int) -> World:
    world = World(replicas)
    world.open_flows(4 * BUCKETS)
    for number in range(replicas):
        world.take_in(number)
    world.check()
    return world


def finished(world: World, active: set[int]) -> None:
    """The change is done, and nothing is left in motion."""
    shares = [world.owners.count(number) for number in active]
    assert sum(shares) == BUCKETS and max(shares) - min(shares) <= 1
    assert not world.next and world.page.table == world.owners
    assert world.page.active == sum(1 << number for number in active)
    for number in world.active:
        world.take_in(number)
    world.check()
    assert not world.queued and not world.lost


CHANGES = [(1, 4), (4, 1), (2, 3), (3, 2), (1, 2)]


@pytest.mark.parametrize("before, after", CHANGES)
def test_flows_stay_where_they_are(before: int, after: int) -> None:
    async def play() -> None:
        world = filled(before)
        answer = await manager(world).scale(after)
        finished(world, set(range(after)))
        assert (answer["from"], answer["to"]) == (before, after)
        assert answer["draining"] == list(range(after, before))

    asyncio.run(play())


@pytest.mark.parametrize("before, after", CHANGES)
def test_a_manager_that_dies_at_any_step_is_no_harm(before: int, after: int) -> None:
    async def play(die_at: int) -> bool:
        world = filled(before)
        world.die_at = die_at
        first = manager(world)
        first._remember = first._watch = lambda: None  # type: ignore[method-assign] # the dead do nothing
        set_active = first._set_active
        first._set_active = lambda slots: set_active(slots) if world.step != die_at else None  # type: ignore[method-assign]
        try:
            await first.scale(after)
        except Killed:
            pass
        else:
            return False
        world.check()
        second = manager(world)
        second.resume(world.stored.get(scaling.KEY))
        async with asyncio.timeout(5):
            while world.next or second.change.under_way or not second._watching:
                await asyncio.sleep(0.001)
        world.check()
        if second._watching:
            second._watching.cancel()
        await second.scale(after)
        finished(world, set(range(after)))
        return True

    die_at = 1
    while asyncio.run(play(die_at)):
        die_at += 1
    assert die_at > 8


def test_a_replica_that_dies_while_it_is_waited_for_is_asked_again() -> None:
    async def play() -> None:
        world = filled(2)
        world.deaf = {0, 1}
        await manager(world).scale(3)
        finished(world, {0, 1, 2})

    asyncio.run(play())


def test_without_room_for_pins_all_stays_as_it_was() -> None:
    async def play() -> None:
        world = filled(2)
        world.most_pins = 100
        with pytest.raises(NeatError, match="buckets cannot move: .*no room for more pins"):
            await manager(world).scale(1)
        finished(world, {0, 1})

    asyncio.run(play())


@pytest.mark.parametrize(
    "wanted, why",
    [
        (0, "0 replicas cannot serve anybody; `neat down` ends a stack"),
        (-3, "-3 replicas cannot serve anybody; `neat down` ends a stack"),
        (5, "this stack has room for 4 replicas; start it with --max-replicas 5 (at most 16)"),
    ],
)
def test_numbers_that_cannot_be(wanted: int, why: str) -> None:
    async def play() -> None:
        with pytest.raises(NeatError) as error:
            await manager(filled(2)).scale(wanted)
        assert str(error.value) == why

    asyncio.run(play())


def test_one_scaling_at_a_time() -> None:
    async def play() -> None:
        world = filled(1)
        its = manager(world)
        first = asyncio.create_task(its.scale(2))
        await asyncio.sleep(0)
        with pytest.raises(NeatError, match="^scaling from 1 to 2 replicas is under way; try again when it is done$"):
            await its.scale(3)
        await first
        finished(world, {0, 1})

    asyncio.run(play())


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.002)


def test_a_replica_is_stopped_when_its_last_flow_has_ended() -> None:
    async def play() -> None:
        world = filled(2)
        its: Any = manager(world)
        await its.scale(1)
        for number in (0, 1):
            world.take_in(number)
        await asyncio.sleep(0.05)
        assert its.draining == [1] and not its.replicas.retired
        kept = world.flows[1].pop()
        world.flows[1] = {kept}
        await until(lambda: its.pins == {1: 1})
        assert its.draining == [1]
        world.flows[1].clear()
        await until(lambda: its.replicas.retired == [1])
        await until(lambda: its._watching.done())
        assert not world.looks and not world.pinned and its.draining == []
        assert [event["kind"] for event in its.events.since(0)["events"]] == ["scale_down", "drained"]

    asyncio.run(play())


def test_what_is_left_at_the_deadline_is_reset() -> None:
    async def play() -> None:
        world = filled(2)
        its: Any = manager(world)
        await its.scale(1, deadline=0.05)
        assert its.replicas.resets == []
        again = manager(world)
        again.resume(world.stored[scaling.KEY])
        assert again._deadlines == its._deadlines and set(again._deadlines) == {1}
        assert again._watching
        again._watching.cancel()
        await until(lambda: its.replicas.retired == [1])
        assert its.replicas.resets == [1]
        assert [e["kind"] for e in its.events.since(0)["events"]] == ["scale_down", "deadline", "drained"]

    asyncio.run(play())


def test_a_replica_that_drains_is_taken_first_when_there_are_to_be_more() -> None:
    async def play() -> None:
        world = filled(4)
        its: Any = manager(world)
        await its.scale(1, deadline=1000)
        for number in range(4):
            world.take_in(number)
        world.flows[1].clear()
        world.flows[2].clear()
        await until(lambda: its.replicas.retired == [1, 2])
        answer = await its.scale(2)
        assert its.active == [0, 3] and answer["draining"] == []
        assert 3 not in its._deadlines
        finished(world, {0, 3})

    asyncio.run(play())
