"""`neat upgrade`: have the replicas of a running stack run another version, while connections go on."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from neatstack.cli.rejuvenate import line
from neatstack.control import durations, rundir
from neatstack.control.errors import NeatError

EXAMPLES = (
    "Examples: [bold]neat upgrade[/] (to what is installed where the stack was started from) · "
    "[bold]neat upgrade --to /opt/neat-0.2[/] · [bold]neat upgrade --to /opt/neat-0.2 --drain --deadline 10m[/]"
)


def upgrade(
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="PREFIX",
            help="A virtual environment or installation prefix with the other version.",
            show_default="where the stack was started from",
        ),
    ] = None,
    drain: Annotated[
        bool, typer.Option("--drain", help="New connections go to new replicas; old ones end where they are.")
    ] = False,
    deadline: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="With --drain: what is left then is reset.", show_default="no deadline"),
    ] = None,
    stack: Annotated[str | None, typer.Option(metavar="NAME", help="Which stack.", show_default="the only one")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")] = False,
) -> None:
    """Replace every replica by one that runs another version of NEaT; connections go on."""
    wanted = request(to, drain, deadline)
    answer = rundir.ask(rundir.find(stack), wanted, rundir.CHANGE_TIMEOUT)
    if as_json:
        print(json.dumps(answer, indent=2))
        return
    for replaced in answer["replaced"]:
        print(line(replaced))
    draining = ", ".join(map(str, answer.get("draining", [])))
    print(f"version {answer['version']} serves" + (f"; draining: {draining}" if draining else ""))


def request(to: Path | None, drain: bool, deadline: str | None) -> dict[str, Any]:
    """What the manager is asked for. Raises NeatError."""
    if deadline is not None and not drain:
        raise NeatError("--deadline is for draining; give --drain too", status=2)
    try:
        seconds = None if deadline is None else durations.seconds(deadline)
    except ValueError as error:
        raise NeatError(f"--deadline: {error}", status=2) from None
    # the manager's working directory is another
    return {"op": "upgrade", "to": None if to is None else str(to.absolute()), "drain": drain, "deadline": seconds}
