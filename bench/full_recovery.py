"""make recovery: the recovery experiment at the size of docs/recovery.md, series by series, and all of them together.

Takes about half an hour, on a machine that does nothing else. Each series leaves its files below build/recovery; the
table and the plot over all are written there, and the plot beside docs/recovery.md. `--join` only does that.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from neatstack.experiment.plot import draw
from neatstack.experiment.results import Fault, Series, markdown, summarize
from neatstack.experiment.stage import Combination

OUT = Path("build/recovery")
DOCS = Path("docs")
# name: faults of each kind, numbers of replicas, kinds, ways to recover
SERIES = {
    "kill": (1000, "1", "kill", "adopt"),
    "kill-more": (300, "2,4", "kill", "adopt"),
    "broke": (500, "4", "segv,abort", "adopt"),
    "flip": (1000, "4", "flip", "adopt"),
    "reset": (100, "1,2,4", "kill", "reset"),
    "hang": (100, "1", "hang", "adopt"),
}


def run(seed: int) -> None:
    for number, (name, (faults, replicas, kinds, modes)) in enumerate(SERIES.items()):
        print(f"series {name}: {faults} of each of {kinds}, {modes}, {replicas} replicas", flush=True)
        command = [sys.executable, "-c", "from neatstack.cli import main; main()", "experiment", "recovery"]
        options = ["--faults", faults, "--replicas", replicas, "--kinds", kinds, "--modes", modes]
        where = ["--seed", seed + number, "--out", OUT / name]
        subprocess.run([str(word) for word in (*command, *options, *where)], check=True)


def join(directories: list[Path]) -> str:
    """The table over all series that have been run; the plot goes beside it and into the documents."""
    series: dict[Combination, Series] = {}
    for directory in directories:
        for row in rows(directory / "faults.csv"):
            fault = Fault(**{column.name: value_of(column.type, row[column.name]) for column in fields(Fault)})
            series.setdefault(fault.combination, Series()).faults.append(fault)
        for row in rows(directory / "gaps.csv"):
            what = Combination(row["mode"], int(row["replicas"]), row["kind"])
            series[what].gaps.append(float(row["gap_ms"]))
    table = markdown([summarize(what, each) for what, each in series.items()], [])
    (OUT / "table.md").write_text(table)
    draw(series, OUT)
    shutil.copy(OUT / "recovery.png", DOCS)
    return table


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def value_of(kind: Any, text: str) -> Any:
    """A cell of a CSV file as the field has it, whose type is `kind`."""
    names = str(kind)
    if not text and "None" in names:
        return None
    if names.startswith("bool"):
        return text == "1"
    return float(text) if names.startswith("float") else int(text) if names.startswith("int") else text


def main() -> int:
    parser = argparse.ArgumentParser(prog="full_recovery", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--join", action="store_true", help="only put together what has been run")
    options = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    if not options.join:
        run(options.seed)
    print(join([OUT / name for name in SERIES if (OUT / name / "faults.csv").exists()]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
