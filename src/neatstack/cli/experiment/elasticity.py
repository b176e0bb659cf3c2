"""`neat experiment elasticity`: a stack that grows, shrinks and is renewed under load."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neatstack.cli.experiment import common
from neatstack.cli.experiment.common import MOST_CONNECTIONS, MOST_REPLICAS, within
from neatstack.control.errors import NeatError

if TYPE_CHECKING:
    from neatstack.experiment.elasticity import Plan, Results
    from neatstack.experiment.netns import Lab

EXAMPLES = (
    "Examples: [bold]neat experiment elasticity[/] · "
    "[bold]neat experiment elasticity --scalings 1000 --renewals 0 --most 4[/]. "
    "Exit status 1 when a single byte was wrong."
)
MOST_CHANGES = 100_000


def elasticity(
    scalings: Annotated[int, typer.Option(help="To random numbers of replicas.")] = 200,
    renewals: Annotated[int, typer.Option(help="Of all replicas: rejuvenations and upgrades in turn.")] = 200,
    most: Annotated[int, typer.Option(help="Replicas, at most.")] = 8,
    connections: Annotated[int, typer.Option(help="That are always busy.")] = 64,
    seed: Annotated[int, typer.Option(help="Of pauses, numbers of replicas and the connections' lives.")] = 1,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the files go.")] = Path("elasticity"),
) -> None:
    """Scale and renew a stack under load, and measure what it costs the clients.

    Writes changes.csv, gaps.csv, summary.csv and table.md.
    """
    from neatstack.experiment.elasticity import Plan

    plan = Plan(
        within("scalings", scalings, 0, MOST_CHANGES),
        within("renewals", renewals, 0, MOST_CHANGES),
        within("most", most, 1, MOST_REPLICAS),
        within("seed", seed, 0, 2**63),
    )
    within("connections", connections, 1, MOST_CONNECTIONS)
    if scalings and most == 1:
        raise NeatError("most: with 1 replica there is nothing to scale; choose more, or --scalings 0", status=2)
    common.need_root()
    raise typer.Exit(run(plan, connections, out))


def run(plan: "Plan", connections: int, out: Path) -> int:
    """Do it and write everything, also when interrupted; the exit status. Raises NeatError."""
    from neatstack.experiment import elasticity
    from neatstack.experiment.elasticity import Results

    def work(lab: "Lab", results: Results, console: Any) -> None:
        with common.bar(console, plan.steps) as tell:
            elasticity.experiment(
                plan, elasticity.arena(lab, plan, connections), results,
                lambda what, done, lost: tell(done, f"{what}: {lost} connections lost"),
            )  # fmt: skip

    results, status = common.conduct(out, Results, work, lambda results, _: write(results, plan, connections))
    if results.wrong:
        raise NeatError(f"{results.wrong} bytes were wrong; changes.csv says at which changes")
    return status


def write(results: "Results", plan: "Plan", connections: int) -> None:
    """The files that sum up, and the table on standard output."""
    from neatstack.experiment.elasticity import LIFE
    from neatstack.experiment.tables import machine

    load = f"{connections} connections, always busy, each of up to {LIFE} requests; 1 to {plan.most} replicas;"
    print(results.finish([f"{load} seed {plan.seed}.", machine()]), end="")
