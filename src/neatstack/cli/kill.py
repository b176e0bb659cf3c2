"""`neat kill`: end a process of a stack, or damage it, to see that the stack gets over it."""

import json
from typing import Annotated, Any

import typer

from neatstack.control import rundir

EXAMPLES = (
    "Examples: [bold]neat kill 0[/] (replica 0) · [bold]neat kill manager[/] · "
    "[bold]neat kill 1 --fault segv[/] (only on a stack started with --allow-faults)"
)
SIGNALS = {"segv": "SIGSEGV", "abort": "SIGABRT"}


def kill(
    target: Annotated[str, typer.Argument(metavar="REPLICA|manager|link", show_default=False)],
    fault: Annotated[
        str,
        typer.Option(
            metavar="kill|segv|abort|hang|flip",
            help="What to do to it: SIGKILL; a crash, abort() or endless loop with a connection in hand; "
            "one bit of its state region flipped.",
        ),
    ] = "kill",
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Decides which bit is flipped.", show_default="chance decides")
    ] = None,
    stack: Annotated[str | None, typer.Option(metavar="NAME", help="Which stack.", show_default="the only one")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")] = False,
) -> None:
    """Kill a replica, the manager or the link process of a stack, which goes on without it; or make it fail."""
    request = {"op": "kill", "target": target, "fault": fault, "seed": seed}
    answer = rundir.ask(rundir.find(stack), request)
    print(json.dumps(answer, indent=2) if as_json else told(answer, fault))


def told(answer: dict[str, Any], fault: str) -> str:
    """What has been done, in a line."""
    target = answer["target"]
    who = target if target in ("manager", "link") else f"replica {target}"
    whom = f"{who} (pid {answer['pid']})"
    if fault == "kill":
        return f"killed {whom}"
    if fault == "flip":
        return f"{whom}: flipped {answer['what']}"
    if who == target:
        return f"{whom}: sent {SIGNALS[fault]}"
    return f"{whom}: {fault} when its next connection is in hand"
