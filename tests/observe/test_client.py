"""Asking a stack whose manager comes and goes."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from neatstack.control.errors import NeatError
from neatstack.observe import client
from neatstack.observe.client import Client, Feed
from tests.observe.fake import EVENT, Stack, replica, stack, status


@pytest.fixture(autouse=True)
def run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEAT_RUN_DIR", str(tmp_path))


def play(scene: Callable[[Stack], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(20), stack() as web:
            await scene(web)

    asyncio.run(run())


def test_rounds() -> None:
    async def scene(web: Stack) -> None:
        feed = Feed("web")
        assert feed.view is None
        assert await feed.poll()
        web.status = status([replica(0, counters={"requests": 140})], at=3.0)
        assert await feed.poll()
        assert feed.view is not None and feed.view.rates.requests == 50
        assert feed.problem is None and feed.silent_for == 0
        feed.close()

    play(scene)


def test_events_come_once() -> None:
    async def scene(web: Stack) -> None:
        feed = Feed("web", events=3)
        web.events = [{**EVENT, "id": 1}, {**EVENT, "id": 2, "gap_ms": None, "kind": "scale_up", "replica": None}]
        await feed.poll()
        assert [event.id for event in feed.fresh] == [1, 2]
        await feed.poll()
        assert not feed.fresh
        assert [event.id for event in feed.events] == [1, 2]
        assert feed.events[0].gap_ms == 3.5 and feed.events[1].replica is None
        web.events += [{**EVENT, "id": 3}, {"id": 4}, "nonsense"][:2]
        await feed.poll()
        assert [event.id for event in feed.events] == [2, 3, 4]
        web.events = [{**EVENT, "id": 1, "text": "of another manager"}]
        await feed.poll()
        assert [event.id for event in feed.events] == [3, 4, 1]
        assert [request["since"] for request in web.asked if request["op"] == "events"] == [0, 3, 3, 5, 0]

    play(scene)


def test_a_stack_without_events() -> None:
    async def scene(web: Stack) -> None:
        answer = web.answer
        web.answer = lambda request: answer(request) if request["op"] == "status" else {"error": "no such request"}  # type: ignore[method-assign]
        feed = Feed("web")
        assert await feed.poll() and not feed.events

    play(scene)


def test_a_manager_restarts() -> None:
    async def scene(web: Stack) -> None:
        feed = Feed("web")
        await feed.poll()
        await web.stop()
        await asyncio.sleep(0.05)
        assert not await feed.poll()
        assert feed.problem == "the manager of stack web is not there" and feed.silent_for >= 0.05
        assert feed.view is not None  # the last one
        await web.start()
        assert await feed.poll() and feed.problem is None
        await web.end()
        assert not await feed.poll() and feed.problem == "stack web has ended"

    play(scene)


def test_a_new_manager_between_two_rounds_is_not_noticed() -> None:
    async def scene(web: Stack) -> None:
        feed = Feed("web")
        await feed.poll()
        await web.stop()
        await web.start()
        assert await feed.poll()
        assert [request["op"] for request in web.asked] == ["status", "events"] * 2

    play(scene)


def test_no_answer_in_time() -> None:
    async def scene(web: Stack) -> None:
        web.deaf = True
        feed = Feed("web", limit=0.1)
        assert not await feed.poll() and feed.problem == "stack web does not answer"
        web.deaf = False
        assert await feed.poll()

    play(scene)


@pytest.mark.parametrize("said", [b"nonsense\n", b"[]\n", b"\xff\n"])
def test_an_answer_that_makes_no_sense(said: bytes) -> None:
    async def scene(web: Stack) -> None:
        web.raw = said
        feed = Feed("web")
        assert not await feed.poll() and feed.problem == "stack web gives an answer that makes no sense"

    play(scene)


def test_a_late_answer_is_nobodys() -> None:
    """A question that was given up must not leave its answer to the next one."""

    async def scene(web: Stack) -> None:
        web.others["slow"] = {"slow": True}
        asking = Client("web", limit=0.1)
        web.deaf = True
        with pytest.raises(NeatError):
            await asking.ask(op="slow")
        web.deaf = False
        assert (await asking.ask(op="status"))["name"] == "web"

    play(scene)


def test_commands() -> None:
    async def scene(web: Stack) -> None:
        web.others = {"scale": {"ok": True, "from": 2, "to": 3}, "rejuvenate": {"error": "one is under way; try again"}}
        assert (await client.command("web", op="scale", replicas=3, deadline=None))["to"] == 3
        with pytest.raises(NeatError, match="one is under way; try again"):
            await client.command("web", op="rejuvenate")
        assert web.asked[0] == {"op": "scale", "replicas": 3, "deadline": None}

    play(scene)


def test_follow_keeps_its_pace() -> None:
    async def scene(web: Stack) -> None:
        feed, rounds = Feed("web"), 0
        started = asyncio.get_running_loop().time()
        async for answered in feed.follow(0.05):
            assert answered
            rounds += 1
            if rounds == 5:
                break
        assert 0.18 < asyncio.get_running_loop().time() - started < 1

    play(scene)


def test_no_stack() -> None:
    async def run() -> None:
        feed = Feed("none")
        assert not await feed.poll() and feed.problem == "stack none has ended" and feed.view is None

    asyncio.run(run())
