"""`neat up`: start a stack."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Annotated, Any

import typer

from neatstack.control import launch, rundir
from neatstack.control.errors import NeatError
from neatstack.control.settings import Settings

EXAMPLES = (
    "Examples: [bold]neat up[/] (in the foreground, until Ctrl-C) · "
    "[bold]neat up --name web --replicas 4 --detach[/] · [bold]neat up --config web.toml --netns lab[/] · "
    "[bold]neat up --address 10.77.0.2/24 --address fd77::2/64[/]"
)

Addresses = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ADDRESS/LENGTH",
        help="An own address of the stack, IPv4 or IPv6; may be given several times.",
        show_default="10.77.0.2/24",
    ),
]
Gateways = Annotated[
    list[str] | None,
    typer.Option(metavar="ADDRESS", help="Where packets to other networks go; of several, the first that answers."),
]
Routes = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NETWORK[,via ADDRESS]",
        help="Who takes packets to a network (without `via`: its hosts are on the link); may be given several times.",
    ),
]
HostAddresses = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ADDRESS/LENGTH",
        help="The kernel's address at its end of the interface; may be given several times.",
        show_default="in each network the gateway, else the first",
    ),
]

Mtu = Annotated[
    int | None, typer.Option(metavar="BYTES", help="Of an IP packet on the interface.", show_default="1500")
]


def up(
    name: Annotated[str | None, typer.Option(help="What the stack is called.", show_default="default")] = None,
    address: Addresses = None,
    gateway: Gateways = None,
    route: Routes = None,
    slaac: Annotated[
        bool | None,
        typer.Option("--slaac/--no-slaac", help="Take IPv6 addresses that routers advertise.", show_default="no"),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="tap:NAME", help="The interface to make.", show_default="tap:neat0")
    ] = None,
    host_address: HostAddresses = None,
    netns: Annotated[
        str | None, typer.Option(metavar="NAME", help="The network namespace where the kernel's end is.")
    ] = None,
    mtu: Mtu = None,
    replicas: Annotated[int | None, typer.Option(help="How many replicas to start.", show_default="2")] = None,
    max_replicas: Annotated[
        int | None, typer.Option(help="How many there may be later, up to 16.", show_default="4, --replicas if more")
    ] = None,
    ecn: Annotated[
        str | None,
        typer.Option(
            metavar="off|passive|active",
            help="Explicit congestion notification: not at all, for peers that ask, or asked for, too.",
            show_default="passive",
        ),
    ] = None,
    recovery: Annotated[
        str | None,
        typer.Option(metavar="adopt|reset", help="A dead replica's connections: kept or reset.", show_default="adopt"),
    ] = None,
    spares: Annotated[
        int | None, typer.Option(help="Processes that wait to take a dead replica's place.", show_default="1")
    ] = None,
    rejuvenate_every: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Replace all replicas so often: 90s, 10m, 1h.", show_default="never"),
    ] = None,
    allow_faults: Annotated[
        bool, typer.Option("--allow-faults", help="Let `neat kill --fault` do more than kill; for tests.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="Options from a file; the command line wins.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return as soon as the stack is ready.")] = False,
) -> None:
    """Start a stack."""
    from neatstack.control.config import load

    given: dict[str, Any] = {
        "name": name,
        "address": address,
        "gateway": gateway,
        "route": route,
        "slaac": slaac,
        "device": device,
        "host_address": host_address,
        "netns": netns,
        "mtu": mtu,
        "replicas": replicas,
        "max_replicas": max_replicas,
        "ecn": ecn,
        "recovery": recovery,
        "spares": spares,
        "rejuvenate_every": rejuvenate_every,
        "allow_faults": allow_faults or None,  # not given: the file decides
    }
    settings = load(config, given)
    lock = rundir.claim(settings.name)
    if detach:
        print(start_aside(settings, lock))
    else:
        become_keeper(settings, lock)


def become_keeper(settings: Settings, lock: int) -> None:
    """This process is the keeper from now on; it reports on standard error."""
    signal.pthread_sigmask(signal.SIG_BLOCK, launch.ENDING)  # until the keeper can clean up
    report = os.dup(2)
    for descriptor in (lock, report):
        os.set_inheritable(descriptor, True)
    _sign(lock, os.getpid())
    command = keeper_command(settings, lock, report)
    os.execv(command[0], command)


def start_aside(settings: Settings, lock: int, *, ends_with_us: bool = False) -> str:
    """Start the keeper in the background and wait until the stack is ready; what it says then.

    It writes its messages to `log` in the stack's directory. Raises NeatError when the stack cannot start. Ctrl-C
    meanwhile ends it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, launch.ENDING)  # until the keeper can clean up, and we can tell it to
    reading, report = os.pipe()
    options = ["--end-with-parent"] if ends_with_us else []
    with (rundir.directory(settings.name) / "log").open("wb") as log:
        keeper = subprocess.Popen(
            keeper_command(settings, lock, report, *options),
            pass_fds=[lock, report],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
        )
    _sign(lock, keeper.pid)
    os.close(lock)
    os.close(report)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, launch.ENDING)
        with os.fdopen(reading) as lines:
            said = lines.readline().strip()
    except KeyboardInterrupt:
        keeper.terminate()
        keeper.wait()
        raise
    if not said or said.startswith("neat: "):
        keeper.wait()  # until it has cleaned up
    else:
        keeper.returncode = 0  # it outlives us: not Popen's to wait for
    if said.startswith("neat: "):
        raise NeatError(said.removeprefix("neat: "))
    if not said:
        raise NeatError(f"stack {settings.name} did not start; `neat up` without --detach shows why")
    return said


def keeper_command(settings: Settings, lock: int, report: int, *options: str) -> list[str]:
    """The keeper's command line."""
    directory = str(rundir.directory(settings.name))
    return launch.command("neatstack.control.keeper", directory, settings.to_json(), str(lock), str(report), *options)


def _sign(lock: int, keeper: int) -> None:
    """Write into keeper.pid who holds it."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{keeper}\n".encode(), 0)
