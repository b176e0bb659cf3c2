"""`neat top`: a stack, live."""

import sys
from typing import Annotated

import typer

from neatstack.control import rundir
from neatstack.control.errors import NeatError

EXAMPLES = "Examples: [bold]neat top[/] · [bold]neat top --stack web --interval 0.5[/]"
LEAST, MOST = 0.1, 60.0  # seconds
HISTORY = 400  # samples: columns of a wide terminal


def top(
    stack: Annotated[str | None, typer.Option(metavar="NAME", help="Which stack.", show_default="the only one")] = None,
    interval: Annotated[float, typer.Option(metavar="SECONDS", help="Between two looks at the stack.")] = 1.0,
) -> None:
    """Watch replicas, steering and events of a stack live; kill, scale and rejuvenate it with a key."""
    if not LEAST <= interval <= MOST:
        raise NeatError(f"interval: {interval:g} is not possible; choose from {LEAST:g} to {MOST:g} seconds", status=2)
    name = rundir.find(stack)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise NeatError("top needs a terminal; `neat status` and `neat metrics --once` print to anything")

    from neatstack.observe.client import Feed, check_right
    from neatstack.observe.top import Top

    check_right(name)
    shown = Top(Feed(name, HISTORY), interval)
    shown.run()
    raise typer.Exit(shown.return_code or 0)
