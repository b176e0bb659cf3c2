"""The steering program, run by the kernel on frames that go nowhere, against the hash as user space computes it."""

from __future__ import annotations

import os
import random
import socket
import struct
from collections.abc import Iterator

import pytest

from neatstack.dataplane.driver.steer import Flow, Steering, bucket, choose_keys, even_table, spread
from tests.dataplane.driver.frames import (
    CLIENT,
    ICMP,
    ICMP6,
    MORE_FRAGMENTS,
    PORT,
    SERVER,
    TCP,
    UDP,
    ethernet,
    icmp,
    ipv4,
    ipv6,
    ports,
)

LINK = 16
KEYS = choose_keys(2)
TABLE = [random.Random(7).randrange(16) for _ in range(256)]


@pytest.fixture
def steering() -> Iterator[Steering]:
    if os.geteuid():
        pytest.skip("needs root: loads a program into the kernel")
    made = Steering.load()
    try:
        made.configure(KEYS, [SERVER], LINK)
        made.set_table(TABLE)
        yield made
    finally:
        made.close()


def replica_of(source: str, source_port: int, to: str = SERVER, port: int = PORT) -> int:
    return TABLE[bucket(KEYS, source, source_port, to, port)]


def flows(count: int) -> Iterator[tuple[str, int]]:
    rng = random.Random(3)
    for _ in range(count):
        yield f"{rng.randrange(1, 224)}.{rng.randrange(256)}.{rng.randrange(256)}.1", rng.randrange(1, 65536)


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_kernel_and_user_space_hash_alike(steering: Steering, protocol: int) -> None:
    for source, port in flows(200):
        assert steering.decide(ethernet(ipv4(ports(port), protocol, source))) == replica_of(source, port)


def test_ip_options_are_stepped_over(steering: Steering) -> None:
    for source, port in flows(50):
        frame = ethernet(ipv4(ports(port), TCP, source, options=b"\1" * 40))
        assert steering.decide(frame) == replica_of(source, port)


@pytest.mark.parametrize(
    "frame",
    [
        ethernet(bytes(28), 0x0806),
        ethernet(bytes(60), 0x86DD),
        ethernet(icmp(8, bytes(56))[0:]),
        ethernet(icmp(5, ipv4(ports(PORT, 5000), source=SERVER, to=CLIENT))),
        ethernet(ipv4(bytes(20), 132)),
        ethernet(b""),
        ethernet(ipv4(b"")),
        ethernet(b"\x44" + ipv4(ports(9))[1:]),
        ethernet(b"\x65" + ipv4(ports(9))[1:]),
        ethernet(b"\x4f" + ipv4(ports(9))[1:]),
    ],
    ids=[
        "arp",
        "ipv6",
        "echo",
        "redirect",
        "sctp",
        "empty",
        "no ports",
        "short ihl",
        "version",
        "options beyond the end",
    ],
)
def test_all_else_goes_to_link(steering: Steering, frame: bytes) -> None:
    assert steering.decide(frame) == LINK


@pytest.mark.parametrize("kind", [3, 4, 11, 12])
@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_icmp_error_goes_where_the_flow_goes(steering: Steering, kind: int, protocol: int) -> None:
    for peer, port in flows(30):
        ours = ipv4(ports(PORT, port, size=8), protocol, source=SERVER, to=peer)
        assert steering.decide(ethernet(icmp(kind, ours))) == replica_of(peer, port)


@pytest.mark.rfc("4443:2.4-unknown")
@pytest.mark.parametrize(("kind", "told"), [(0, False), (1, True), (4, True), (5, True), (127, True), (128, False)])
def test_icmp6_error_goes_where_the_flow_goes(steering: Steering, kind: int, told: bool) -> None:
    """Whatever its type, if it is one of an error (RFC 4443 section 2.1)."""
    own, router = "fd77::2", "fd77::9"
    steering.configure(KEYS, [SERVER, own], LINK)
    for port in range(4000, 4030):
        peer = f"2001:db8::{port}"
        message = struct.pack("!BBHI", kind, 0, 0, 0) + ipv6(ports(PORT, port, size=8), UDP, own, peer)
        where = TABLE[bucket(KEYS, peer, port, own, PORT)] if told else LINK
        assert steering.decide(ethernet(ipv6(message, ICMP6, router, own), 0x86DD)) == where


def test_icmp_error_about_another_goes_to_link(steering: Steering) -> None:
    foreign = ipv4(ports(PORT, 5000), source="10.77.0.3", to=CLIENT)
    later_fragment = ipv4(ports(PORT, 5000), source=SERVER, to=CLIENT, fragment=10)
    for quoted in (foreign, later_fragment, ipv4(bytes(20), ICMP, SERVER, CLIENT), foreign[:18], b""):
        assert steering.decide(ethernet(icmp(3, quoted))) == LINK


def test_one_replica_sees_all_fragments(steering: Steering) -> None:
    for identification in range(1, 60):
        frames = [
            ethernet(ipv4(ports(4000), UDP, fragment=place, identification=identification))
            for place in (MORE_FRAGMENTS, MORE_FRAGMENTS | 3, 6)
        ]
        assert {steering.decide(frame) for frame in frames} == {replica_of(CLIENT, identification, SERVER, 0)}


@pytest.mark.parametrize("length", range(6))
def test_a_last_fragment_may_be_shorter_than_ports(steering: Steering, length: int) -> None:
    for identification in range(1, 20):
        frame = ethernet(ipv4(bytes(length), UDP, fragment=6, identification=identification))
        assert steering.decide(frame) == replica_of(CLIENT, identification, SERVER, 0)


def test_fragments_of_tcp_follow_the_first(steering: Steering) -> None:
    """Their flow's replica has the connection; one that comes before the first goes anywhere."""
    steering.pin(Flow(CLIENT, 4000, SERVER, PORT), 13)
    for identification in range(1, 60):
        port = 4000 + identification % 7
        for place in (MORE_FRAGMENTS, MORE_FRAGMENTS | 3, 6):
            payload = bytes(24) if place & 0x1FFF else ports(port, size=24)
            frame = ethernet(ipv4(payload, TCP, fragment=place, identification=identification))
            assert steering.decide(frame) == (13 if port == 4000 else replica_of(CLIENT, port))
    early = ethernet(ipv4(bytes(24), TCP, fragment=3, identification=999))
    assert steering.decide(early) == replica_of(CLIENT, 999, SERVER, 0)


@pytest.mark.parametrize("place", [MORE_FRAGMENTS, MORE_FRAGMENTS | 3, 6])
def test_fragments_of_icmp_go_to_link(steering: Steering, place: int) -> None:
    """Also one whose first bytes look like an error about a connection."""
    quoted = icmp(3, ipv4(ports(PORT, 4000), TCP, SERVER, CLIENT))[20:]
    assert steering.decide(ethernet(ipv4(quoted, ICMP, fragment=place))) == LINK


def test_pin_goes_before_the_table(steering: Steering) -> None:
    pinned, other = Flow(CLIENT, 4000, SERVER, PORT), Flow(CLIENT, 4001, SERVER, PORT)
    steering.pin(pinned, 9)
    assert steering.pins() == {pinned: 9}
    assert steering.decide(ethernet(ipv4(ports(4000)))) == 9
    assert steering.decide(ethernet(icmp(3, ipv4(ports(PORT, 4000), TCP, SERVER, CLIENT)))) == 9
    assert steering.decide(ethernet(ipv4(ports(4000), UDP))) == replica_of(CLIENT, 4000)
    assert steering.decide(ethernet(ipv4(ports(4001)))) == replica_of(CLIENT, 4001)
    steering.pin(other, 8)
    steering.unpin(pinned)
    steering.unpin(pinned)
    assert steering.pins() == {other: 8}
    assert steering.decide(ethernet(ipv4(ports(4000)))) == replica_of(CLIENT, 4000)
    assert steering.decide(ethernet(ipv4(ports(4001)))) == 8


def test_descriptors_alone_restore_it(steering: Steering) -> None:
    flow = Flow(CLIENT, 4000, SERVER, PORT)
    steering.pin(flow, 5)
    again = Steering.from_fds({name: os.dup(fd) for name, fd in steering.fds.items()})
    try:
        assert again.configuration() == {"keys": KEYS, "addresses": [SERVER], "link_queue": LINK}
        assert (again.table(), again.pins()) == (TABLE, {flow: 5})
        again.set_table(even_table([3]))
        assert steering.decide(ethernet(ipv4(ports(4001)))) == 3
    finally:
        again.close()


def test_errors_are_one_clear_line(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="no steering program"):
        Steering.load(tmp_path / "none.o")
    broken = tmp_path / "broken.o"
    broken.write_bytes(b"no ELF")
    with pytest.raises(OSError, match="cannot read steering program"):
        Steering.load(broken)
    with socket.socket() as no_tap, pytest.raises(OSError, match="does not take the steering program"):
        Steering.from_fds(dict.fromkeys(("program", "config", "table", "pins"), no_tap.fileno())).attach(
            no_tap.fileno()
        )


@pytest.mark.parametrize(("replicas", "slack"), [(1, 0), (2, 4), (3, 4), (4, 3), (16, 3)])
def test_chosen_keys_divide_consecutive_ports_evenly(replicas: int, slack: int) -> None:
    """64 flows, also from starts that the choice did not try: hence one flow more than its 10 %."""
    keys = choose_keys(replicas)
    assert all(key & 1 for key in keys)
    shares = [share for at in range(1024, 60000, 977) for step in (1, 2) for share in spread(keys, replicas, at, step)]
    assert max(abs(share - 64 / replicas) for share in shares) <= slack + 1
