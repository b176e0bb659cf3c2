"""`neat down`: end a stack."""

import time
from typing import Annotated

import typer

from neatstack.control import rundir
from neatstack.control.errors import NeatError

EXAMPLES = "Examples: [bold]neat down[/] (the only stack that runs) · [bold]neat down --stack web[/]"
WAIT = 10.0  # seconds


def down(
    stack: Annotated[str | None, typer.Option(metavar="NAME", help="Which stack.", show_default="the only one")] = None,
) -> None:
    """End a stack: its processes, its interface and all its connections."""
    end(rundir.find(stack))


def end(stack: str) -> None:
    """Tell the keeper to end the stack, and wait until it has. Raises NeatError."""
    import os
    import signal

    pid = rundir.keeper_pid(stack)
    if pid is None:
        raise NeatError(f"stack {stack} is only just starting; try again")
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass  # it has ended meanwhile
    except PermissionError:
        raise NeatError(f"no right to end stack {stack}; run as the user who started it, or as root") from None
    deadline = time.monotonic() + WAIT
    while rundir.is_running(stack):
        if time.monotonic() > deadline:
            raise NeatError(f"stack {stack} does not end; kill its keeper, process {pid}")
        time.sleep(0.005)
