"""`neat rejuvenate`: replace the processes of all replicas by fresh ones, while connections go on."""

import json
from typing import Annotated, Any

import typer

from neatstack.cli.status import rejuvenation
from neatstack.control import durations, rundir
from neatstack.control.errors import NeatError

EXAMPLES = (
    "Examples: [bold]neat rejuvenate[/] (all replicas, now) · [bold]neat rejuvenate --every 10m --jitter 0.2[/] · "
    "[bold]neat rejuvenate --off[/]"
)


def rejuvenate(
    stack: Annotated[str | None, typer.Option(metavar="NAME", help="Which stack.", show_default="the only one")] = None,
    every: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Not now, but again and again: 90s, 10m, 1h.", show_default=False),
    ] = None,
    jitter: Annotated[
        float | None,
        typer.Option(metavar="PART", help="How much a time may be longer or shorter, 0 to 1.", show_default="0.1"),
    ] = None,
    off: Annotated[bool, typer.Option("--off", help="End what --every has begun.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")] = False,
) -> None:
    """Replace every replica's process by a fresh one with a new address-space layout; connections go on."""
    wanted = request(every, jitter, off)
    answer = rundir.ask(rundir.find(stack), wanted, rundir.CHANGE_TIMEOUT)
    if as_json:
        print(json.dumps(answer, indent=2))
    elif "replaced" in answer:
        for replaced in answer["replaced"]:
            print(line(replaced))
    else:
        schedule = answer["rejuvenation"]
        print(f"rejuvenation: {rejuvenation(schedule) if schedule else 'off'}")


def request(every: str | None, jitter: float | None, off: bool) -> dict[str, Any]:
    """What the manager is asked for. Raises NeatError."""
    if off and (every is not None or jitter is not None):
        raise NeatError("--off ends the schedule; give either it or --every", status=2)
    if jitter is not None and every is None:
        raise NeatError("--jitter is for a schedule; give --every too", status=2)
    if jitter is not None and not 0 <= jitter <= 1:
        raise NeatError(f"--jitter {jitter:g} is no fraction; choose one from 0 to 1, such as 0.2", status=2)
    if off:
        return {"op": "rejuvenate", "every": 0}
    if every is None:
        return {"op": "rejuvenate"}
    try:
        return {"op": "rejuvenate", "every": durations.seconds(every), "jitter": jitter}
    except ValueError as error:
        raise NeatError(f"--every: {error}", status=2) from None


def line(replaced: dict[str, Any]) -> str:
    """One replica that was replaced."""
    kept = f"{replaced['adopted']} connections kept"
    lost = f", {replaced['lost']} reset" if replaced["lost"] else ""
    return f"replica {replaced['replica']} {replaced['cause']}: {kept}{lost}, a gap of {replaced['gap_ms']:.1f} ms"
