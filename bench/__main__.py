"""python -m bench: the kernel's stack and ours alternately, and what recovery and elasticity cost.

Two tables, and build/bench.json.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench import nojournal
from bench.costs import ONCE, Once
from bench.measure import METRICS, RUNS, SLICED, Run
from bench.report import Results
from bench.soak import soak
from neatstack.control.errors import NeatError
from neatstack.experiment.netns import Lab, LabError
from neatstack.experiment.sides import Cores, Place, kernel, neat

OUTPUT = Path("build/bench.json")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of every measurement on each side (5)")
    parser.add_argument("--seconds", type=float, default=4.0, help="duration of one measurement (4)")
    parser.add_argument("--replicas", type=int, default=1, help="of our stack, all on the one server core (1)")
    parser.add_argument("--only", nargs="+", choices=[m.key for m in METRICS], help="measure only these")
    parser.add_argument("--kernel-only", action="store_true", help="leave out our side")
    parser.add_argument("--check", action="store_true", help="exit status 1 unless every goal is met")
    parser.add_argument("--soak", type=float, nargs="?", const=30.0, metavar="SECONDS", help="only the long run (30)")
    return parser.parse_args()


def compare(options: argparse.Namespace, console: Console) -> bool:
    """All of it. Were there no failures and, with --check, all goals met?"""
    results = Results({"rounds": options.rounds, "seconds": options.seconds, "replicas": options.replicas})
    wanted = {m.key for m in METRICS if not options.only or m.key in options.only}
    if options.kernel_only:
        wanted &= {m.key for m in METRICS if m.against == "kernel"}
    for other, all_runs in RUNS.items():
        runs = {keys: run for keys, run in all_runs.items() if not wanted.isdisjoint(keys)}
        if runs:
            try:
                with Lab() as lab:
                    rounds(results, other, runs, sides(lab, other, options, console), options, console)
            except LabError as error:
                results.errors.append(f"against {other}: {error}")
    with Lab() as lab:
        for keys, once in ONCE.items():
            if not wanted.isdisjoint(keys):
                measure_once(results, keys, once, lab)
    results.write(OUTPUT)
    results.print(console)
    console.print(f"written to {OUTPUT}", style="dim")
    return not results.errors and not (options.check and results.missed())


def sides(lab: Lab, other: str, options: argparse.Namespace, console: Console) -> list[Place]:
    """What we are measured against, and our own side."""
    cores = Cores.choose()
    if other == "kernel":
        places = [kernel(lab, cores)]
    else:
        console.print("building without the journal what has changed", style="dim")
        places = [neat(lab, cores, options.replicas, bulk=False, name=other, source=nojournal.build())]
    if not options.kernel_only:
        places.append(neat(lab, cores, options.replicas, bulk=other == "kernel"))
    return places


def rounds(
    results: Results,
    other: str,
    runs: dict[tuple[str, ...], Run],
    places: list[Place],
    options: argparse.Namespace,
    console: Console,
) -> None:
    """Measure on one side after the other, and again."""
    slices = max(1, int(options.seconds)) if other in SLICED else 1
    for number in range(1, options.rounds + 1):
        for keys, run in runs.items():
            for turn in range(slices):
                for place in places if turn % 2 else reversed(places):
                    values: Sequence[float | None]
                    try:
                        values = run(place, options.seconds / slices)
                    except LabError as error:
                        results.errors.append(f"round {number}, {place.name}, {', '.join(keys)}: {error}")
                        values = (None,) * len(keys)
                    for key, value in zip(keys, values, strict=True):
                        results.add(key, place.name, value)
        console.print(f"against {other}: round {number} of {options.rounds} done", style="dim")


def measure_once(results: Results, keys: tuple[str, ...], once: Once, lab: Lab) -> None:
    figures: Sequence[Sequence[float | None]]
    try:
        figures = once(lab)
    except (LabError, NeatError, OSError) as error:
        results.errors.append(f"{', '.join(keys)}: {error}")
        figures = [[None]] * len(keys)
    for key, values in zip(keys, figures, strict=True):
        for value in values:
            results.add(key, "neat", value)


def long_run(seconds: float, replicas: int, console: Console) -> bool:
    with Lab() as lab:
        result = soak(neat(lab, Cores.choose(), replicas), seconds)
    shares = ", ".join(f"{share:.0%}" for share in result.shares)
    console.print(
        f"{seconds:g} s: {result.requests:,} requests, {result.rate:,.0f} a second, {result.failures} failed, "
        f"{result.resets} resets, {result.stalls} over 1 s (slowest {result.slowest * 1000:.1f} ms); "
        f"connections of the replicas: {shares}",
        highlight=False,
    )
    return result.good


def main() -> int:
    options, console = arguments(), Console()
    try:
        if options.soak:
            return not long_run(options.soak, max(2, options.replicas), console)
        return not compare(options, console)
    except LabError as error:
        print(f"bench: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
