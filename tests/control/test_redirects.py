"""Redirects: who is believed, what becomes of them, how long they last. In virtual time."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from typing import Any

import pytest

from neatstack.control import frames, frames6
from neatstack.control.frames import Arp
from neatstack.control.pages import MOST_REDIRECTS
from tests.control.test_autoconfiguration import Make as Make6
from tests.control.test_autoconfiguration import advertise
from tests.control.test_autoconfiguration import make as make6
from tests.control.test_link import ADDRESS, HOST, OTHER, OURS, PEER, THIRD, Make, Wire, make
from tests.support.discovery import LOCAL, OWN, ROUTER, Segment, packed

__all__ = ["make", "make6"]
FAR, FAR6, BETTER = IPv4Address("192.0.2.7").packed, packed("2001:db8::7"), packed("fe80::9")


def redirect(
    gateway: bytes = THIRD, source: bytes = HOST, mac: bytes = PEER, destination: bytes = FAR, own: bytes = ADDRESS,
    code: int = 1, damage: int = 0,
) -> bytes:  # fmt: skip
    """As HOST, which is the gateway, would send it: THIRD takes packets for FAR."""
    quoted = frames.IP.pack(0x45, 0, 28, 0, 0, 64, 17, 0, own, destination) + bytes(8)
    message = struct.pack("!BBH", frames.REDIRECT, code, 0) + gateway + quoted
    message = message[:2] + (frames.checksum(message) ^ damage).to_bytes(2, "big") + message[4:]
    packet = frames.icmp_packet(source, ADDRESS, message, 64)
    return frames.VNET + frames.ETHERNET.pack(OURS, mac, frames.ETHERTYPE_IP) + packet


@pytest.fixture
def wire(make: Make) -> Wire:
    """With a gateway, and another neighbour."""
    wire = make(gateways=[HOST], redirects=True)
    wire.told = []  # type: ignore[attr-defined]
    wire.link.told = lambda told: wire.told.append(told["redirects"])  # type: ignore[attr-defined]
    for address, mac in ((HOST, PEER), (THIRD, OTHER)):
        wire.arp(frames.REQUEST, mac, address, bytes(6), ADDRESS)
    return wire


def told(wire: Any) -> list[dict[str, str]]:
    return wire.told  # type: ignore[no-any-return]


@pytest.mark.rfc("1122:redirect", "792:redirect")
@pytest.mark.parametrize("code", range(4))
def test_a_redirect_changes_the_way_to_a_host(wire: Wire, code: int) -> None:
    """RFC 1122 section 3.3.1.2: one for a network is taken for its host alone."""
    assert wire.deliver(redirect(code=code)) == []
    assert told(wire) == [{"192.0.2.7": "10.77.0.3"}]
    assert [wire.link._next_hop(each) for each in (FAR, FAR[:3] + b"\x08")] == [THIRD, HOST]
    wire.deliver(redirect(gateway=HOST, source=THIRD, mac=OTHER))  # which is who takes such packets now
    assert told(wire)[1:] == [{"192.0.2.7": "10.77.0.1"}]


@pytest.mark.rfc("1122:redirect-ignored")
@pytest.mark.parametrize("changes", [
    {"source": THIRD, "mac": OTHER},  # not the gateway
    {"mac": OTHER},  # who says that he is
    {"gateway": HOST}, {"gateway": ADDRESS}, {"gateway": FAR}, {"gateway": HOST[:3] + b"\xff"},
    {"destination": IPv4Address("224.1.2.3").packed}, {"destination": bytes(4)}, {"destination": b"\xff" * 4},
    {"destination": HOST[:3] + b"\x09"},  # on the link
    {"own": THIRD},  # no packet of ours
    {"code": 4}, {"damage": 1},
])  # fmt: skip
def test_what_is_not_believed(wire: Wire, changes: dict[str, Any]) -> None:
    wire.deliver(redirect(**changes))
    assert told(wire) == [] and list(wire.link.redirects) == []


def test_they_are_obeyed_only_where_the_operator_says_so(make: Make) -> None:
    wire = make(gateways=[HOST])
    for address, mac in ((HOST, PEER), (THIRD, OTHER)):
        wire.arp(frames.REQUEST, mac, address, bytes(6), ADDRESS)
    wire.deliver(redirect())
    assert list(wire.link.redirects) == [] and wire.link.redirects.counters == {"refused": 1}


def test_a_gateway_that_is_not_known_is_asked_for_first(wire: Wire) -> None:
    """As on Linux."""
    new = HOST[:3] + b"\x09"
    (asked,) = wire.deliver(redirect(new))
    assert (request := frames.parse_arp(asked)) is not None and request.target == new
    assert told(wire) == []
    wire.arp(frames.REPLY, OTHER, new, OURS, ADDRESS)
    wire.deliver(redirect(new))
    assert told(wire) == [{"192.0.2.7": "10.77.0.9"}]


@pytest.mark.rfc("1122:dead-gateway")
def test_a_way_ends_with_its_time_or_its_gateway(wire: Wire) -> None:
    def passes(seconds: int, *answering: tuple[bytes, bytes]) -> None:
        for _ in range(seconds):
            for frame in wire.pass_time(1.0):
                asked = frames.parse_arp(frame)
                for address, mac in answering:
                    if asked is not None and asked.target == address:
                        wire.deliver(frames.build_arp(OURS, Arp(frames.REPLY, mac, address, OURS, ADDRESS)))

    wire.deliver(redirect())
    passes(299, (HOST, PEER), (THIRD, OTHER))
    wire.deliver(redirect(gateway=THIRD, source=THIRD, mac=OTHER))  # says nothing
    assert len(told(wire)) == 1
    passes(2, (HOST, PEER), (THIRD, OTHER))
    assert told(wire)[1:] == [{}]
    wire.deliver(redirect())
    passes(70, (HOST, PEER))
    assert told(wire)[2:] == [{"192.0.2.7": "10.77.0.3"}, {}]


def test_the_oldest_ends_when_there_are_too_many(wire: Wire) -> None:
    for n in range(MOST_REDIRECTS + 1):
        wire.deliver(redirect(destination=FAR[:3] + bytes([n])))
    assert len(told(wire)[-1]) == MOST_REDIRECTS
    assert "192.0.2.0" not in told(wire)[-1] and "192.0.2.48" in told(wire)[-1]


# ---- IPv6 ----


def redirect6(target: bytes = BETTER, destination: bytes = FAR6, options: bytes = b"", code: int = 0) -> bytes:
    return bytes((frames6.REDIRECT, code, 0, 0)) + bytes(4) + target + destination + options


@pytest.fixture
def segment(make6: Make6) -> Segment:
    """With a router."""
    made = make6(f"{OWN6}/64", "fe80::2/64", redirects=True)
    advertise(made)
    return made


OWN6 = "fd77::2"


@pytest.mark.rfc("4861:8.3-1")
@pytest.mark.parametrize("target", [BETTER, FAR6])
def test_a_redirect_over_ipv6(segment: Segment, target: bytes) -> None:
    """To another router, or to the host itself, which is on the link; its hardware address comes along, or is asked."""
    segment.say(redirect6(target, options=frames6.link_option(2, OTHER)), ROUTER, OWN)
    assert segment.discovery.next_hop(FAR6) == target and segment.mac(target) == OTHER
    assert segment.discovery.next_hop(FAR6[:-1] + b"\x08") == ROUTER
    other = FAR6[:-1] + b"\x09"
    (asked,) = segment.say(redirect6(other, other), ROUTER, OWN)
    assert asked.kind == frames6.SOLICITATION and asked.message[8:24] == other


@pytest.mark.rfc("4861:8.1-1")
@pytest.mark.parametrize(("message", "more"), [
    (redirect6(), {"hops": 254}), (redirect6(code=1), {}), (redirect6()[:39], {}),
    (redirect6(), {"source": packed("fd77::1")}),  # no link-local address
    (redirect6(packed("2001:db8::9")), {}),  # neither a router's nor the destination
    (redirect6(destination=packed("ff02::7")), {}), (redirect6(options=bytes((2, 0)) + bytes(6)), {}),
    (redirect6(options=frames6.link_option(2, b"\1" + bytes(5))), {}),
    (redirect6(packed("::ffff:192.0.2.7"), packed("::ffff:192.0.2.7")), {}), (redirect6(destination=packed("::1")), {}),
])  # fmt: skip
def test_what_is_malformed(segment: Segment, message: bytes, more: dict[str, Any]) -> None:
    before = segment.discovery.counters["malformed"]
    segment.say(message, **({"source": ROUTER, "destination": OWN} | more))
    assert list(segment.link.redirects) == [] and segment.discovery.counters["malformed"] == before + 1


@pytest.mark.parametrize(("message", "source"), [
    (redirect6(), packed("fe80::5")),  # another router
    (redirect6(ROUTER), ROUTER), (redirect6(LOCAL), ROUTER), (redirect6(OWN, OWN), ROUTER),
    (redirect6(destination=packed("fd77::9")), ROUTER),  # on the link
])  # fmt: skip
def test_what_is_not_believed_over_ipv6(segment: Segment, message: bytes, source: bytes) -> None:
    segment.say(message, source, OWN)
    assert list(segment.link.redirects) == [] and segment.link.redirects.counters["refused"] == 1
