"""Which sockets may be bound beside which: the stack's rules compared with the kernel's, over both families."""

import errno
import itertools
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

import pytest

from neatstack.control.ports import Ports, Refused
from neatstack.experiment.netns import Lab, Namespace

PORT = 8099


@dataclass(frozen=True)
class Bound:
    """A socket as a program binds it."""

    address: str
    v6only: bool = False
    reuse: bool = False

    def by_kernel(self, kind: socket.SocketKind, port: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        made = socket.socket(family, kind)
        try:
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, self.v6only)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, self.reuse)
            made.bind((self.address, port))
        except OSError:
            made.close()
            raise
        return made

    def by_stack(self, ports: Ports, kind: socket.SocketKind) -> None:
        given = ip_address(self.address)
        address = given.ipv4_mapped or given if isinstance(given, IPv6Address) else given
        datagram = kind == socket.SOCK_DGRAM
        ports.bind(1, 0, address, PORT, reuse_address=self.reuse, datagram=datagram, v6only=self.v6only)


SOCKETS = [
    *(Bound(address) for address in ("0.0.0.0", "127.0.0.1", "::", "::1", "::ffff:0.0.0.0", "::ffff:127.0.0.1")),
    *(Bound(address, v6only=True) for address in ("::", "::1")),
    *(Bound(address, reuse=True) for address in ("0.0.0.0", "127.0.0.1", "::", "::1")),
]


@pytest.fixture(scope="module")
def place(lab: Lab) -> Iterator[Namespace]:
    with lab.scope():
        yield lab.namespace("kernel")


def kernel(first: Bound, second: Bound, kind: socket.SocketKind) -> int:
    """The error of the second."""
    with ExitStack() as held:
        held.enter_context(first.by_kernel(kind, PORT))
        try:
            held.enter_context(second.by_kernel(kind, PORT))
        except OSError as error:
            return error.errno or -1
    return 0


def stack(first: Bound, second: Bound, kind: socket.SocketKind) -> int:
    ports = Ports([])
    first.by_stack(ports, kind)
    try:
        second.by_stack(ports, kind)
    except Refused as refused:
        return refused.errno
    return 0


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_pairs(place: Namespace, kind: socket.SocketKind) -> None:
    pairs = list(itertools.product(SOCKETS, SOCKETS))
    with place.entered():
        expected = {pair: kernel(*pair, kind) for pair in pairs}
    assert set(expected.values()) == {0, errno.EADDRINUSE}
    wrong = {pair: (stack(*pair, kind), there) for pair, there in expected.items() if stack(*pair, kind) != there}
    assert wrong == {}
