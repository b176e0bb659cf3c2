"""The experiment's files: a row for each fault and gap, and per series what they come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from neatstack.experiment import tables
from neatstack.experiment.stage import Combination
from neatstack.experiment.tables import Columns, Files, cell, percentile


@dataclass
class Fault:
    """One fault and what came of it. Times in ms unless named otherwise; None: never, or nothing to say."""

    mode: str
    replicas: int
    kind: str
    number: int
    seed: int
    replica: int
    time_s: float  # since the load of its series began
    connections_before: int  # of the replica that was hit
    connections_lost: int  # of all
    failed_requests: int
    gap_p50_ms: float | None
    gap_p99_ms: float | None
    gap_max_ms: float | None
    wrong_bytes: int
    recovered: bool  # nothing lost, failed or wrong, and all connections served again
    how: str  # adopt, suspect, reset, fresh; none: no process has ended
    adopted: int | None  # connections, as the stack says
    lost_by_stack: int | None
    serving_ms: float | None  # until every connection was served again
    what: str  # the bit that was flipped

    @property
    def combination(self) -> Combination:
        return Combination(self.mode, self.replicas, self.kind)


@dataclass
class Series:
    """The faults of one combination, and every gap in ms."""

    faults: list[Fault] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    rate: float | None = None  # answers a second over the whole series

    @property
    def wrong(self) -> int:
        return sum(fault.wrong_bytes for fault in self.faults)


def summarize(what: Combination, series: Series) -> dict[str, Any]:
    """One row of summary.csv."""
    faults, gaps = series.faults, series.gaps
    lost = [fault.connections_lost for fault in faults]
    serving = [fault.serving_ms for fault in faults if fault.serving_ms is not None]
    return {
        "mode": what.mode,
        "replicas": what.replicas,
        "kind": what.kind,
        "faults": len(faults),
        "without_loss": sum(fault.recovered for fault in faults) / len(faults) if faults else None,
        "lost_mean": sum(lost) / len(lost) if lost else None,
        "lost_max": max(lost, default=None),
        "failed_requests": sum(fault.failed_requests for fault in faults),
        "gap_p50_ms": percentile(gaps, 0.5),
        "gap_p99_ms": percentile(gaps, 0.99),
        "gap_max_ms": max(gaps, default=None),
        "wrong_bytes": series.wrong,
        "serving_p50_ms": percentile(serving, 0.5),
        "serving_max_ms": max(serving, default=None),
        "not_served_again": len(faults) - len(serving),
        "answers_per_s": series.rate,
    }


TABLE: Columns = {
    "recovery": ("mode", ""),
    "replicas": ("replicas", ""),
    "fault": ("kind", ""),
    "injected": ("faults", ",d"),
    "without loss": ("without_loss", ".1%"),
    "lost per fault, mean": ("lost_mean", ".2f"),
    "max": ("lost_max", "d"),
    "failed requests": ("failed_requests", ",d"),
    "gap p50, ms": ("gap_p50_ms", ".1f"),
    "p99": ("gap_p99_ms", ".1f"),
    "max ": ("gap_max_ms", ".1f"),
    "wrong bytes": ("wrong_bytes", "d"),
    "serving again, max ms": ("serving_max_ms", ".1f"),
}


def markdown(summary: Sequence[dict[str, Any]], about: Sequence[str]) -> str:
    """The table. A fault after which service did not come back is marked."""
    marks = [f" (never: {row['not_served_again']})" if row["not_served_again"] else "" for row in summary]
    return tables.markdown(TABLE, summary, about, marks)


class Results(Files):
    """Rows go to faults.csv and gaps.csv as they come; what sums them up is written by finish()."""

    def __init__(self, out: Path) -> None:
        super().__init__(out)
        self.series: dict[Combination, Series] = {}
        self.faults = self.open("faults.csv", [column.name for column in fields(Fault)])
        self.gaps = self.open("gaps.csv", ["mode", "replicas", "kind", "number", "connection", "gap_ms", "lost"])

    def add(self, fault: Fault, gaps: dict[int, float], lost: set[int]) -> None:
        """A fault, the gap in ms of each affected connection, and which of them were lost."""
        series = self.series.setdefault(fault.combination, Series())
        series.faults.append(fault)
        series.gaps += gaps.values()
        self.faults.writerow([cell(getattr(fault, column.name)) for column in fields(Fault)])
        about = [fault.mode, fault.replicas, fault.kind, fault.number]
        self.gaps.writerows([*about, place, cell(gap), cell(place in lost)] for place, gap in gaps.items())
        self.flush()

    def rate(self, what: Combination, answers_per_s: float) -> None:
        if what in self.series:
            self.series[what].rate = answers_per_s

    @property
    def wrong(self) -> int:
        return sum(series.wrong for series in self.series.values())

    def finish(self, about: Sequence[str]) -> str:
        """Write summary.csv and table.md; the table."""
        summary = [summarize(what, series) for what, series in self.series.items()]
        return self.close(list(summarize(Combination("", 0, ""), Series())), summary, markdown(summary, about))
