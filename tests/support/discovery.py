"""A link that speaks IPv6, and frames for it."""

import mmap
import socket
from collections.abc import Sequence
from ipaddress import IPv4Interface, IPv6Address, IPv6Interface
from typing import Any

from neatstack.control import frames, frames6
from neatstack.control.frames6 import Packet
from neatstack.control.link import Link, Plan
from neatstack.control.neighbours import NeighbourTable
from neatstack.control.pages import NEIGHBOUR_SIZE, NEIGHBOURS, Route

OURS, PEER, OTHER = b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02", b"\x02\0\0\0\0\x03"


def packed(text: str) -> bytes:
    return IPv6Address(text).packed


OWN, HOST, THIRD = (packed(f"fd77::{n}") for n in (2, 1, 3))
ROUTER, LOCAL = packed("fe80::1"), packed("fe80::2")


class Segment:
    """Link on a socket, in a clock that the test sets; what it tells the manager is in `told`."""

    def __init__(
        self, clock: list[float], *given: str, gateways: Sequence[bytes] = (), slaac: bool = False,
        before: dict[str, Any] | None = None, routes: Sequence[Route] = (), transmits: int = 1,
        redirects: bool = False,
    ) -> None:  # fmt: skip
        self.clock = clock
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in (self.ours, self.theirs):
            end.setblocking(False)
        memory = mmap.mmap(-1, NEIGHBOURS * NEIGHBOUR_SIZE)
        table = NeighbourTable(memory)
        self.link = Link(
            self.theirs.fileno(), table, [IPv4Interface("10.77.0.2/24")], OURS, routes=routes, redirects=redirects
        )
        self.told: list[dict[str, Any]] = []
        self.early: list[Packet] = []  # what left while its addresses were tentative
        plan = Plan(tuple(map(IPv6Interface, given)), tuple(gateways), slaac, b"secret", "neat0", transmits=transmits)
        self.link.speak_ipv6(plan, self.told.append, before)
        assert self.link.discovery is not None
        self.discovery = self.link.discovery

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()

    def sent(self) -> list[Packet]:
        """What has left, each with a right checksum and the hardware address that belongs to its destination."""
        packets = []
        for frame in self.frames():
            packet = frames6.parse(frame, frame[:6])
            assert packet is not None, frame.hex()
            assert frame[6:12] == OURS
            if frames6.is_multicast(packet.destination):
                assert frame[:6] == frames6.group_mac(packet.destination)
            packets.append(packet)
        return packets

    def frames(self) -> list[bytes]:
        """The same as it stands on the wire."""
        frames_sent = []
        while True:
            try:
                frames_sent.append(self.ours.recv(70000)[len(frames.VNET) :])
            except BlockingIOError:
                return frames_sent

    def kinds(self) -> list[int]:
        return [packet.kind for packet in self.sent()]

    def of_kind(self, kind: int) -> list[Packet]:
        return [packet for packet in self.sent() if packet.kind == kind]

    def exchange(self, frame: bytes) -> list[bytes]:
        """A frame in, frames out."""
        self.ours.send(frames.VNET + frame)
        self.link.receive()
        return self.frames()

    def deliver(self, frame: bytes) -> list[Packet]:
        self.ours.send(frames.VNET + frame)
        self.link.receive()
        return self.sent()

    def say(
        self, message: bytes, source: bytes = HOST, destination: bytes = OWN, mac: bytes = PEER, hops: int = 255,
        extension: bytes = b"",
    ) -> list[Packet]:  # fmt: skip
        """A message from the peer, in a frame to us or to the group."""
        return self.deliver(built(message, source, destination, mac, hops, extension))

    def query(
        self, message: bytes, source: bytes = ROUTER, destination: bytes = frames6.ALL_NODES,
        extension: bytes = frames6.ROUTER_ALERT,
    ) -> list[Packet]:  # fmt: skip
        """A router asks who listens."""
        return self.say(message, source, destination, hops=1, extension=extension)

    def pass_time(self, seconds: float) -> list[Packet]:
        """In steps of a tenth, as if somebody waited."""
        for _ in range(round(seconds * 10)):
            self.clock[0] += 0.1
            self.link.run_timers()
        return self.sent()

    def addresses(self) -> list[str]:
        return [each["address"] for each in self.discovery.to_data()["addresses"]]

    def mac(self, address: bytes) -> bytes | None:
        return self.link.neighbours.known(address)


def built(
    message: bytes, source: bytes, destination: bytes, mac: bytes = PEER, hops: int = 255, extension: bytes = b""
) -> bytes:
    to = frames6.group_mac(destination) if frames6.is_multicast(destination) else OURS
    return frames6.frame(to, mac, frames6.build(source, destination, message, hops, extension))[len(frames.VNET) :]


def prefix(text: str, valid: int = 86400, preferred: int = 14400, flags: int = 0xC0) -> bytes:
    """The option of a router advertisement."""
    network, _, length = text.partition("/")
    told = bytes((3, 4, int(length), flags)) + valid.to_bytes(4, "big") + preferred.to_bytes(4, "big")
    return told + bytes(4) + packed(network)


def mtu(number: int) -> bytes:
    return bytes((5, 1, 0, 0)) + number.to_bytes(4, "big")


def router(*options: bytes, lifetime: int = 1800, mac: bytes = PEER, hops: int = 64) -> bytes:
    """A router advertisement."""
    head = bytes((134, 0, 0, 0, hops, 0)) + lifetime.to_bytes(2, "big") + bytes(8)
    return head + frames6.link_option(1, mac) + b"".join(options)
