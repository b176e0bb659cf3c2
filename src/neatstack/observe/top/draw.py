"""How numbers look in a terminal: short text, bars and sparklines, as Rich text without any widget."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from rich.text import Text

from neatstack.observe.client import Event
from neatstack.observe.rates import StackView

# One colour for each replica, told apart from its neighbours.
COLOURS = (
    "#7aa2f7", "#9ece6a", "#e0af68", "#bb9af7", "#2ac3de", "#f7768e", "#73daca", "#ff9e64",
    "#c0caf5", "#b4f9f8", "#d18616", "#8c6cf0", "#0db9d7", "#db4b4b", "#41a6b5", "#c9a26d",
)  # fmt: skip
GOOD, WARNING, BAD, DIM, ACCENT = "#9ece6a", "#e0af68", "#f7768e", "#737aa2", "#7dcfff"
ON_COLOUR = "#16161e"  # text on a replica's colour
STATES = {"running": ("●", GOOD), "draining": ("◐", WARNING), "adopting": ("◌", ACCENT), "starting": ("◌", ACCENT)}
STOPPED = ("○", DIM)
KINDS = {
    "crash": BAD, "rejuvenation": ACCENT, "upgrade": ACCENT, "scale_up": GOOD, "scale_down": WARNING,
    "drained": GOOD, "deadline": BAD, "autoscale": WARNING,
}  # fmt: skip
EIGHTHS = " ▁▂▃▄▅▆▇█"
LEFT_EIGHTHS = " ▏▎▍▌▋▊▉█"
WARM, HOT = 0.7, 0.9  # shares of busy time that are worth a look


def colour(replica: int) -> str:
    return COLOURS[replica % len(COLOURS)]


def plain(text: str) -> str:
    """What others choose, such as the name of a program: one line without control characters."""
    return "".join(character if character.isprintable() else "?" for character in text)


def short(value: float) -> str:
    """Three digits that count: 0, 7.5, 999, 12.3k, 1.2M."""
    units = iter(("k", "M", "G", "T"))
    unit = ""
    while abs(value) >= 999.5 and unit != "T":
        value, unit = value / 1000, next(units)
    if value == 0 or abs(value) >= 99.95 or (not unit and value == int(value)):
        return f"{value:.0f}{unit}"
    return f"{value:.1f}{unit}" if abs(value) >= 0.05 or unit else "0"


def megabytes(value: float) -> str:
    """Bytes as MB, with as many digits as it takes."""
    value /= 1e6
    if value >= 99.95:
        return short(value)
    if value >= 9.995:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.005 else "0"


def duration(seconds: float) -> str:
    """2 s, 3 min 4 s, 5 h 6 min, 7 d 8 h."""
    left = int(seconds)
    for size, big, lesser, little in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if left >= size:
            return f"{left // size} {big} {left % size // lesser} {little}"
    return f"{left} s"


def share_colour(share: float) -> str:
    return BAD if share >= HOT else WARNING if share >= WARM else GOOD


def meter(share: float | None, width: int) -> Text:
    """A bar and a percentage, with a space before; only the latter when it is narrow."""
    if share is None:
        return Text("–".rjust(width), style=DIM)
    percent = f"{round(100 * share)}%".rjust(4)
    cells = width - 6
    text = Text()
    if cells > 1:
        eighths = round(share * cells * 8)
        full, part = divmod(eighths, 8)
        bar = "█" * full + (LEFT_EIGHTHS[part] if part else "")
        text.append(" ")
        text.append(bar, style=share_colour(share))
        text.append("━" * (cells - len(bar)), style="#2a2e42")
        text.append(" ")
    else:
        text.append(" " * (width - 4))
    return text.append(percent, style=share_colour(share) if share >= WARM else "")


def resampled(values: Sequence[float], width: int) -> list[float]:
    """The newest `width` values, the older ones missing as zeros."""
    newest = list(values[-width:]) if width > 0 else []
    return [0.0] * (width - len(newest)) + newest


def sparkline(values: Sequence[float], width: int, top: float, style: str) -> Text:
    """One line; `top` is the value that fills the cell."""
    text = Text()
    for value in resampled(values, width):
        level = round(value / top * 8) if top > 0 else 0
        text.append(EIGHTHS[min(max(level, value > 0), 8)], style=style)
    return text


def graph(values: Sequence[float], width: int, height: int, low: str, high: str) -> Text:
    """Columns of `height` lines, coloured by how high they are."""
    shown = resampled(values, width)
    top = max(shown, default=0.0)
    levels = [0 if top <= 0 else max(round(value / top * height * 8), value > 0) for value in shown]
    text = Text(no_wrap=True)
    for line in reversed(range(height)):
        style = blend(low, high, line / max(height - 1, 1))
        text.append("".join(EIGHTHS[min(max(level - 8 * line, 0), 8)] for level in levels), style=style)
        if line:
            text.append("\n")
    return text


def blend(low: str, high: str, part: float) -> str:
    """A colour between two."""
    ends = [[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in (low, high)]
    return "#" + "".join(f"{round(a + (b - a) * part):02x}" for a, b in zip(*ends, strict=True))


def steering(view: StackView, width: int) -> Text:
    """A bar with each replica's share of the buckets, as wide as its share and named where there is room."""
    owners = [replica for replica in view.replicas if replica.buckets]
    total = sum(replica.buckets for replica in owners)
    if not total or width <= 0:
        return Text("nobody takes new connections".ljust(width), style=BAD)
    text, taken, seen = Text(no_wrap=True), 0, 0
    for replica in owners:
        seen += replica.buckets
        cells = round(seen / total * width) - taken
        taken += cells
        percent = f"{100 * replica.buckets / total:.0f}%"
        names = (f"replica {replica.id}: {percent}", f"{replica.id}: {percent}", f"{replica.id}", "")
        label = next(name for name in names if len(name) <= max(cells - 2, 0) or not name)
        text.append(label.center(cells), style=f"bold {ON_COLOUR} on {colour(replica.id)}")
    return text


def event_line(event: Event) -> Text:
    """One event: when, what, and what it has cost."""
    text = Text(no_wrap=True, overflow="ellipsis")
    clock = datetime.datetime.fromtimestamp(event.time).strftime("%H:%M:%S") if event.time else "--:--:--"
    text.append(f"{clock} ", style=DIM)
    text.append(f"{plain(event.kind).replace('_', ' '):<13}", style=f"bold {KINDS.get(event.kind, ACCENT)}")
    if event.gap_ms is not None:
        text.append(f"{event.gap_ms:8.1f} ms  ", style=share_colour(min(event.gap_ms / 100, 1.0)))
    else:
        text.append(" " * 13)
    if event.lost:
        text.append(f"{event.lost} lost  ", style=f"bold {BAD}")
    text.append(plain(event.text))
    return text
