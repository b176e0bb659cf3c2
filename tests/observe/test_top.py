"""The live view on a screen that exists only in the test."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import Awaitable, Callable
from html import unescape
from typing import Any

import pytest
from textual.pilot import Pilot

from neatstack.control.errors import NeatError
from neatstack.observe.client import Event, Feed
from neatstack.observe.rates import Meter
from neatstack.observe.top import Top, app, draw, table
from neatstack.observe.top.dialogs import Help, Question
from neatstack.observe.top.table import ReplicaTable
from tests.observe.fake import EVENT, LAST, replica, status

SMALL, LARGE = (80, 24), (160, 50)


class FakeFeed(Feed):
    """Its answers are the test's: the next of `answers` in each round; None stands for a manager that is away."""

    def __init__(self, *answers: dict[str, Any] | None, events: list[dict[str, Any]] | None = None) -> None:
        super().__init__("web")
        self.answers = list(answers)
        self.rounds = 0
        self.events.extend(map(Event.parse, events or []))

    async def poll(self) -> bool:
        self.rounds += 1
        answer = self.answers[0]
        if len(self.answers) > 1:
            self.answers.pop(0)
        if answer is None:
            self.problem = "the manager of stack web is not there"
            return False
        self.meter.take(answer)
        self.problem, self.answered = None, time.monotonic()
        return True


class Stage:
    """A running application, what it has asked of the stack, and what it has said."""

    def __init__(self, feed: FakeFeed) -> None:
        self.feed = feed
        self.asked: list[dict[str, Any]] = []
        self.answers: dict[str, Any] = {}
        self.top = Top(feed, interval=0.05, command=self.command)
        self.pilot: Pilot[None]

    async def command(self, name: str, **request: Any) -> dict[str, Any]:
        assert name == "web"
        self.asked.append(request)
        answer = self.answers[request["op"]]
        if isinstance(answer, asyncio.Event):
            await answer.wait()
            answer = {}
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def told(self) -> list[tuple[str, str]]:
        return [(note.severity, note.message) for note in self.top._notifications]

    @property
    def screen(self) -> str:
        """What is to be read on the screen, a line each."""
        svg = self.top.export_screenshot()
        lines: dict[float, list[tuple[float, str]]] = {}
        for x, y, text in re.findall(r'<text [^>]*x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)</text>', svg):
            lines.setdefault(float(y), []).append((float(x), unescape(text).replace("\xa0", " ")))
        return "\n".join("".join(text for _, text in sorted(parts)) for _, parts in sorted(lines.items()))

    async def press(self, *keys: str) -> None:
        """Until what the keys have set off is done."""
        await self.pilot.press(*keys)
        await self.until(lambda: not [w for w in self.top.workers if w.name != "watch" and w.is_running])

    async def rounds(self, number: int = 2) -> None:
        """Until the stack was asked so often, and what it said is on the screen."""
        end = self.feed.rounds + number
        await self.until(lambda: self.feed.rounds >= end)

    async def until(self, true: Callable[[], object]) -> None:
        while not true():
            await asyncio.sleep(0.01)
        await self.pilot.pause()


def on_screen(feed: FakeFeed, scene: Callable[[Stage], Awaitable[None]], size: tuple[int, int] = SMALL) -> None:
    async def run() -> None:
        stage = Stage(feed)
        async with asyncio.timeout(30), stage.top.run_test(size=size, notifications=True) as pilot:
            stage.pilot = pilot
            await stage.rounds(len(feed.answers) + 1)
            await scene(stage)

    asyncio.run(run())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_end_it_as_a_key_does(number: int) -> None:
    """The terminal is not left as it was while the view was there."""

    async def scene(stage: Stage) -> None:
        signal.raise_signal(number)
        await stage.until(lambda: not stage.top.is_running)
        assert stage.top.return_code == 128 + number

    on_screen(FakeFeed(status(1)), scene)


def busy_stack() -> list[dict[str, Any] | None]:
    first = status(3)
    second = status(
        [
            replica(0, counters={"requests": 12_385, "bytes_out": 4_090_000}, busy=0.42),
            replica(1, counters={"requests": 3_040}, recoveries=2, incarnation=3, last_recovery=LAST),
            replica(2, state="draining", takes_new=False),
        ],
        at=2.0, scaling={"active": 2, "draining": [2], "auto": None, "under_way": None},
    )  # fmt: skip
    return [first, second]


@pytest.mark.parametrize("size", [SMALL, LARGE, (200, 60), (60, 16)])
def test_everything_is_on_the_screen(size: tuple[int, int]) -> None:
    async def scene(stage: Stage) -> None:
        screen = stage.screen
        for word in ("NEaT web", "10.77.0.2/24", "live", "2 of 4 active", "1 draining", "running", "draining", "12.3k"):
            assert word in screen, screen
        assert "requests/s: 15.3k" in screen or size[1] < 22
        assert "replica 0: 50%" in screen and "replica 1: 50%" in screen
        if size != (60, 16):
            assert "42%" in screen and "4.00" in screen
            assert "crash" in screen and "3.5 ms" in screen and "replica 0 was killed by SIGKILL" in screen
            assert "kill" in screen and "quit" in screen
        if size[0] > 100:
            assert "1001" in screen and "pins" in screen and "drops" in screen
            assert "█" in screen

    on_screen(FakeFeed(*busy_stack(), events=[EVENT]), scene, size)


def test_an_older_stack_and_none_at_first() -> None:
    older = {"name": "web", "address": "10.77.0.2/24", "replicas": [{"id": 0, "pid": 7, "counters": {"packets_in": 5}}]}

    async def scene(stage: Stage) -> None:
        assert "packets/s" in stage.screen and "nothing has happened yet" in stage.screen
        assert "nobody takes new connections" in stage.screen

    on_screen(FakeFeed(older), scene)

    async def silent(stage: Stage) -> None:
        assert "NEaT web" in stage.screen and "no answer for" in stage.screen
        await stage.press("k", "plus")
        assert stage.told == [
            ("error", "there is no replica to kill"), ("error", "nothing is known of the stack yet"),
        ]  # fmt: skip

    on_screen(FakeFeed(None), silent)


def test_a_manager_that_restarts() -> None:
    feed = FakeFeed(status(2))

    async def scene(stage: Stage) -> None:
        feed.answers = [None]
        await stage.rounds()
        assert "the manager of stack web is not there" in stage.screen and "no answer for" in stage.screen
        assert "running" in stage.screen
        feed.answers = [status(2, at=5.0, processes={"manager": {"pid": 7}})]
        await stage.rounds()
        assert "live" in stage.screen
        assert stage.told[0][1].startswith("the stack answers again, after ")
        feed.answers = [status(2, at=6.0, processes={"manager": {"pid": 8}})]
        await stage.rounds()
        told = [words for _, words in stage.told]
        assert told.count("another manager has taken over; connections did not notice") == 2

    on_screen(feed, scene)


def test_kill_asks_first() -> None:
    async def scene(stage: Stage) -> None:
        stage.answers["kill"] = {"ok": True, "target": "1", "pid": 1001}
        await stage.press("down", "k")
        assert "Kill replica 1 (pid 1001)?" in stage.screen and "5 connections" in stage.screen
        await stage.press("n")
        assert stage.asked == [] and len(stage.top.screen_stack) == 1
        await stage.press("k", "y")
        assert stage.asked == [{"op": "kill", "target": "1", "fault": "kill", "seed": None}]
        assert stage.told == [("information", "killed replica 1 (pid 1001)")]
        stage.answers["kill"] = NeatError("replica 1 has just died; try again")
        await stage.press("k", "y")
        assert stage.told[-1] == ("error", "replica 1 has just died; try again")

    on_screen(FakeFeed(status(2)), scene)


def test_scale() -> None:
    async def scene(stage: Stage) -> None:
        stage.answers["scale"] = {"ok": True, "from": 2, "to": 3, "draining": [], "took_ms": 41.4}
        await stage.press("plus")
        assert stage.asked == [{"op": "scale", "replicas": 3, "deadline": None}]
        assert stage.told == [("information", "2 → 3 active replicas in 41 ms")]
        stage.answers["scale"] = {"ok": True, "from": 2, "to": 1, "draining": [1], "took_ms": None}
        await stage.press("minus")
        assert stage.asked[-1]["replicas"] == 1
        assert stage.told[-1] == ("information", "2 → 1 active replicas; draining: 1")
        stage.answers["scale"] = NeatError("no such request")
        await stage.press("plus")
        assert stage.told[-1] == ("error", "the manager of this stack knows no scale; it is of an older version")

    on_screen(FakeFeed(status(2)), scene)


@pytest.mark.parametrize(("replicas", "key", "words"), [(4, "plus", "at most 4"), (1, "minus", "must stay active")])
def test_scaling_has_its_limits(replicas: int, key: str, words: str) -> None:
    async def scene(stage: Stage) -> None:
        await stage.press(key)
        assert stage.asked == [] and words in stage.told[0][1]

    on_screen(FakeFeed(status(replicas)), scene)


def test_rejuvenate_and_a_screen_that_goes_on() -> None:
    async def scene(stage: Stage) -> None:
        over = stage.answers["rejuvenate"] = asyncio.Event()
        await stage.pilot.press("r", "r")
        await stage.until(lambda: stage.asked)
        assert stage.asked == [{"op": "rejuvenate"}]
        assert "replacing" in stage.told[0][1]
        assert stage.told[1] == ("error", "the last rejuvenate has not been answered yet; try again")
        feed.answers = [status(3, at=9.0)]
        await stage.rounds()
        assert "3 of 4 active" in stage.screen
        over.set()
        await stage.until(lambda: len(stage.told) > 2)
        assert stage.told[-1] == ("information", "0 replicas replaced, 0 connections lost")

    feed = FakeFeed(status(2))
    on_screen(feed, scene)
    replaced = [{"replica": 0, "gap_ms": 1.5, "adopted": 9, "lost": 0}, {"replica": 1, "gap_ms": 2.25, "lost": 1}]
    assert app.rejuvenated({"replaced": replaced}) == "2 replicas replaced, longest gap 2.2 ms, 1 connection lost"


def test_what_strangers_write_is_only_text() -> None:
    evil = {**EVENT, "text": "[red]evil[/]\x1b[2J\n", "kind": "[bold]"}

    async def scene(stage: Stage) -> None:
        assert "[red]evil[/]?[2J?" in stage.screen
        stage.answers["scale"] = NeatError("[/nonsense] \x1b")
        await stage.press("plus")
        assert stage.told[0][1] == "[/nonsense] ?"
        assert "[/nonsense] ?" in stage.screen

    on_screen(FakeFeed(status([replica(0, version="[b]")], version="[i]x"), events=[evil]), scene)


def test_help_and_quit() -> None:
    async def scene(stage: Stage) -> None:
        await stage.press("question_mark")
        assert isinstance(stage.top.screen, Help)
        assert "rejuvenate: a new process" in stage.screen and "Escape closes this" in stage.screen
        await stage.press("escape", "k")
        assert isinstance(stage.top.screen, Question)
        await stage.press("escape", "q")
        assert stage.top._exit

    on_screen(FakeFeed(status(2)), scene)


def test_the_cursor_stays_on_its_replica() -> None:
    async def scene(stage: Stage) -> None:
        rows = stage.top.query_one(ReplicaTable)
        await stage.press("down", "down")
        assert rows.selected is not None and rows.selected.id == 2
        for several, selected in (([0, 2], 2), ([0, 1, 2, 3], 2), ([0, 1], 1), ([], None), ([1], 1)):
            feed.answers = [status([replica(number) for number in several], at=feed.answers[0]["at_ns"] / 1e9 + 1)]  # type: ignore[index]
            await stage.rounds()
            assert (rows.selected.id if rows.selected else None) == selected, several
            assert rows.row_count == len(several)

    feed = FakeFeed(status(3))
    on_screen(feed, scene)


def test_a_resized_terminal() -> None:
    async def scene(stage: Stage) -> None:
        assert "pid" not in stage.screen
        await stage.pilot.resize_terminal(*LARGE)
        await stage.rounds()
        assert "pid" in stage.screen and "1001" in stage.screen

    on_screen(FakeFeed(status(2)), scene)


def test_sixteen_replicas_on_a_small_terminal() -> None:
    async def scene(stage: Stage) -> None:
        assert "requests/s" in stage.screen and "events" in stage.screen
        stage.top.interval = 1.0
        table = stage.top.query_one(ReplicaTable)
        for _ in range(15):  # at once: press() waits with each that the process is idle, which it is not for long
            stage.top.simulate_key("down")
        await stage.until(lambda: table.selected is not None and table.selected.id == 15)

    on_screen(FakeFeed(status(16, max_replicas=16)), scene)


@pytest.mark.parametrize("room", range(20, 240, 7))
def test_columns_fit(room: int) -> None:
    columns, history = table.fitting(room)
    assert sum(width + 1 for _, width in columns) + history <= max(room, 12)
    ranks = {column.rank for column, _ in columns}
    dropped = {column.rank for column in table.COLUMNS} - ranks
    assert not dropped or min(dropped) >= max(ranks) - 1
    view = Meter().take(status(1))
    for column, width in columns:
        cell = column.cell(view.replicas[0], width)
        assert len(table.aligned(draw.Text(str(cell)), width, column.left)) == width + 1


@pytest.mark.parametrize(("value", "text"), [
    (0, "0"), (0.01, "0"), (7, "7"), (7.46, "7.5"), (99.96, "100"), (999, "999"), (999.6, "1.0k"), (12_345, "12.3k"),
    (123_456, "123k"), (1_234_567, "1.2M"), (5e12, "5.0T"), (5e15, "5000T"),
])  # fmt: skip
def test_numbers_in_short(value: float, text: str) -> None:
    assert draw.short(value) == text


def test_drawings() -> None:
    assert [draw.duration(s) for s in (2.9, 61, 3_700, 200_000)] == ["2 s", "1 min 1 s", "1 h 1 min", "2 d 7 h"]
    several = {0: "0", 10_000: "0.01", 1_234_567: "1.23", 12_345_678: "12.3", 123e6: "123"}
    assert [draw.megabytes(value) for value in several] == list(several.values())
    assert draw.sparkline([0, 1, 100, 50], 6, 100, "red").plain == "   ▁█▄"
    assert draw.graph([0, 8, 4], 3, 2, "#000000", "#ffffff").plain == " █ \n ██"
    assert draw.graph([], 2, 1, "#000000", "#ffffff").plain == "  "
    assert draw.blend("#000000", "#ffffff", 0.5) == "#808080"
    assert draw.meter(0.5, 16).plain == " █████━━━━━  50%" and draw.meter(None, 5).plain == "    –"
    for width in range(1, 200):
        view = Meter().take(status(7))
        assert len(draw.steering(view, width).plain) == width
