"""The stack's device: a TAP with a queue for each replica slot and one for link, and its host side in a namespace."""

import os
import socket
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
    other's connections.
    """
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    host = IPv4Interface(settings.host_address)
    try:
        with IPRoute(netns=settings.netns) if settings.netns else IPRoute() as route:
            taken = {message.get("local") for message in route.get_addr(family=socket.AF_INET)}
            for option, address in (("address", settings.interface), ("host_address", host)):
                if str(address.ip) in taken:
                    raise NeatError(f"{option}: {address.ip} is in use in this network namespace; choose another one")
            index = route.link_lookup(ifname=settings.device)[0]
            route.addr("add", index=index, address=str(host.ip), prefixlen=host.network.prefixlen)
            route.link("set", index=index, mtu=settings.mtu, state="up")
    except NetlinkError as error:
        raise NeatError(f"cannot configure {settings.device}: {os.strerror(error.code)}; are you root?") from None


def _namespace(name: str | None) -> str | None:
    if name is None:
        return None
    path = NAMESPACES / name
    if not path.exists():
        raise NeatError(f"netns: there is no network namespace {name}; make it with `ip netns add {name}`")
    return str(path)
