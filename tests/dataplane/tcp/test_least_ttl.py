"""IP_MINTTL, IPV6_MINHOPCOUNT: what has come too far is dropped (RFC 5082, GTSM)."""

import struct
from dataclasses import replace

from tests.dataplane.test_ipv6 import TCP, Lab6, packet, tcp
from tests.support.lab import Connection, Lab
from tests.support.layout import neat

SYN, ACK = 2, 16


def sends(c: Connection, ttl: int, flags: str = "A", **what: object) -> None:
    c.lab.inject(replace(c.segment(flags, **what), ttl=ttl))


def test_of_a_listener_and_its_connections() -> None:
    """Neither SYN nor RST nor text from further away is heard, nor answered; also before a program has accepted."""
    lab = Lab()
    c = lab.connection()
    listener = lab.listening(least_ttl=255)
    sends(c, 254, "S", options=c.syn_options)
    c.expects_nothing()
    sends(c, 255, "S", options=c.syn_options)
    c.nxt = 1
    c.expects("SA")
    sends(c, 254)
    assert c.state == "SYN_RECEIVED"
    sends(c, 255)
    assert c.state == "ESTABLISHED"
    for ttl in (254, 1):
        sends(c, ttl, data=b"text")
        sends(c, ttl, "R")
    c.expects_nothing()
    sends(c, 255, data=b"heard")
    assert lab.program.accept(listener).recv() == b"heard" and lab.drops("ttl") == 6


def test_of_a_connection_that_says_so_later_and_takes_it_back() -> None:
    c = Lab().accepted()
    c.socket.set(flags=neat.FLAG_LEAST_TTL, least_ttl=200)
    c.lab.run()
    sends(c, 199, data=b"no")
    assert c.socket.recv() == b"" and c.lab.drops("ttl") == 1
    sends(c, 200, data=b"yes")
    assert c.socket.recv() == b"yes"
    c.socket.set(flags=neat.FLAG_LEAST_TTL, least_ttl=0)
    c.lab.run()
    c.nxt += 3
    sends(c, 1, data=b"all")
    assert c.socket.recv() == b"all"


def test_over_ipv6_the_hop_limit_counts() -> None:
    lab = Lab6()
    listener = lab.program.listen(80, address="::", least_ttl=10, least_hops=65)

    def comes(hops: int, *what: int) -> list[object]:
        data = bytearray(packet(TCP, tcp(80, *what)))
        data[7] = hops
        return lab.takes(bytes(data))

    assert not comes(64, 100, 0, SYN)
    (answer,) = comes(65, 100, 0, SYN)
    theirs = struct.unpack_from("!I", answer.body, 4)[0]
    comes(64, 101, theirs + 1, ACK)
    assert lab.program.accept(listener) is None
    comes(255, 101, theirs + 1, ACK)
    assert lab.program.accept(listener) is not None
    assert lab.drops("ttl") == 2
