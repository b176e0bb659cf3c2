"""`neat experiment recovery`: faults injected into replicas under load."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neatstack.cli.experiment import common
from neatstack.cli.experiment.common import MOST_CONNECTIONS, MOST_REPLICAS, within
from neatstack.control.errors import NeatError

if TYPE_CHECKING:
    from neatstack.experiment.netns import Lab
    from neatstack.experiment.recovery import Plan, Progress
    from neatstack.experiment.results import Results

EXAMPLES = (
    "Examples: [bold]neat experiment recovery[/] · "
    "[bold]neat experiment recovery --faults 1000 --kinds kill --out full[/]. "
    "Exit status 1 when a single byte was wrong."
)
MOST_FAULTS = 100_000


def recovery(
    faults: Annotated[int, typer.Option(help="How many of each kind; the full size is 1000.")] = 50,
    replicas: Annotated[str, typer.Option(metavar="N,...", help="Numbers of replicas.")] = "1,2,4",
    kinds: Annotated[str, typer.Option(metavar="KIND,...", help="Which faults.")] = "kill,segv,abort,hang,flip",
    modes: Annotated[str, typer.Option(metavar="MODE,...", help="Ways to recover.")] = "adopt,reset",
    connections: Annotated[int, typer.Option(help="That are always busy.")] = 64,
    seed: Annotated[int, typer.Option(help="Of pauses, targets and faults.")] = 1,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the files go.")] = Path("recovery"),
) -> None:
    """Inject faults into replicas under load, and measure what they cost the clients.

    Writes faults.csv, gaps.csv, summary.csv, table.md, recovery.png and recovery.svg.
    """
    from neatstack.experiment.recovery import KINDS, MODES, Plan

    plan = Plan(
        within("faults", faults, 1, MOST_FAULTS),
        common.numbers("replicas", replicas, 1, MOST_REPLICAS),
        common.words("kinds", kinds, KINDS),
        common.words("modes", modes, MODES),
        within("seed", seed, 0, 2**63),
    )
    within("connections", connections, 1, MOST_CONNECTIONS)
    common.need_root()
    raise typer.Exit(run(plan, connections, out))


def run(plan: "Plan", connections: int, out: Path) -> int:
    """Do it and write everything, also when interrupted; the exit status. Raises NeatError."""
    from neatstack.experiment.recovery import experiment
    from neatstack.experiment.results import Results
    from neatstack.experiment.stage import open_stage

    def work(lab: "Lab", results: Results, console: Any) -> None:
        with shown(plan, console) as progress:
            experiment(plan, lambda what: open_stage(lab, what, connections), results, progress)

    results, status = common.conduct(
        out, Results, work, lambda results, plots: write(results, plan, connections, plots)
    )
    if results.wrong:
        raise NeatError(f"{results.wrong} bytes were wrong; faults.csv says at which faults")
    return status


def write(results: "Results", plan: "Plan", connections: int, plots: bool) -> None:
    """The files that sum up, and the table on standard output."""
    from neatstack.experiment.tables import machine

    load = f"{connections} connections, always busy; up to {plan.faults} faults a row; seed {plan.seed}."
    print(results.finish([load, machine()]), end="")
    if plots:
        from neatstack.experiment.plot import draw

        draw(results.series, results.out)


@contextlib.contextmanager
def shown(plan: "Plan", console: Any) -> "Iterator[Progress]":
    """A bar over all faults."""
    combinations = plan.combinations()
    order = {what: number * plan.faults for number, what in enumerate(combinations)}
    with common.bar(console, len(combinations) * plan.faults) as tell:
        yield lambda what, done, lost: tell(order[what] + done, f"{what}: {lost} connections lost")
