"""scaling.png and scaling.svg: requests a second, CPU time and instructions of each, over the number of replicas."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neatstack.experiment.plot import drawing
from neatstack.experiment.scaling import KERNEL

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")


def draw(summary: Sequence[dict[str, Any]], counts: Sequence[dict[str, Any]], out: Path) -> None:
    """Write both files. Needs matplotlib: ImportError without it."""
    with drawing(out / "scaling", 3) as (rates, costs, instructions):
        _curves(rates, summary, "rate", "requests/s", "Throughput")
        _curves(costs, summary, "cores_us", "CPU time of the server side, µs", "CPU time of a request")
        _instructions(instructions, counts)


def _curves(axes: Any, summary: Sequence[dict[str, Any]], column: str, unit: str, title: str) -> None:
    """One curve for each number of server processes; the kernel's value is a dashed line of the same colour."""
    for number, servers in enumerate(dict.fromkeys(row["servers"] for row in summary)):
        colour = COLOURS[number % len(COLOURS)]
        mine = [row for row in summary if row["servers"] == servers]
        points = sorted((row["replicas"], row[column]) for row in mine if row["replicas"] != KERNEL)
        label = f"{servers} server process{'es' * (servers > 1)}"
        axes.plot(*zip(*points, strict=True) if points else ([], []), "o-", color=colour, label=label)
        for row in mine:
            if row["replicas"] == KERNEL:
                axes.axhline(row[column], linestyle="--", color=colour, label=f"{label}, the kernel's stack")
    axes.set(xlabel="replicas", ylabel=unit, title=title)
    axes.set_ylim(bottom=0)
    axes.set_xticks(sorted({row["replicas"] for row in summary} - {KERNEL}))
    axes.grid(alpha=0.3)
    if summary:
        axes.legend(fontsize="small")


def _instructions(axes: Any, counts: Sequence[dict[str, Any]]) -> None:
    """A bar for each number of replicas."""
    bars = axes.bar([str(row["replicas"]) for row in counts], [row["each"] for row in counts], color="#0072b2")
    axes.bar_label(bars, [f"{row['each']:,.0f}" for row in counts], fontsize="small")
    axes.set(xlabel="replicas", ylabel="instructions of the replicas, in user space", title="Instructions of a request")
    axes.grid(alpha=0.3, axis="y")
    axes.set_axisbelow(True)
