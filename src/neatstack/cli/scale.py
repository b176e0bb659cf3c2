"""`neat scale`: more replicas or fewer, while connections go on."""

import json
import os
from typing import Annotated, Any

import typer

from neatstack.control import durations, rundir
from neatstack.control.errors import NeatError

EXAMPLES = (
    "Examples: [bold]neat scale 4[/] · [bold]neat scale 1 --deadline 1m[/] (what is left after a minute is reset) · "
    "[bold]neat scale --auto --min 1 --max 4[/] · [bold]neat scale --no-auto[/]"
)


def scale(
    replicas: Annotated[
        int | None, typer.Argument(metavar="N", help="How many shall take new connections.", show_default=False)
    ] = None,
    deadline: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="When to reset connections that are left on replicas that drain.",
            show_default="never: they end when they end",
        ),
    ] = None,
    auto: Annotated[
        bool | None,
        typer.Option("--auto/--no-auto", help="Follow the load, or leave the number alone.", show_default=False),
    ] = None,
    least: Annotated[
        int | None, typer.Option("--min", metavar="N", help="With --auto: never fewer.", show_default="1")
    ] = None,
    most: Annotated[
        int | None,
        typer.Option("--max", metavar="N", help="With --auto: never more.", show_default="one for each CPU"),
    ] = None,
    stack: Annotated[str | None, typer.Option(metavar="NAME", help="Which stack.", show_default="the only one")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")] = False,
) -> None:
    """Change how many replicas a stack has. No connection is lost: those that leave keep their flows until these end.

    A number given by hand ends --auto.
    """
    if (replicas is None) == (auto is None):
        raise NeatError("give either a number of replicas, or --auto, or --no-auto; see `neat scale --help`", status=2)
    if auto is not True and (least is not None or most is not None):
        raise NeatError("--min and --max go with --auto", status=2)
    if replicas is None and deadline is not None:
        raise NeatError("--deadline goes with a number of replicas", status=2)
    limit = seconds(deadline) if deadline is not None else None
    name = rundir.find(stack)
    if replicas is not None:
        answer = rundir.ask(name, {"op": "scale", "replicas": replicas, "deadline": limit})
        text = told(answer)
    elif auto:
        room = rundir.ask(name, {"op": "status"})["max_replicas"]
        most = most if most is not None else max(least or 1, min(room, len(os.sched_getaffinity(0))))
        answer = rundir.ask(name, {"op": "autoscale", "min": 1 if least is None else least, "max": most})
        text = f"follows the load, with {answer['min']} to {answer['max']} replicas"
    else:
        answer = rundir.ask(name, {"op": "autoscale", "off": True})
        text = "does not follow the load any more" if answer["was_on"] else "did not follow the load"
    print(json.dumps(answer, indent=2) if as_json else text)


def seconds(deadline: str) -> float:
    """A time such as 60 or 10m; 0 is at once. Raises NeatError."""
    if deadline.strip() == "0":
        return 0.0
    try:
        return durations.seconds(deadline)
    except ValueError as error:
        raise NeatError(f"--deadline: {error}", status=2) from None


def told(answer: dict[str, Any]) -> str:
    """What has been done, in a line or two."""
    who = "1 replica takes" if answer["to"] == 1 else f"{answer['to']} replicas take"
    lines = [f"{who} new connections (before: {answer['from']}); {answer['took_ms']:.0f} ms"]
    if draining := answer["draining"]:
        names = ", ".join(map(str, draining))
        lines.append(f"draining: replica{'s' * (len(draining) > 1)} {names}; `neat status` shows what is left")
    if answer["auto_ended"]:
        lines.append("the stack does not follow the load any more")
    return "\n".join(lines)
