"""The stack's device: a TAP with a queue for each replica slot and one for link, and its host side in a namespace."""

import json
import subprocess
from ipaddress import IPv4Interface
from pathlib import Path

from neatstack.control.errors import NeatError
from neatstack.control.settings import Settings

NAMESPACES = Path("/run/netns")  # where `ip netns` keeps them


def open_queues(settings: Settings) -> list[int]:
    """Make the TAP; its queues, the last one link's. Raises NeatError."""
    from neatstack.dataplane.driver import tap

    place = _namespace(settings.netns)
    try:
        return list(tap.open_queues(settings.device, settings.max_replicas + 1, place))
    except OSError as error:
        raise NeatError(f"{error.strerror}; see `neat doctor`, or choose another --device") from None


def configure_host_side(settings: Settings) -> None:
    """Give the kernel's side of the TAP its address and set it up. Blocks; raises NeatError.

    The addresses must be free in that namespace: with the kernel answering for one of them too, each would take the
    other's connections. iproute2 does it in a few milliseconds, where a netlink library takes hundreds to load.
    """
    host = IPv4Interface(settings.host_address)
    links = json.loads(_ip(settings, "-json", "-4", "address", "show") or "[]")
    taken = {address.get("local") for link in links for address in link.get("addr_info", ())}
    for option, address in (("address", settings.interface), ("host_address", host)):
        if str(address.ip) in taken:
            raise NeatError(f"{option}: {address.ip} is in use in this network namespace; choose another one")
    _ip(settings, "address", "add", str(host), "dev", settings.device)
    _ip(settings, "link", "set", settings.device, "mtu", str(settings.mtu), "up")


def _ip(settings: Settings, *arguments: str) -> str:
    """What `ip` prints, in the namespace of the host side. Raises NeatError."""
    where = ("-netns", settings.netns) if settings.netns else ()
    try:
        done = subprocess.run(("ip", *where, *arguments), capture_output=True, text=True, timeout=10)
    except FileNotFoundError:
        raise NeatError("there is no command `ip`; install the package iproute2") from None
    except subprocess.TimeoutExpired:
        raise NeatError(f"`ip` does not answer; cannot configure {settings.device}") from None
    if done.returncode:
        raise NeatError(f"cannot configure {settings.device}: {' '.join(done.stderr.split()) or 'ip has failed'}")
    return done.stdout


def _namespace(name: str | None) -> str | None:
    if name is None:
        return None
    path = NAMESPACES / name
    if not path.exists():
        raise NeatError(f"netns: there is no network namespace {name}; make it with `ip netns add {name}`")
    return str(path)
