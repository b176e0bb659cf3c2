"""`neat experiment scaling`: throughput and its cost over replicas and server processes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neatstack.cli.experiment import common
from neatstack.cli.experiment.common import MOST_REPLICAS, within

if TYPE_CHECKING:
    from neatstack.experiment.netns import Lab
    from neatstack.experiment.scaling import Plan, Results

EXAMPLES = (
    "Examples: [bold]neat experiment scaling[/] · "
    "[bold]neat experiment scaling --replicas 1,2 --servers 1 --seconds 1 --rounds 1[/]"
)
MOST_SERVERS, MOST_SECONDS, MOST_ROUNDS = 64, 600, 1000


def scaling(
    replicas: Annotated[str, typer.Option(metavar="N,...", help="Numbers of replicas.")] = "1,2,4,8",
    servers: Annotated[str, typer.Option(metavar="N,...", help="Numbers of server processes.")] = "1,2,4",
    seconds: Annotated[int, typer.Option(help="Of each measurement.")] = 3,
    rounds: Annotated[int, typer.Option(help="Measurements of each figure.")] = 3,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the files go.")] = Path("scaling"),
) -> None:
    """Measure requests a second and CPU time of each, beside the kernel's stack; count instructions; look at memory.

    Writes samples.csv, summary.csv, instructions.csv, lines.csv, table.md, scaling.png and scaling.svg.
    """
    from neatstack.experiment.instructions import need_valgrind
    from neatstack.experiment.scaling import Plan

    plan = Plan(
        common.numbers("replicas", replicas, 1, MOST_REPLICAS),
        common.numbers("servers", servers, 1, MOST_SERVERS),
        within("seconds", seconds, 1, MOST_SECONDS),
        within("rounds", rounds, 1, MOST_ROUNDS),
    )
    common.need_root()
    need_valgrind()
    raise typer.Exit(run(plan, out))


def run(plan: "Plan", out: Path) -> int:
    """Do it and write everything, also when interrupted; the exit status. Raises NeatError."""
    from neatstack.experiment import scaling

    def work(lab: "Lab", results: "Results", console: Any) -> None:
        with common.bar(console, plan.steps) as tell:
            scaling.experiment(plan, lambda *what: scaling.places(lab, *what), results, tell)

    _, status = common.conduct(out, scaling.Results, work, lambda results, plots: write(results, plan, plots))
    return status


def write(results: "Results", plan: "Plan", plots: bool) -> None:
    """The files that sum up, and the tables on standard output."""
    from neatstack.experiment.scaling import about

    print(results.finish(about(plan)), end="")
    if plots:
        from neatstack.experiment.plot_scaling import draw

        draw(results.summary(), results.count_rows(), results.out)
