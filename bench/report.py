"""build/bench.json and the tables."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.measure import METRICS, Metric

Rounds = list[float | None]  # None: this round failed


class Results:
    """The rounds of each figure on each side, and what went wrong."""

    def __init__(self, settings: dict[str, Any]):
        self.settings = settings
        self.rounds: dict[str, dict[str, Rounds]] = {
            m.key: {"neat": [], **({m.against: []} if m.against else {})} for m in METRICS
        }
        self.errors: list[str] = []

    def add(self, key: str, side: str, value: float | None) -> None:
        self.rounds[key][side].append(value)

    def median(self, key: str, side: str) -> float | None:
        good = [value for value in self.rounds[key].get(side, []) if value is not None]
        return median(good) if good else None

    def ratio(self, metric: Metric) -> float | None:
        """Ours over the other side's; None without both."""
        if metric.paired:
            pairs = zip(self.rounds[metric.key]["neat"], self.rounds[metric.key][metric.against], strict=True)
            ratios = [ours / theirs for ours, theirs in pairs if ours and theirs]
            return median(ratios) if ratios else None
        ours, theirs = self.median(metric.key, "neat"), self.median(metric.key, metric.against)
        return ours / theirs if ours is not None and theirs else None

    def measured(self) -> list[Metric]:
        return [m for m in METRICS if any(self.rounds[m.key].values())]

    def missed(self) -> list[Metric]:
        """Figures of ours whose goal is not reached."""
        ours = [m for m in self.measured() if self.rounds[m.key]["neat"]]
        return [m for m in ours if m.met(self.ratio(m), self.median(m.key, "neat")) is False]

    def write(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        values: dict[str, Any] = {
            m.key: {**self.rounds[m.key], "unit": m.unit, "ratio": self.ratio(m)} for m in self.measured()
        }
        values["about"] = {**self.settings, **machine(), "errors": self.errors}
        file.write_text(json.dumps(values, indent=2) + "\n")

    def print(self, console: Console) -> None:
        measured = self.measured()
        title = f"medians of {self.settings['rounds']} rounds, alternately"
        self.table(console, title, "kernel", [m for m in measured if m.against == "kernel"])
        costs = [m for m in measured if m.against != "kernel"]
        self.table(console, "what recovery and elasticity cost", "no journal", costs)
        for error in self.errors:
            console.print(f"failed: {error}", style="red", markup=False)

    def table(self, console: Console, title: str, other: str, metrics: list[Metric]) -> None:
        if not metrics:
            return
        table = Table(title=title)
        table.add_column("")
        for column in (other, "neat", "ratio", "goal"):
            table.add_column(column, justify="right")
        for m in metrics:
            ours, theirs = self.median(m.key, "neat"), self.median(m.key, m.against)
            name = f"{m.title}, {m.unit}" if m.unit else m.title
            table.add_row(name, show(theirs), show(ours), show(self.ratio(m)), self.goal(m))
        console.print(table)

    def goal(self, metric: Metric) -> str:
        if metric.goal is None:
            return ""
        sign = "≥" if metric.at_least else "≤"
        result = "[red]missed" if metric in self.missed() else "[green]met"
        return f"{sign} {metric.goal:g} {result if self.rounds[metric.key]['neat'] else ''}"


def show(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 20 else f"{value:.2f}"


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {"kernel_release": platform.release(), "cpu": (names or [platform.machine()])[0], "cores": os.cpu_count()}
