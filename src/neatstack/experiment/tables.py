"""Rows in files, and tables to read: what the experiments have in common."""

from __future__ import annotations

import csv
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, ClassVar, Generic, TextIO, TypeVar

NUMBER_FORMAT = ".3f"
Outcome = TypeVar("Outcome")  # a dataclass
Columns = dict[str, tuple[str, str]]  # title: (column of the summary, how it is shown)


def percentile(values: Sequence[float], part: float) -> float | None:
    """The nearest rank: the least value that `part` (of 1) of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)] if ordered else None


def show(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)


def cell(value: Any) -> Any:
    """A value as the CSV files have it: nothing for None, three places for fractions, 0 or 1 for truth."""
    if isinstance(value, bool):
        return int(value)
    return format(value, NUMBER_FORMAT) if isinstance(value, float) else value


def markdown(
    columns: Columns, rows: Sequence[dict[str, Any]], about: Sequence[str] = (), marks: Sequence[str] = ()
) -> str:
    """A table, and under it what it was measured with. `marks` are put behind the last cells of the rows."""
    lines = ["| " + " | ".join(title.strip() for title in columns) + " |"]
    lines.append("|" + "|".join("---" if not form else "---:" for _, form in columns.values()) + "|")
    for row, mark in zip(rows, marks or [""] * len(rows), strict=True):
        cells = [show(row[column], form) for column, form in columns.values()]
        lines.append("| " + " | ".join(cells) + f"{mark} |")
    return "\n".join([*lines, "", *(f"{line}  " for line in about)]).rstrip() + "\n"


def machine() -> str:
    """What it was measured on, in a line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{(models or [platform.machine()])[0]}, {os.cpu_count()} cores, Linux {platform.release()}."


class Files:
    """CSV files in one directory, whose rows are there as soon as they are known, and what sums them up."""

    def __init__(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out = out
        self.files: list[TextIO] = []

    def open(self, name: str, columns: Sequence[str]) -> Any:
        """A writer of rows."""
        file = (self.out / name).open("w", newline="")
        self.files.append(file)
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        return writer

    def flush(self) -> None:
        for file in self.files:
            file.flush()

    def close(self, columns: Sequence[str], summary: Sequence[dict[str, Any]], table: str) -> str:
        """Write summary.csv and table.md; the table."""
        writer = self.open("summary.csv", columns)
        writer.writerows([cell(row[column]) for column in columns] for row in summary)
        for file in self.files:
            file.close()
        (self.out / "table.md").write_text(table)
        return table


class Outcomes(Files, Generic[Outcome]):
    """An outcome is a row of summary.csv and of the table; both are written by finish()."""

    kind: ClassVar[type[Any]]  # of an outcome: the columns of the summary
    columns: ClassVar[Columns]

    def __init__(self, out: Path) -> None:
        super().__init__(out)
        self.outcomes: list[Outcome] = []

    def shown(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row of the summary as the table has it."""
        return row

    def finish(self, about: Sequence[str]) -> str:
        """Write summary.csv and table.md; the table."""
        rows: list[dict[str, Any]] = [asdict(outcome) for outcome in self.outcomes]  # type: ignore[call-overload]
        table = markdown(self.columns, [self.shown(row) for row in rows], about)
        return self.close([column.name for column in fields(self.kind)], rows, table)
