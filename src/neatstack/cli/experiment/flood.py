"""`neat experiment flood`: spoofed SYNs at full speed, while clients work."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neatstack.cli.experiment import common
from neatstack.cli.experiment.common import MOST_REPLICAS, within
from neatstack.control.errors import NeatError

if TYPE_CHECKING:
    from neatstack.experiment.flood import Results
    from neatstack.experiment.netns import Lab

EXAMPLES = (
    "Examples: [bold]neat experiment flood[/] · [bold]neat experiment flood --syns 50000 --replicas 1[/]. "
    "Exit status 1 when a client's connection failed, or a byte was wrong."
)
MOST_SYNS, MOST_CLIENTS = 100_000_000, 256


def flood(
    syns: Annotated[int, typer.Option(help="Spoofed SYNs, each of a flow of its own.")] = 500_000,
    replicas: Annotated[int, typer.Option(help="Replicas of the stack.")] = 2,
    clients: Annotated[int, typer.Option(help="Connections that are open at one time.")] = 8,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the files go.")] = Path("flood"),
) -> None:
    """Flood a stack with SYNs that nobody follows up, while clients open connections and ask.

    Writes summary.csv and table.md.
    """
    within("syns", syns, 1, MOST_SYNS)
    within("replicas", replicas, 1, MOST_REPLICAS)
    within("clients", clients, 1, MOST_CLIENTS)
    common.need_root()
    raise typer.Exit(run(syns, replicas, clients, out))


def run(syns: int, replicas: int, clients: int, out: Path) -> int:
    """Do it and write everything; the exit status. Raises NeatError."""
    from neatstack.experiment.flood import STEPS, Results, experiment, serving

    def work(lab: "Lab", results: Results, console: Any) -> None:
        with common.bar(console, STEPS) as tell, serving(lab, replicas, syns, clients) as (sender, worker, path):
            results.outcomes.append(experiment(replicas, syns, sender, worker, path, tell))

    results, status = common.conduct(out, Results, work, lambda results, _: write(results))
    if not all(outcome.good for outcome in results.outcomes):
        raise NeatError("not every client was served; see the table")
    return status


def write(results: "Results") -> None:
    """The files, and the table on standard output."""
    from neatstack.experiment.tables import machine

    print(results.finish([machine()]), end="")
