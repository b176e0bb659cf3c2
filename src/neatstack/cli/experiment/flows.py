"""`neat experiment flows`: very many live connections through a scale-down."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neatstack.cli.experiment import common
from neatstack.cli.experiment.common import MOST_REPLICAS, within
from neatstack.control.errors import NeatError

if TYPE_CHECKING:
    from neatstack.experiment.flows import Results
    from neatstack.experiment.netns import Lab

EXAMPLES = (
    "Examples: [bold]neat experiment flows[/] · [bold]neat experiment flows --flows 1000 --before 8 --after 1[/]. "
    "Exit status 1 when a connection was lost, a byte was wrong, or a packet reached a wrong replica."
)
MOST_FLOWS = 200_000


def flows(
    flows: Annotated[int, typer.Option(help="Live connections.")] = 100_000,
    before: Annotated[int, typer.Option(help="Replicas that they are divided among.")] = 4,
    after: Annotated[int, typer.Option(help="Replicas that are left.")] = 1,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the files go.")] = Path("flows"),
) -> None:
    """Hold very many live connections through a scale-down, and ask every one afterwards.

    Writes summary.csv and table.md.
    """
    within("flows", flows, 1, MOST_FLOWS)
    within("before", before, 2, MOST_REPLICAS)
    within("after", after, 1, before - 1)
    common.need_root()
    raise typer.Exit(run(flows, before, after, out))


def run(flows: int, before: int, after: int, out: Path) -> int:
    """Do it and write everything; the exit status. Raises NeatError."""
    from neatstack.experiment.flows import STEPS, Results, experiment, serving

    def work(lab: "Lab", results: Results, console: Any) -> None:
        with common.bar(console, STEPS) as tell, serving(lab, before, flows) as (clients, control):
            results.outcomes.append(experiment(flows, before, after, clients, control, control.scale, tell))

    results, status = common.conduct(out, Results, work, lambda results, _: write(results))
    if not all(outcome.good for outcome in results.outcomes):
        raise NeatError("not every connection went on as it was; see the table")
    return status


def write(results: "Results") -> None:
    """The files, and the table on standard output."""
    from neatstack.experiment.tables import machine

    print(results.finish([machine()]), end="")
