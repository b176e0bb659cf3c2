"""`neat run`: run a program on a stack."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from neatstack.cli import executable
from neatstack.control import launch, rundir
from neatstack.control.errors import NeatError
from neatstack.control.settings import DEFAULT_NAME, NAME, NAME_RULE, Settings

EXAMPLES = (
    "Examples: [bold]neat run -- python3 -m http.server[/] · [bold]neat run --stack web -- nginx -g 'daemon off;'[/]."
    " Exit status is the program's; 127: no such program, 126: it cannot be run."
)
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def run(
    program: Annotated[list[str], typer.Argument(metavar="-- PROGRAM [ARG]...", show_default=False)],
    stack: Annotated[str | None, typer.Option(metavar="NAME", help="Which stack.", show_default="the only one")] = None,
) -> None:
    """Run a program on a stack. With no stack of that name, one is started for the program's life."""
    path = executable.find(program[0])
    executable.check_loadable(path)
    names = rundir.running()
    if stack is None and names:
        stack = rundir.find(None)
    if stack in names:
        assert stack is not None
        execute(path, program, environment(stack))
    raise typer.Exit(run_alone(path, program, stack or DEFAULT_NAME))


def environment(stack: str) -> dict[str, str]:
    """What the program's environment needs for the socket library to find the stack."""
    library = Path(__file__).parents[1] / "client/libneat.so"
    if not library.exists():
        raise NeatError(f"the socket library {library} is not built; install neatstack with `pip install`")
    preload = " ".join(filter(None, [os.environ.get("LD_PRELOAD"), str(library)]))
    return {**os.environ, "LD_PRELOAD": preload, "NEAT_STACK": str(rundir.directory(stack))}


def execute(path: str, argv: list[str], env: dict[str, str]) -> NoReturn:
    """Become the program."""
    try:
        os.execve(path, argv, env)
    except OSError as error:
        raise NeatError(f"cannot run {path}: {error.strerror}", status=126) from None


def run_alone(path: str, argv: list[str], stack: str) -> int:
    """Run the program on a stack of its own, which ends with it; the status that a shell would give."""
    from neatstack.cli.down import end
    from neatstack.cli.up import start_aside

    if not NAME.fullmatch(stack):
        raise NeatError(f"stack: {NAME_RULE}", status=2)
    start_aside(Settings(name=stack), rundir.claim(stack), ends_with_us=True)
    try:
        return _supervise(path, argv, environment(stack))
    finally:
        end(stack)


def _supervise(path: str, argv: list[str], env: dict[str, str]) -> int:
    """Run the program as our child; signals that are meant for it reach it, and our own death ends it."""
    try:
        child = subprocess.Popen(argv, executable=path, env=env, preexec_fn=launch.die_with_parent)
    except OSError as error:
        raise NeatError(f"cannot run {path}: {error.strerror}", status=126) from None
    for number in FORWARDED:
        signal.signal(number, lambda received, _: child.send_signal(received))
    status = child.wait()
    return 128 - status if status < 0 else status
