"""`neat experiment goodput` and `fairness`: the stack's sender and the kernel's over one emulated link."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neatstack.cli.experiment import common
from neatstack.cli.experiment.common import within
from neatstack.control.errors import NeatError

if TYPE_CHECKING:
    from neatstack.experiment.link import Shape
    from neatstack.experiment.netns import Lab
    from neatstack.experiment.path import Results

GOODPUT_EXAMPLES = (
    "Examples: [bold]neat experiment goodput[/] · [bold]neat experiment goodput --loss 0.1 --rtt 40 --seconds 30[/]."
)
FAIRNESS_EXAMPLES = (
    "Examples: [bold]neat experiment fairness[/] · [bold]neat experiment fairness --flows 2 --rate 20 --rtt 50[/]."
)
MOST_RTT, MOST_RATE, MOST_FLOWS, MOST_RUNS, MOST_SECONDS = 2000, 400, 64, 100, 3600
CONGESTION = ("cubic", "reno")
Rtt = Annotated[float, typer.Option(metavar="MS", help="Round trip of the link.")]
Seconds = Annotated[int, typer.Option(help="How long each run lasts.")]
Runs = Annotated[int, typer.Option(help="How many runs, each with another seed.")]
Congestion = Annotated[str, typer.Option(metavar="NAME", help="Congestion control of both: cubic or reno.")]


def goodput(
    rtt: Rtt = 100.0,
    loss: Annotated[float, typer.Option(metavar="PERCENT", help="Segments lost at random, each way.")] = 1.0,
    flows: Annotated[int, typer.Option(help="Connections of each sender: each as if alone, if the rate allows.")] = 8,
    rate: Annotated[float, typer.Option(metavar="MBIT", help="Of the link.")] = 100.0,
    seconds: Seconds = 30,
    runs: Runs = 3,
    congestion: Congestion = "cubic",
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the files go.")] = Path("goodput"),
) -> None:
    """Send over a long link with random losses, as the kernel does at the same time, and compare what arrives.

    Writes flows.csv, summary.csv and table.md.
    """
    check(rtt, flows, rate, seconds, runs, congestion)
    if not 0 <= loss <= 50:
        raise NeatError(f"loss: {loss} is not possible; choose from 0 to 50", status=2)
    results, status = run(shape(rtt, rate, loss), flows, seconds, runs, 0, congestion, out)
    if results.flows:
        print(f"goodput: {results.ratio:.2f} of the kernel's")
    raise typer.Exit(status)


def fairness(
    flows: Annotated[int, typer.Option(help="Connections of the stack; the kernel has as many.")] = 10,
    rate: Annotated[float, typer.Option(metavar="MBIT", help="Of the link, which all share.")] = 100.0,
    rtt: Rtt = 20.0,
    seconds: Seconds = 60,
    runs: Runs = 1,
    congestion: Congestion = "cubic",
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the files go.")] = Path("fairness"),
) -> None:
    """Share a bottleneck with as many connections of the kernel, and say how fair that is.

    The bottleneck's queue holds what the link carries in one round trip. Writes flows.csv, summary.csv and table.md.
    """
    check(rtt, flows, rate, seconds, runs, congestion)
    _, status = run(shape(rtt, rate, 0.0), flows, seconds, runs, seconds // 4, congestion, out)
    raise typer.Exit(status)


def check(rtt: float, flows: int, rate: float, seconds: int, runs: int, congestion: str) -> None:
    """Raises NeatError for what is not possible, or without root."""
    for name, value, least, most in (("rtt", rtt, 1, MOST_RTT), ("rate", rate, 1, MOST_RATE)):
        if not least <= value <= most:
            raise NeatError(f"{name}: {value} is not possible; choose from {least} to {most}", status=2)
    within("flows", flows, 1, MOST_FLOWS)
    within("seconds", seconds, 1, MOST_SECONDS)
    within("runs", runs, 1, MOST_RUNS)
    common.words("congestion", congestion, CONGESTION)
    common.need_root()


def shape(rtt: float, rate: float, loss: float) -> "Shape":
    """A link whose queue holds what it carries in one round trip, and ten full frames at least."""
    from neatstack.experiment.link import Shape

    carries = round(rate * rtt * 125)
    return Shape(delay_ms=rtt / 2, loss=loss / 100, rate_mbit=rate, queue_bytes=max(carries, 15_140))


def run(
    shape: "Shape", flows: int, seconds: int, runs: int, omit: int, congestion: str, out: Path
) -> "tuple[Results, int]":
    """Do it and write everything; the results and the exit status. Raises NeatError."""
    from dataclasses import replace

    from neatstack.experiment.path import Results, Route, measure

    def work(lab: "Lab", results: Results, console: Any) -> None:
        with common.bar(console, runs) as tell:
            for number in range(runs):
                tell(number, f"run {number + 1}: {flows} connections of each for {seconds + omit} s")
                with lab.scope():
                    route = Route(lab, replace(shape, seed=number))
                    rtt = route.rtt_ms()
                    found = measure(route, number, {"kernel": flows, "stack": flows}, seconds, omit, congestion)
                    results.add(found, route.end(number, rtt))
            tell(runs, "done")

    return common.conduct(out, Results, work, lambda results, _: write(results, shape))


def write(results: "Results", shape: "Shape") -> None:
    """The files, and the table on standard output."""
    from neatstack.experiment.tables import machine

    told = f"The link: {shape.rate_mbit:g} Mbit/s, {2 * shape.delay_ms:g} ms there and back, {shape.loss:.2%} lost, "
    print(results.finish([f"{told}a queue of {shape.queue_bytes:,} bytes.", machine()]), end="")
