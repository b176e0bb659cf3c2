"""`neat rejuvenate`: replace the processes of all replicas by fresh ones, while connections go on."""

import json
from typing import Annotated, Any

import typer

from neatstack.control import rundir

EXAMPLES = "Examples: [bold]neat rejuvenate[/] (all replicas, now) · [bold]neat rejuvenate --stack web --json[/]"


def rejuvenate(
    stack: Annotated[str | None, typer.Option(metavar="NAME", help="Which stack.", show_default="the only one")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")] = False,
) -> None:
    """Replace every replica's process by a fresh one with a new address-space layout; connections go on."""
    answer = rundir.ask(rundir.find(stack), {"op": "rejuvenate"}, rundir.CHANGE_TIMEOUT)
    if as_json:
        print(json.dumps(answer, indent=2))
        return
    for replaced in answer["replaced"]:
        print(line(replaced))


def line(replaced: dict[str, Any]) -> str:
    """One replica that was replaced."""
    kept = f"{replaced['adopted']} connections kept"
    lost = f", {replaced['lost']} reset" if replaced["lost"] else ""
    return f"replica {replaced['replica']} {replaced['cause']}: {kept}{lost}, a gap of {replaced['gap_ms']:.1f} ms"
