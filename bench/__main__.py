"""python -m bench: the kernel's stack and ours alternately, and what recovery costs; two tables, build/bench.json."""

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
from bench.sides import Cores, Place, kernel, neat
from bench.soak import soak
from neatstack.experiment.netns import Lab, LabError

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
    """All rounds. Were there no failures and, with --check, all goals met?"""
    results = Results({"rounds": options.rounds, "seconds": options.seconds, "replicas": options.replicas})
    wanted = {m.key: m for m in METRICS if not options.only or m.key in options.only}
    if options.kernel_only:
        wanted = {key: m for key, m in wanted.items() if m.against == "kernel"}
    sides = {m.against for m in wanted.values()}
    with Lab() as lab:
        places = start(lab, options, sides, console)
        for number in range(1, options.rounds + 1 if places else 1):
            for keys, run in RUNS.items():
                if not wanted.keys().isdisjoint(keys):
                    measure(results, number, keys, run, places, options.seconds)
            console.print(f"round {number} of {options.rounds} done", style="dim")
    with Lab() as lab:  # the stacks of the rounds are gone
        for keys, once in ONCE.items():
            if not wanted.keys().isdisjoint(keys):
                measure_once(results, keys, once, lab)
    results.write(OUTPUT)
    results.print(console)
    console.print(f"written to {OUTPUT}", style="dim")
    return not results.errors and not (options.check and results.missed())


def start(lab: Lab, options: argparse.Namespace, sides: set[str], console: Console) -> dict[str, Place]:
    """The places that the rounds need, by their names."""
    made = []
    cores = Cores.choose()
    if "no journal" in sides:
        console.print("building without the journal, if it has changed", style="dim")
        made.append(neat(lab, cores, options.replicas, bulk=False, name="no journal", source=nojournal.build()))
    if "kernel" in sides:
        made.append(kernel(lab, cores))
    if made and not options.kernel_only:
        made.append(neat(lab, cores, options.replicas))
    return {place.name: place for place in made}


def measure(
    results: Results, number: int, keys: tuple[str, ...], run: Run, places: dict[str, Place], seconds: float
) -> None:
    """One round of one measurement, on one side after the other."""
    names = [name for name in results.rounds[keys[0]] if name in places]
    slices = max(1, int(seconds)) if keys[0] in SLICED else 1
    for turn in range(slices):
        for name in names if (number + turn) % 2 else reversed(names):
            values: Sequence[float | None]
            try:
                values = run(places[name], seconds / slices)
            except LabError as error:
                results.errors.append(f"round {number}, {name}, {', '.join(keys)}: {error}")
                values = (None,) * len(keys)
            for key, value in zip(keys, values, strict=True):
                results.add(key, name, value)


def measure_once(results: Results, keys: tuple[str, ...], once: Once, lab: Lab) -> None:
    figures: Sequence[Sequence[float | None]]
    try:
        figures = once(lab)
    except LabError as error:
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
