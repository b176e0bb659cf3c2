"""The application: looks at the stack once per interval, and does what keys say without keeping the screen waiting."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.screen import Screen
from textual.widgets import Footer

from neatstack.control.errors import NeatError
from neatstack.observe import client
from neatstack.observe.client import Feed
from neatstack.observe.top import draw
from neatstack.observe.top.dialogs import Help, Question
from neatstack.observe.top.panels import Events, Heading, Load, Steering, count
from neatstack.observe.top.table import ReplicaTable

UNKNOWN = "no such request"  # how a manager answers to what it does not know
SILENT_CLOCK = 0.2  # seconds between two updates of how long there was no answer


class Command(Protocol):
    """One request that changes something, and its answer. Raises NeatError."""

    def __call__(self, name: str, **request: Any) -> Awaitable[dict[str, Any]]: ...


class Top(App[None]):
    """`neat top`."""

    TITLE = "neat top"
    CSS_PATH = "top.tcss"
    ENABLE_COMMAND_PALETTE = False
    VERTICAL_BREAKPOINTS = [(0, "-tiny"), (22, "-short"), (32, "-tall")]
    BINDINGS = [
        Binding("k", "kill", "kill"),
        Binding("plus,equals_sign", "scale(1)", "one more", key_display="+"),
        Binding("minus", "scale(-1)", "one less", key_display="-"),
        Binding("r", "rejuvenate", "rejuvenate"),
        Binding("question_mark,h", "help", "help", key_display="?"),
        Binding("q,ctrl+c", "quit", "quit", key_display="q"),
    ]

    def __init__(self, feed: Feed, interval: float = 1.0, command: Command = client.command) -> None:
        super().__init__()
        self.feed, self.interval = feed, interval
        self._command = command
        self._under_way: set[str] = set()  # commands that have not been answered

    def compose(self) -> ComposeResult:
        yield Heading()
        yield Load()
        yield Steering()
        yield ReplicaTable()
        yield Events()
        yield Footer()

    def on_mount(self) -> None:
        self.query_one(Heading).stack = self.feed.name
        self.query_one(ReplicaTable).focus()
        for number in (signal.SIGTERM, signal.SIGHUP):  # the terminal is to be as it was
            asyncio.get_running_loop().add_signal_handler(number, self.exit, None, 128 + number)
        self.set_interval(SILENT_CLOCK, self._show_silence)
        self.run_worker(self._watch(), name="watch")

    async def _watch(self) -> None:
        silent_for, managers = 0.0, 0
        async with contextlib.aclosing(self.feed.follow(self.interval)) as rounds:
            async for answered in rounds:
                view = self.feed.view
                if answered and silent_for:
                    self.notify(f"the stack answers again, after {silent_for:.1f} s", markup=False)
                if view and view.manager_restarts > managers:
                    managers = view.manager_restarts
                    self.notify("another manager has taken over; connections did not notice")
                silent_for = self.feed.silent_for
                self._show()

    @property
    def _base(self) -> Screen[Any] | None:
        """The screen beneath all dialogs; None when the application is ending."""
        return self.screen_stack[0] if self.is_running and self.screen_stack else None

    def _show(self) -> None:
        base, view = self._base, self.feed.view
        if base is None:
            return
        heading = base.query_one(Heading)
        heading.view, heading.problem, heading.silent_for = view, self.feed.problem, self.feed.silent_for
        heading.refresh()
        base.set_class(self.feed.problem is not None, "silent")
        if view is None:
            return
        base.query_one(Load).show(view)
        steering = base.query_one(Steering)
        steering.view = view
        steering.refresh()
        base.query_one(ReplicaTable).show(view)
        base.query_one(Events).show(self.feed.events)

    def _show_silence(self) -> None:
        if self.feed.problem and (base := self._base):
            heading = base.query_one(Heading)
            heading.silent_for = self.feed.silent_for
            heading.refresh()

    def action_help(self) -> None:
        self.push_screen(Help())

    def action_kill(self) -> None:
        replica = self.query_one(ReplicaTable).selected
        if replica is None:
            self._refuse("there is no replica to kill")
            return

        def answered(yes: bool | None) -> None:
            if yes:
                request = {"target": str(replica.id), "fault": "kill", "seed": None}
                self._do("kill", request, lambda a: f"killed replica {replica.id} (pid {a.get('pid')})")

        connections = count(replica.connections, "connection")
        consequence = f"A spare takes over its {connections}; the others do not notice."
        self.push_screen(Question(f"Kill replica {replica.id} (pid {replica.pid})?", consequence), answered)

    def action_scale(self, step: int) -> None:
        view = self.feed.view
        if view is None:
            self._refuse("nothing is known of the stack yet")
            return
        wanted = view.active + step
        if wanted < 1:
            self._refuse("one replica must stay active")
        elif wanted > view.max_replicas:
            self._refuse(f"there can be at most {view.max_replicas} replicas; start the stack with more --max-replicas")
        else:
            self._do("scale", {"replicas": wanted, "deadline": None}, scaled)

    def action_rejuvenate(self) -> None:
        if self._do("rejuvenate", {}, rejuvenated):
            self.notify("replacing the replicas' processes one after the other")

    def _do(self, op: str, request: dict[str, Any], tell: Callable[[dict[str, Any]], str]) -> bool:
        """Ask for it in the background, and notify of what comes of it. Is it under way now?"""
        if op in self._under_way:
            self._refuse(f"the last {op} has not been answered yet; try again")
            return False
        self._under_way.add(op)

        async def do() -> None:
            try:
                answer = await self._command(self.feed.name, op=op, **request)
                self.notify(draw.plain(tell(answer)), markup=False)
            except NeatError as error:
                unknown = f"the manager of this stack knows no {op}; it is of an older version"
                self._refuse(unknown if str(error) == UNKNOWN else str(error))
            finally:
                self._under_way.discard(op)

        self.run_worker(do(), name=op)
        return True

    def _refuse(self, why: str) -> None:
        self.notify(draw.plain(why), severity="error", markup=False)


def scaled(answer: dict[str, Any]) -> str:
    """What `scale` has done."""
    line = f"{answer.get('from')} → {answer.get('to')} active replicas"
    if isinstance(answer.get("took_ms"), int | float):
        line += f" in {answer['took_ms']:.0f} ms"
    draining = answer.get("draining")
    return f"{line}; draining: {', '.join(map(str, draining))}" if draining else line


def rejuvenated(answer: dict[str, Any]) -> str:
    """What `rejuvenate` has done."""
    told = answer.get("replaced")
    replaced = [each for each in told if isinstance(each, dict)] if isinstance(told, list) else []
    gaps = [each["gap_ms"] for each in replaced if isinstance(each.get("gap_ms"), int | float)]
    lost = sum(each.get("lost") or 0 for each in replaced)
    longest = f", longest gap {max(gaps):.1f} ms" if gaps else ""
    return f"{count(len(replaced), 'replica')} replaced{longest}, {count(lost, 'connection')} lost"
