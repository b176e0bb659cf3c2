"""The table of replicas: as many columns as there is room for, and a history that takes what is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.text import Text
from textual.widgets import DataTable

from neatstack.observe.rates import ReplicaView, StackView
from neatstack.observe.top import draw

HISTORY_LEAST = 8
BUSY_WIDE = 12  # with a bar


@dataclass(frozen=True)
class Column:
    """One column. Those with the highest `rank` go first when there is no room for all."""

    key: str
    title: str
    width: int
    rank: int
    cell: Callable[[ReplicaView, int], Text | str]
    left: bool = False


def state(replica: ReplicaView, width: int) -> Text:
    sign, style = draw.STATES.get(replica.state, draw.STOPPED)
    return Text.assemble((sign, style), " ", (replica.state, style))


def drops(replica: ReplicaView, width: int) -> Text:
    style = draw.BAD if replica.rates.drops > 0 else draw.DIM if not replica.dropped else ""
    return Text(draw.short(replica.dropped), style=style)


def recoveries(replica: ReplicaView, width: int) -> Text:
    return Text(draw.short(replica.recoveries), style=draw.WARNING if replica.recoveries else draw.DIM)


COLUMNS = (
    Column("id", "id", 3, 0, lambda r, w: Text(f"{r.id:>2}", style=f"bold {draw.colour(r.id)}"), True),
    Column("state", "state", 10, 0, state, True),
    Column("pid", "pid", 7, 2, lambda r, w: Text(str(r.pid), style=draw.DIM)),
    Column("incarnation", "incar-\nnation", 6, 5, lambda r, w: draw.short(r.incarnation)),
    Column("busy", "busy", 5, 0, lambda r, w: draw.meter(r.busy, w)),
    Column("connections", "conns", 6, 0, lambda r, w: draw.short(r.connections)),
    Column("requests", "req/s", 6, 0, lambda r, w: Text(draw.short(r.rates.requests), style="bold")),
    Column("packets_in", "pkts/s\nin", 6, 3, lambda r, w: draw.short(r.rates.packets_in)),
    Column("packets_out", "pkts/s\nout", 6, 3, lambda r, w: draw.short(r.rates.packets_out)),
    Column("bytes_in", "MB/s\nin", 5, 0, lambda r, w: draw.megabytes(r.rates.bytes_in)),
    Column("bytes_out", "MB/s\nout", 5, 0, lambda r, w: draw.megabytes(r.rates.bytes_out)),
    Column("drops", "drops", 6, 4, drops),
    Column("buckets", "buck-\nets", 5, 0, lambda r, w: draw.short(r.buckets)),
    Column("pins", "pins", 5, 4, lambda r, w: draw.short(r.pins)),
    Column("recoveries", "re-\nstarts", 6, 1, recoveries),
)


def fitting(room: int) -> tuple[list[tuple[Column, int]], int]:
    """The columns that fit into `room` cells with their widths, and the width of the history beside them."""
    chosen = sorted(COLUMNS, key=lambda column: column.rank)
    while len(chosen) > 1 and sum(column.width + 1 for column in chosen) + HISTORY_LEAST > room:
        chosen.pop()
    left = room - sum(column.width + 1 for column in chosen)
    widths = {column.key: column.width for column in chosen}
    if "busy" in widths and left - (BUSY_WIDE - widths["busy"]) >= 2 * HISTORY_LEAST:
        left -= BUSY_WIDE - widths["busy"]
        widths["busy"] = BUSY_WIDE
    return [(column, widths[column.key]) for column in COLUMNS if column.key in widths], max(left, HISTORY_LEAST)


class ReplicaTable(DataTable[Text]):
    """One row for each replica; the cursor stays on its replica when others come and go."""

    BORDER_TITLE = "replicas"

    def __init__(self) -> None:
        super().__init__(
            cursor_type="row", cursor_foreground_priority="renderable", header_height=2, cell_padding=0, id="replicas"
        )
        self._view: StackView | None = None
        self._layout: tuple[list[tuple[Column, int]], int] | None = None

    @property
    def selected(self) -> ReplicaView | None:
        """The replica under the cursor."""
        if self._view is None or not 0 <= self.cursor_row < len(self._view.replicas):
            return None
        return self._view.replicas[self.cursor_row]

    def on_resize(self) -> None:
        if self._view:
            self.show(self._view)

    def show(self, view: StackView) -> None:
        """Draw a view."""
        layout = fitting(self.size.width - 1)
        before, row_before = self.selected, self.cursor_row
        self._view = view
        same = layout == self._layout and self.row_count == len(view.replicas)
        if not same:
            self._layout = layout
            self._rebuild(layout)
        for row, cells in enumerate(self._rows(view, *layout)):
            if same:
                for column, cell in enumerate(cells):
                    if self.get_cell_at((row, column)) != cell:  # type: ignore[arg-type]
                        self.update_cell_at((row, column), cell)  # type: ignore[arg-type]
            else:
                self.add_row(*cells)
        if before:
            ids = [replica.id for replica in view.replicas]
            self.move_cursor(row=ids.index(before.id) if before.id in ids else min(row_before, len(ids) - 1))

    def _rebuild(self, layout: tuple[list[tuple[Column, int]], int]) -> None:
        self.clear(columns=True)
        columns, history = layout
        for column, width in columns:
            self.add_column(aligned(Text(column.title, style="bold"), width, column.left), width=width + 1)
        self.add_column(Text(" history", style="bold"), width=history)

    def _rows(self, view: StackView, columns: list[tuple[Column, int]], history: int) -> list[list[Text]]:
        series = series_of(view)
        top = max((max(r.history[series][-history:], default=0.0) for r in view.replicas), default=0.0)
        rows = []
        for replica in view.replicas:
            cells = []
            for column, width in columns:
                cell = column.cell(replica, width)
                cells.append(aligned(Text(cell) if isinstance(cell, str) else cell, width, column.left))
            line = draw.sparkline(replica.history[series], history - 2, top, draw.colour(replica.id))
            rows.append([*cells, Text(" ") + line])
        return rows


def aligned(text: Text, width: int, left: bool) -> Text:
    """Each line of it in its column, with a cell to spare on the right."""
    lines = text.split("\n")
    for line in lines:
        line.align("left" if left else "right", width)
        line.append(" ")
    return Text("\n").join(lines)


def series_of(view: StackView) -> str:
    """What the history shows: requests, or packets of a stack that does not count requests."""
    counts = any("requests" in replica.counters for replica in view.replicas)
    return "requests" if counts or not view.replicas else "packets_in"
