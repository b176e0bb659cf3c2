"""Echo requests of link: sent, answered, lost, refused; in a clock that the test sets."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from neatstack.control import frames
from neatstack.control.frames import Arp
from tests.control.test_link import ADDRESS, HOST, OURS, PEER, Wire, make, wire

__all__ = ["make", "wire"]
IP_AT = frames.ETHERNET.size
ELSEWHERE = "192.0.2.7"


class Pinging:
    """What was asked, and the answers that have come."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.answers: list[dict[str, Any]] = []

    def ask(self, address: str, size: int = 56, sequence: int = 1, timeout: float = 2.0) -> list[bytes]:
        message = {"op": "ping", "address": address, "size": size, "sequence": sequence, "timeout": timeout}
        self.wire.link.pings.start(message, self.answers.append)
        return self.wire.sent()

    def know(self, address: bytes = HOST, mac: bytes = PEER) -> None:
        self.wire.arp(frames.REQUEST, mac, address, bytes(6), ADDRESS)


@pytest.fixture
def pinging(wire: Wire) -> Pinging:
    return Pinging(wire)


def reply(request: bytes, **changes: bytes) -> bytes:
    """The answer of the host to a request as it has left."""
    message = frames.reply_to(request[IP_AT + 20 :])
    message = changes.get("message", message)
    source = changes.get("source", request[IP_AT + 16 : IP_AT + 20])
    packet = frames.icmp_packet(source, ADDRESS, message, 60)
    return frames.VNET + frames.ETHERNET.pack(OURS, PEER, frames.ETHERTYPE_IP) + packet


def error(request: bytes, kind: int, code: int, quoted: int = 28) -> bytes:
    """What a router has to say of it."""
    message = struct.pack("!BBHI", kind, code, 0, 0) + request[IP_AT : IP_AT + quoted]
    message = message[:2] + frames.checksum(message).to_bytes(2, "big") + message[4:]
    return reply(request, message=message, source=HOST)


@pytest.mark.rfc("1122:echo-client")
def test_a_request_as_it_should_be_and_its_reply(pinging: Pinging) -> None:
    pinging.know()
    (request,) = pinging.ask("10.77.0.1", size=300, sequence=7)
    assert request[:12] == PEER + OURS
    assert frames.checksum(request[IP_AT : IP_AT + 20]) == frames.checksum(request[IP_AT + 20 :]) == 0
    assert request[IP_AT + 20] == frames.ECHO
    assert request[-300:] == bytes(range(256)) + bytes(range(44))
    pinging.wire.pass_time(0.5)
    assert pinging.wire.deliver(reply(request)) == []
    (answer,) = pinging.answers
    assert answer.pop("rtt_ns") >= 0
    assert answer == {"outcome": "reply", "ttl": 60, "bytes": 308}
    pinging.wire.deliver(reply(request))  # once more: nobody waits for it
    assert len(pinging.answers) == 1


def test_the_neighbour_is_asked_for_first(pinging: Pinging) -> None:
    (question,) = pinging.ask("10.77.0.1")
    assert frames.parse_arp(question)
    pinging.wire.deliver(frames.build_arp(OURS, Arp(frames.REPLY, PEER, HOST, OURS, ADDRESS)))
    assert len(pinging.wire.link.pings.under_way) == 1
    (echo,) = pinging.ask("10.77.0.1", sequence=2)
    pinging.wire.deliver(reply(echo))
    assert pinging.answers[-1]["outcome"] == "reply"


def test_nobody_is_there(pinging: Pinging) -> None:
    pinging.ask("10.77.0.9", timeout=10.0)
    for _ in range(4):
        pinging.wire.pass_time(1.1)
    assert pinging.answers == [{"outcome": "unreachable", "from": "10.77.0.2", "code": 1}]


def test_no_answer(pinging: Pinging) -> None:
    pinging.know()
    pinging.ask("10.77.0.1", timeout=1.0)
    assert pinging.wire.link.run_timers() == pytest.approx(1.0)
    pinging.wire.pass_time(0.9)
    assert pinging.answers == []
    pinging.wire.pass_time(0.2)
    assert pinging.answers == [{"outcome": "timeout"}]


def test_other_networks(pinging: Pinging) -> None:
    """Over the gateway, if there is one; what a router says of it is told."""
    assert pinging.ask(ELSEWHERE) == []
    assert pinging.answers == [{"outcome": "no route"}]
    pinging.wire.link.gateways.chosen = HOST
    pinging.know()
    for kind, code, outcome in ((3, 1, "unreachable"), (3, 0, "unreachable"), (11, 0, "time exceeded")):
        (request,) = pinging.ask(ELSEWHERE)
        assert request[:6] == PEER
        pinging.wire.deliver(error(request, kind, code))
        assert pinging.answers[-1] == {"outcome": outcome, "from": "10.77.0.1", "code": code}
    (request,) = pinging.ask(ELSEWHERE)
    pinging.wire.deliver(reply(request))
    assert pinging.answers[-1]["outcome"] == "reply"


def test_what_is_no_answer(pinging: Pinging) -> None:
    """Another's number, another's address, cut errors, wrong checksums: none of them ends the wait."""
    pinging.know()
    (request,) = pinging.ask("10.77.0.1")
    message = frames.reply_to(request[IP_AT + 20 :])
    good = reply(request)
    other = frames.echo(frames.ECHO_REPLY, 1 + pinging.wire.link.pings.ident & 0xFFFF, 1, b"")
    for frame in (
        reply(request, message=other),
        reply(request, message=frames.echo(frames.ECHO_REPLY, pinging.wire.link.pings.ident, 2, b"")),
        reply(request, source=b"\n\x4d\0\4"),
        reply(request, message=message[:-1] + b"\0"),
        good[:-1],
        *(error(request, 3, 1, quoted) for quoted in range(28)),
    ):
        pinging.wire.deliver(frame)
    assert pinging.answers == []
    damaged = frames.echo(frames.ECHO_REPLY, pinging.wire.link.pings.ident, 1, bytes(56))
    pinging.wire.deliver(reply(request, message=damaged))
    assert pinging.answers == [{"outcome": "damaged"}]


@pytest.mark.parametrize("address", ["10.77.0.2", "127.0.0.1", "127.255.0.3"])
def test_ourselves(pinging: Pinging, address: str) -> None:
    assert pinging.ask(address, size=0) == []
    (answer,) = pinging.answers
    assert answer["outcome"] == "reply" and answer["bytes"] == 8


@pytest.mark.parametrize("changes", [
    {"address": "224.0.0.1"}, {"address": "255.255.255.255"}, {"address": "0.0.0.0"}, {"address": "x"},
    {"size": 65508}, {"size": -1}, {"size": "1"}, {"sequence": None}, {"timeout": 0}, {"timeout": 61},
])  # fmt: skip
def test_what_cannot_be_sent(pinging: Pinging, changes: dict[str, Any]) -> None:
    message = {"op": "ping", "address": "10.77.0.1", "size": 56, "sequence": 1, "timeout": 2.0}
    with pytest.raises(ValueError):
        pinging.wire.link.pings.start(message | changes, pinging.answers.append)
    assert pinging.wire.sent() == []


def test_bounded_and_numbers_that_come_again(pinging: Pinging) -> None:
    pinging.know()
    pinging.ask("10.77.0.1", sequence=1)
    pinging.ask("10.77.0.1", sequence=65537)
    assert pinging.answers == [{"outcome": "timeout"}]
    for sequence in range(2, 257):
        pinging.ask("10.77.0.1", sequence=sequence)
    with pytest.raises(ValueError):
        pinging.ask("10.77.0.1", sequence=300)
