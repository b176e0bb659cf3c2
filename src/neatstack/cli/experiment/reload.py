"""`neat experiment reload`: nginx reloads again and again under load."""

from typing import TYPE_CHECKING, Annotated

import typer

from neatstack.cli.experiment import common
from neatstack.cli.experiment.common import one_line, within
from neatstack.control.errors import NeatError

if TYPE_CHECKING:
    from neatstack.experiment.reload import Course

EXAMPLES = (
    "Examples: [bold]neat experiment reload[/] · [bold]neat experiment reload --reloads 50 --kill-every 2[/]. "
    "Exit status 1 when a request failed, or something has grown."
)
MOST_RELOADS = 100_000


def reload(
    reloads: Annotated[int, typer.Option(help="How many on the stack; a tenth of that on the kernel.")] = 1000,
    seconds: Annotated[float, typer.Option(help="Start no reload after that time.")] = 900.0,
    kill_every: Annotated[float, typer.Option(help="Kill a replica every so many seconds; 0: never.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the replicas that are killed.")] = 1,
) -> None:
    """Reload nginx again and again under load: no request may fail, and nothing may grow."""
    from rich.console import Console

    from neatstack.experiment.netns import Lab, LabError
    from neatstack.experiment.reload import Plan, experiment
    from neatstack.experiment.reload_report import report

    within("reloads", reloads, 1, MOST_RELOADS)
    within("seed", seed, 0, 2**63)
    plan = Plan(reloads, max(5, reloads // 10), seconds=seconds, kill_every=kill_every or None, seed=seed)
    common.need_root()
    console = Console(stderr=True, highlight=False)

    def progress(place: str, course: "Course") -> None:
        bar.update(f"{place}: {course.reloads} reloads, {course.tally.answered} answers, {course.tally.failed} failed")

    try:
        with console.status("starting") as bar, Lab() as lab:
            result = experiment(lab, plan, progress)
    except (LabError, OSError) as error:
        raise NeatError(one_line(str(error))) from None
    print(report(result))
    raise typer.Exit(0 if result.good else 1)
