"""What the experiments' commands have in common: options, the course of an experiment, and its end."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from neatstack.control.errors import NeatError

if TYPE_CHECKING:
    from neatstack.experiment.netns import Lab
    from neatstack.experiment.tables import Files

MOST_REPLICAS, MOST_CONNECTIONS = 16, 4096
NO_PLOT = "no plot: matplotlib is missing; pip install neatstack[experiment]"
R = TypeVar("R", bound="Files")


def conduct(
    out: Path,
    open_results: "Callable[[Path], R]",
    work: "Callable[[Lab, R, Any], None]",
    write: Callable[[R, bool], None],
) -> tuple[R, int]:
    """Do `work`, with a console to show how far it is, and `write` everything, also when interrupted.

    `write` is told whether there can be plots. The results, and the exit status. Raises NeatError.
    """
    from importlib.util import find_spec

    from rich.console import Console

    from neatstack.experiment.netns import Lab, LabError

    console, plots = Console(stderr=True, highlight=False), find_spec("matplotlib") is not None
    if not plots:
        console.print(NO_PLOT, markup=False)
    try:
        results = open_results(out)
    except OSError as error:
        raise NeatError(f"cannot write to {out}: {error.strerror}; name another directory with --out") from None
    status = 0
    try:
        with Lab() as lab:
            work(lab, results, console)
    except KeyboardInterrupt:
        console.print("interrupted: the files hold what there is so far")
        status = 130
    except (LabError, OSError) as error:
        raise NeatError(one_line(str(error))) from None
    finally:
        write(results, plots)
    print(f"\nwritten to {out}/")
    return results, status


@contextlib.contextmanager
def bar(console: Any, total: int) -> Iterator[Callable[[int, str], None]]:
    """A progress bar; tell it how much is done, and what is being done now."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, refresh_per_second=4) as shown:
        task = shown.add_task("starting", total=total)
        yield lambda done, what: shown.update(task, completed=done, description=what)


def need_root() -> None:
    if os.geteuid():
        raise NeatError("an experiment makes network namespaces and TAP interfaces; run it as root")


def numbers(option: str, text: str, least: int, most: int) -> tuple[int, ...]:
    """The different numbers of a list with commas. Raises NeatError when one is not possible."""
    try:
        found = dict.fromkeys(int(word) for word in text.split(","))
    except ValueError:
        raise NeatError(f"{option}: {text!r} is no list of numbers; write it as 1,2,4", status=2) from None
    return tuple(within(option, number, least, most) for number in found)


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
