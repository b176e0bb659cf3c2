"""`neat experiment`: measurements of this machine's stack that anybody can repeat."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neatstack.control.errors import NeatError

if TYPE_CHECKING:
    from neatstack.experiment.recovery import Plan, Progress
    from neatstack.experiment.reload import Course
    from neatstack.experiment.results import Results

app = typer.Typer(help="Measure what the stack claims.", no_args_is_help=True)

RECOVERY_EXAMPLES = (
    "Examples: [bold]neat experiment recovery[/] · "
    "[bold]neat experiment recovery --faults 1000 --kinds kill --out full[/]. "
    "Exit status 1 when a single byte was wrong."
)
RELOAD_EXAMPLES = (
    "Examples: [bold]neat experiment reload[/] · [bold]neat experiment reload --reloads 50 --kill-every 2[/]. "
    "Exit status 1 when a request failed, or something has grown."
)
MOST_FAULTS, MOST_REPLICAS, MOST_CONNECTIONS = 100_000, 16, 4096
NO_PLOT = "no plot: matplotlib is missing; pip install neatstack[experiment]"


@app.command(epilog=RECOVERY_EXAMPLES)
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
        tuple(within("replicas", number, 1, MOST_REPLICAS) for number in numbers(replicas)),
        words("kinds", kinds, KINDS),
        words("modes", modes, MODES),
        within("seed", seed, 0, 2**63),
    )
    within("connections", connections, 1, MOST_CONNECTIONS)
    if os.geteuid():
        raise NeatError("an experiment makes network namespaces and TAP interfaces; run it as root")
    raise typer.Exit(run(plan, connections, out))


@app.command(epilog=RELOAD_EXAMPLES)
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

    within("reloads", reloads, 1, MOST_FAULTS)
    within("seed", seed, 0, 2**63)
    plan = Plan(reloads, max(5, reloads // 10), seconds=seconds, kill_every=kill_every or None, seed=seed)
    if os.geteuid():
        raise NeatError("an experiment makes network namespaces and TAP interfaces; run it as root")
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


def run(plan: "Plan", connections: int, out: Path) -> int:
    """Do it and write everything, also when interrupted; the exit status. Raises NeatError."""
    from importlib.util import find_spec

    from rich.console import Console

    from neatstack.experiment.netns import Lab, LabError
    from neatstack.experiment.recovery import experiment
    from neatstack.experiment.results import Results
    from neatstack.experiment.stage import open_stage

    console, plots = Console(stderr=True, highlight=False), find_spec("matplotlib") is not None
    if not plots:
        console.print(NO_PLOT, markup=False)
    try:
        results = Results(out)
    except OSError as error:
        raise NeatError(f"cannot write to {out}: {error.strerror}; name another directory with --out") from None
    status = 0
    try:
        with Lab() as lab, shown(plan, console) as progress:
            experiment(plan, lambda what: open_stage(lab, what, connections), results, progress)
    except KeyboardInterrupt:
        console.print("interrupted: the files hold what there is so far")
        status = 130
    except (LabError, OSError) as error:
        raise NeatError(one_line(str(error))) from None
    finally:
        write(results, plan, connections, plots)
    print(f"\nwritten to {out}/")
    if results.wrong:
        raise NeatError(f"{results.wrong} bytes were wrong; faults.csv says at which faults")
    return status


def write(results: "Results", plan: "Plan", connections: int, plots: bool) -> None:
    """The files that sum up, and the table on standard output."""
    print(results.finish(about(plan, connections)), end="")
    if plots:
        from neatstack.experiment.plot import draw

        draw(results.series, results.out)


def about(plan: "Plan", connections: int) -> list[str]:
    """What the table was measured with and on."""
    import platform

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return [
        f"{connections} connections, always busy; up to {plan.faults} faults a row; seed {plan.seed}.",
        f"{(models or [platform.machine()])[0]}, {os.cpu_count()} cores, Linux {platform.release()}.",
    ]


@contextlib.contextmanager
def shown(plan: "Plan", console: Any) -> "Iterator[Progress]":
    """A bar over all faults."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    combinations = plan.combinations()
    order = {what: number * plan.faults for number, what in enumerate(combinations)}
    with Progress(*columns, console=console, refresh_per_second=4) as bar:
        task = bar.add_task("starting", total=len(combinations) * plan.faults)
        yield lambda what, done, lost: bar.update(
            task, completed=order[what] + done, description=f"{what}: {lost} connections lost"
        )


def numbers(text: str) -> list[int]:
    """The different numbers of a list with commas."""
    try:
        return list(dict.fromkeys(int(word) for word in text.split(",")))
    except ValueError:
        raise NeatError(f"replicas: {text!r} is no list of numbers; write it as 1,2,4", status=2) from None


def words(option: str, text: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
    """The different words of a list with commas. Raises NeatError when one is unknown."""
    found = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    for word in found:
        if word not in allowed:
            raise NeatError(f"{option}: there is no {word!r}; choose of {','.join(allowed)}", status=2)
    return found


def within(option: str, value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise NeatError(f"{option}: {value} is not possible; choose from {least} to {most}", status=2)
    return value


def one_line(text: str) -> str:
    """The first and the last line of what a failed command said."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if len(lines) == 1 else f"{lines[0]}; {lines[-1].removeprefix('neat: ')}"
