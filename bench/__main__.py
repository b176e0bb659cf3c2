"""python -m bench: the kernel's stack and ours alternately; build/bench.json and a table with medians and ratios."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from bench.measure import METRICS, RUNS
from bench.report import Results
from bench.sides import Cores, kernel, neat
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
    settings = {"rounds": options.rounds, "seconds": options.seconds, "replicas": options.replicas}
    results = Results(settings)
    cores = Cores.choose()
    runs = {keys: run for keys, run in RUNS.items() if not options.only or set(keys) & set(options.only)}
    with Lab() as lab:
        places = [kernel(lab, cores)]
        if not options.kernel_only:
            places.append(neat(lab, cores, options.replicas))
        for number in range(1, options.rounds + 1):
            for keys, run in runs.items():
                for place in places:
                    try:
                        values: tuple[float | None, ...] = run(place, options.seconds)
                    except LabError as error:
                        results.errors.append(f"round {number}, {place.name}, {', '.join(keys)}: {error}")
                        values = (None,) * len(keys)
                    for key, value in zip(keys, values, strict=True):
                        results.add(key, place.name, value)
            console.print(f"round {number} of {options.rounds} done", style="dim")
    results.write(OUTPUT)
    results.print(console)
    console.print(f"written to {OUTPUT}", style="dim")
    return not results.errors and not (options.check and results.missed())


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
