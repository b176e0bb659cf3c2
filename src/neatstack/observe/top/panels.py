"""The parts of the screen above and below the table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from textual.app import RenderResult
from textual.containers import VerticalScroll
from textual.widget import Widget
from textual.widgets import Static

from neatstack.observe.client import Event
from neatstack.observe.rates import StackView
from neatstack.observe.top import draw
from neatstack.observe.top.table import series_of

SHOWN_EVENTS = 100


def spaced(*parts: Text | str | None) -> Text:
    """The parts that there are, with dots between."""
    return Text.assemble(("  ·  ", draw.DIM)).join(Text(p) if isinstance(p, str) else p for p in parts if p)


def count(number: int, one: str, several: str | None = None) -> str:
    return f"{number} {one if number == 1 else several or one + 's'}"


class Heading(Widget):
    """Which stack it is, how it stands, and whether it answers."""

    view: StackView | None = None
    problem: str | None = None
    silent_for = 0.0
    stack = ""

    def render(self) -> RenderResult:
        grid = Table.grid(expand=True, padding=0)
        grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        grid.add_column(no_wrap=True, justify="right")
        grid.add_row(self._identity(), self._health())
        lines: list[RenderableType] = [grid, self._state()]
        return Group(*lines)

    def _identity(self) -> Text:
        view = self.view
        name = Text(f"NEaT {draw.plain(view.name if view else self.stack)}", style=f"bold {draw.ACCENT}")
        if view is None:
            return name
        return spaced(
            name,
            f"{view.address} on {view.device}",
            f"version {draw.plain(view.version)}" if view.version else None,
            f"up {draw.duration(view.uptime)}" if view.uptime is not None else None,
        )

    def _health(self) -> Text:
        if self.problem:
            return Text(f"● no answer for {self.silent_for:.1f} s", style=f"bold {draw.BAD}")
        if self.view is None:
            return Text("◌ asking", style=draw.DIM)
        return Text("● live", style=f"bold {draw.GOOD}")

    def _state(self) -> Text:
        view = self.view
        if self.problem:
            return Text(f"{draw.plain(self.problem)}; what was known last:", style=draw.BAD, no_wrap=True)
        if view is None:
            return Text("")
        line = spaced(
            f"{view.active} of {view.max_replicas} active",
            Text(f"{len(view.draining)} draining", style=draw.WARNING) if view.draining else None,
            Text(draw.plain(view.under_way), style=draw.WARNING) if view.under_way else None,
            Text(f"{count(view.wrong_replica, 'packet')} at the wrong replica", style=f"bold {draw.BAD}")
            if view.wrong_replica
            else None,
            Text(
                f"{view.spares_ready}/{count(view.spares, 'spare')} ready",
                style="" if view.spares_ready else draw.WARNING,
            ),
            count(view.pins, "pin"),
            count(view.programs, "program"),
            Text(f"{draw.short(view.queue_drops)} queue drops", style=draw.WARNING) if view.queue_drops else None,
            f"scales {view.auto.get('min')} to {view.auto.get('max')} by itself" if view.auto else None,
            f"rejuvenates every {draw.duration(view.rejuvenation.get('every') or 0)}" if view.rejuvenation else None,
        )
        line.no_wrap, line.overflow = True, "ellipsis"
        return line


class Load(Widget):
    """The whole stack's requests per second, newest on the right."""

    view: StackView | None = None

    def show(self, view: StackView) -> None:
        self.view = view
        series = series_of(view)
        values = view.history[series]
        now = values[-1] if values else 0.0
        name = series.replace("_", " ").replace("packets in", "packets")
        self.border_title = f"{name}/s: {draw.short(now)}, peak {draw.short(max(values, default=0.0))}"
        rates = view.rates
        self.border_subtitle = (
            f"{draw.short(view.connections)} connections · {draw.short(rates.packets)} packets/s · "
            f"{draw.megabytes(rates.bytes_in)} MB/s in, {draw.megabytes(rates.bytes_out)} out · "
            f"{draw.short(rates.drops)} drops/s"
        )
        self.refresh()

    def render(self) -> RenderResult:
        if self.view is None:
            return ""
        values = self.view.history[series_of(self.view)]
        return draw.graph(values, self.size.width, self.size.height, "#3d59a1", draw.ACCENT)


class Steering(Widget):
    """Who takes which share of new connections."""

    BORDER_TITLE = "steering: share of new connections"
    view: StackView | None = None

    def render(self) -> RenderResult:
        return draw.steering(self.view, self.size.width) if self.view else ""


class Events(VerticalScroll):
    """What has happened, newest first."""

    BORDER_TITLE = "events"
    can_focus = False

    def compose(self):  # type: ignore[no-untyped-def]
        yield Static("", id="lines")

    def show(self, events: Sequence[Event]) -> None:
        lines = [draw.event_line(event) for event in list(events)[: -SHOWN_EVENTS - 1 : -1]]
        nothing = Text("nothing has happened yet", style=draw.DIM)
        self.query_one("#lines", Static).update(Group(*lines) if lines else nothing)
