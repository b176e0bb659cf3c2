"""ICMP errors about UDP, both ways (RFC 792, RFC 1122 sections 3.2.2.1, 4.1.3.1 and 4.1.3.3)."""

from __future__ import annotations

import errno
import struct

import pytest

from tests.support.lab import PEER, PEER_MAC, STACK, STACK_MAC, Lab
from tests.support.layout import ReplicaPage, neat
from tests.support.packet import (
    Datagram,
    address,
    build_datagram,
    build_ethernet,
    build_icmp,
    build_ip,
    build_udp,
    is_sound,
)


@pytest.mark.rfc("1122:port-unreachable", "1122:error-quotes", "792:unused", "792:quoted", "792:unreachable-sent")
def test_a_closed_port_is_unreachable():
    lab = Lab()
    lab.inject_datagram(bytes(range(200)), 99, peer_port=4444)
    [frame] = lab.other_frames
    ip, icmp = frame[14:34], frame[34:]
    assert frame[:12] == PEER_MAC + STACK_MAC and is_sound(ip) and is_sound(icmp)
    assert (ip[9], ip[12:16], ip[16:20]) == (1, address(STACK), address(PEER))
    assert struct.unpack_from("!H", ip, 2)[0] == len(frame) - 14
    assert icmp[:2] == b"\x03\x03" and icmp[4:8] == bytes(4)
    quoted = icmp[8:]
    assert len(quoted) >= 28 and quoted[12:20] == address(PEER) + address(STACK)
    assert struct.unpack_from("!HH", quoted, 20) == (4444, 99)


@pytest.mark.rfc("1122:no-error-about-error")
def test_no_error_is_sent_to_or_about_a_group_nor_for_what_is_damaged():
    lab = Lab()
    for group, mac in (("255.255.255.255", b"\xff" * 6), ("224.0.0.1", b"\1\0\x5e\0\0\1")):
        d = Datagram(source=PEER, destination=group, source_port=9, destination_port=99, payload=b"x")
        lab.inject_frame(build_datagram(d, source_mac=PEER_MAC, destination_mac=mac))
    d = Datagram(source=PEER, destination=STACK, source_port=9, destination_port=99, payload=b"x")
    lab.inject_frame(build_datagram(d, source_mac=PEER_MAC, destination_mac=STACK_MAC)[:-1] + b"y")
    assert not lab.other_frames


@pytest.mark.rfc("1122:no-error-nobody", "1122:udp-bad-source", "1122:bad-source")
@pytest.mark.parametrize("source", ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
                                    "10.0.0.255", "10.0.0.0", STACK])  # fmt: skip
@pytest.mark.parametrize("port", [7, 99])
def test_who_is_no_single_host_is_neither_heard_nor_answered(source: str, port: int):
    """RFC 1122 sections 3.2.1.3, 3.2.2 and 4.1.3.6."""
    lab = Lab()
    s = lab.datagram_socket(7)
    lab.inject_datagram(b"x", port, source=source)
    assert s.recv() is None and lab.other_frames == [] and lab.drops("martian") == 1


@pytest.mark.rfc("1122:error-tos")
def test_an_error_has_no_type_of_service():
    """RFC 1122 section 3.2.2; its precedence is that of network control (RFC 1812 section 4.3.2.5)."""
    lab = Lab()
    lab.inject_datagram(b"x", 99, tos=0x10)
    [frame] = lab.other_frames
    assert frame[15] & 0x1F == 0


@pytest.mark.rfc("1122:broadcast-link")
@pytest.mark.parametrize("mac", [b"\xff" * 6, bytes.fromhex("01005e000001")])
def test_a_broadcast_of_the_link_to_one_host_is_dropped(mac: bytes):
    lab = Lab()
    s = lab.datagram_socket(7)
    for port in (7, 99):
        d = Datagram(source=PEER, destination=STACK, source_port=9, destination_port=port, payload=b"x")
        lab.inject_frame(build_datagram(d, source_mac=PEER_MAC, destination_mac=mac))
    assert s.recv() is None and lab.other_frames == [] and lab.drops("not_ours") == 2


def test_errors_are_limited():
    lab = Lab()
    for _ in range(1000):
        lab.inject_datagram(b"x", 99)
    assert len(lab.other_frames) == 200
    lab.wait(1)
    lab.inject_datagram(b"x", 99)
    assert len(lab.other_frames) == 201


def quote(
    port: int, remote_port: int, payload: bytes = b"what we sent", source: str = STACK, protocol: int = 17
) -> bytes:
    d = Datagram(
        source=source, destination=PEER, source_port=port, destination_port=remote_port, payload=b"what we sent"
    )
    return build_ip(build_udp(d), source=source, destination=PEER, protocol=protocol)


def reports(lab: Lab, kind: int, code: int, quoted: bytes, *, rest: int = 0, damage: bool = False) -> None:
    packet = build_icmp(kind, code, quoted, source="10.0.0.99", destination=STACK, rest=rest)
    if damage:
        packet = packet[:-1] + bytes([packet[-1] ^ 1])
    lab.inject_frame(build_ethernet(packet, source=PEER_MAC, destination=STACK_MAC))


@pytest.mark.rfc(
    "1122:errors-told",
    "1122:unreachable-told",
    "1122:unreachable-hint",
    "1122:time-exceeded",
    "1122:parameter",
    "1122:udp-errors",
    "792:unreachable",
    "1191:6.2a",
)
@pytest.mark.parametrize(("kind", "code", "number", "final"), [
    (3, 0, errno.ENETUNREACH, False), (3, 1, errno.EHOSTUNREACH, False), (3, 2, errno.ENOPROTOOPT, True),
    (3, 3, errno.ECONNREFUSED, True), (3, 4, errno.EMSGSIZE, True), (3, 10, errno.EHOSTUNREACH, True),
    (3, 13, errno.EHOSTUNREACH, True), (11, 0, errno.EHOSTUNREACH, False), (12, 0, errno.EPROTO, True),
    (3, 99, 0, False), (5, 0, 0, False), (4, 0, 0, False), (8, 0, 0, False),
])  # fmt: skip
def test_what_an_error_means(kind, code, number, final):
    lab = Lab()
    plain, connected, curious = (lab.datagram_socket(port) for port in (7, 8, 9))
    connected.connect(PEER, 53)
    curious.slot.set(flags=neat.FLAG_ERRORS)
    lab.run()
    for port in (7, 8, 9):
        reports(lab, kind, code, quote(port, 53), rest=1400)
    assert plain.slot.error == 0 and not plain.waiting
    assert connected.slot.error == (number if final else 0) and not connected.waiting
    news = curious.recv()
    if not number:
        assert news is None
        return
    assert (news.flags, news.error, news.payload) == (neat.DATAGRAM_ERROR, number, b"what we sent")
    assert (news.source, news.destination[0]) == ((PEER, 53), "10.0.0.99")


@pytest.mark.rfc("4861:7.2.2-4")
def test_who_has_sent_what_waited_in_vain_for_a_neighbour_is_told():
    """As on Linux, where the host reports it to itself, after three seconds, and only IP_RECVERR hears of it."""
    lab = Lab()
    plain, connected, curious, both = (lab.datagram_socket(port) for port in (7, 8, 9, 10))
    for s in connected, both:
        s.connect("10.0.0.9", 53)
    for s in curious, both:
        s.slot.set(flags=neat.FLAG_ERRORS)
    for s in plain, connected, curious, both:
        s.send(b"first" * 200, "10.0.0.9", 53)
        s.send(b"second", "10.0.0.9", 53)
    lab.run()
    lab.wait(2.9)
    assert not curious.waiting and not both.waiting
    lab.wait(0.2)
    for s in curious, both:
        for payload in (b"first" * 200)[:512], b"second":
            news = s.recv()
            assert (news.flags, news.error, news.icmp) == (neat.DATAGRAM_ERROR, errno.EHOSTUNREACH, (3, 1))
            assert (news.payload, news.source, news.destination[0]) == (payload, ("10.0.0.9", 53), STACK)
        assert s.slot.error == errno.EHOSTUNREACH and not s.waiting
    for s in plain, connected:
        assert s.slot.error == 0 and not s.waiting
    assert lab.drops("neighbour") == 8


def test_who_is_gone_is_told_nothing_of_what_waited_in_vain():
    lab = Lab()
    gone = lab.datagram_socket(7)
    gone.slot.set(flags=neat.FLAG_ERRORS)
    gone.send(b"x", "10.0.0.9", 53)
    lab.run()
    gone.close()
    lab.run()
    other = lab.datagram_socket(7)
    other.slot.set(flags=neat.FLAG_ERRORS)
    lab.wait(3.1)
    assert lab.drops("neighbour") == 1 and not other.waiting


def test_what_cannot_be_about_us_is_dropped():
    lab = Lab()
    connected = lab.datagram_socket(8)
    connected.connect(PEER, 53)
    lab.run()
    good = quote(8, 53)
    reports(lab, 3, 3, good, damage=True)
    reports(lab, 3, 3, good[:27])
    reports(lab, 3, 3, quote(8, 53, source="10.0.0.77"))
    reports(lab, 3, 3, b"\x65" + good[1:])
    reports(lab, 3, 3, good[:6] + b"\x00\x10" + good[8:])
    assert lab.drops("icmp") == 5
    reports(lab, 3, 3, quote(8, 54))  # another peer
    reports(lab, 3, 3, quote(99, 53))  # no such socket
    reports(lab, 3, 3, quote(8, 53, protocol=6))
    assert connected.slot.error == 0
    reports(lab, 3, 3, good[:28])
    assert connected.slot.error == errno.ECONNREFUSED


def too_long(lab: Lab, port: int, remote_port: int, mtu: int) -> None:
    reports(lab, 3, 4, quote(port, remote_port), rest=mtu)


def fields(frame: bytes) -> tuple[int, bool, bool, int]:
    """Total length, Don't Fragment, More Fragments, offset."""
    total, place = struct.unpack_from("!H2xH", frame, 16)
    assert not place & 0x8000
    return total, bool(place & 0x4000), bool(place & 0x2000), (place & 0x1FFF) * 8


def known(page: ReplicaPage) -> list[int]:
    """What the replica tells of paths."""
    return [path.mtu for path in page.paths if path.mtu]


@pytest.mark.rfc("1191:3b", "1191:3f", "1191:3e", "1122:longest-sent", "791:reserved")
@pytest.mark.parametrize(
    ("flags", "size", "left"),
    [
        (0, 900, [(928, True, False, 0)]),
        (0, 1400, [(996, False, True, 0), (452, False, False, 976)]),
        (neat.DATAGRAM_DONT_FRAGMENT, 1400, []),
        (neat.DATAGRAM_DONT_FRAGMENT, 972, [(1000, True, False, 0)]),
        (neat.DATAGRAM_DONT_FRAGMENT | neat.DATAGRAM_DEVICE, 1400, [(1428, True, False, 0)]),
        (neat.DATAGRAM_NO_DF, 900, [(928, False, False, 0)]),
        (neat.DATAGRAM_NO_DF | neat.DATAGRAM_DEVICE, 1400, [(1428, False, False, 0)]),
    ],
    ids=["want", "want, larger", "do", "do, as large", "probe", "dont", "omit"],
)
def test_a_path_that_carries_less(flags, size, left):
    """As Linux's IP_MTU_DISCOVER; for ten minutes, as RFC 1191 section 6.3 has it."""
    page = ReplicaPage()
    lab = Lab(replica_page=page)
    s = lab.datagram_socket(7)
    s.connect(PEER, 53)
    s.send(bytes(1400), PEER, 53)
    lab.run()
    too_long(lab, 7, 53, 1000)
    assert known(page) == [1000]
    too_long(lab, 7, 53, 1200)
    lab.engine.output()
    s.send(bytes(size), PEER, 53, flags=flags)
    lab.engine.run()
    assert [fields(frame) for frame, _ in lab.engine.output()] == left
    lab.wait(601)
    s.send(bytes(1400), PEER, 53)
    lab.engine.run()
    assert [fields(frame) for frame, _ in lab.engine.output()] == [(1428, True, False, 0)]


@pytest.mark.rfc("4821:5.2b")
def test_the_path_to_one_host_says_nothing_of_its_neighbour():
    lab = Lab()
    s = lab.datagram_socket(7)
    too_long(lab, 7, 53, 1000)
    lab.engine.neighbour("10.0.0.9", PEER_MAC)
    s.send(bytes(1400), "10.0.0.9", 53)
    lab.engine.run()
    assert [fields(frame) for frame, _ in lab.engine.output()] == [(1428, True, False, 0)]


@pytest.mark.rfc("1191:3d")
def test_a_path_that_is_said_to_carry_next_to_nothing():
    """552 bytes are sent at least, as Linux does; routers may cut them."""
    lab = Lab()
    s = lab.datagram_socket(7)
    too_long(lab, 7, 53, 68)
    s.send(bytes(524), PEER, 53)
    s.send(bytes(524), PEER, 53)
    lab.engine.run()
    first, second = (frame for frame, _ in lab.engine.output())
    assert fields(first) == fields(second) == (552, False, False, 0)
    assert first[18:20] != second[18:20], "each may be cut"


def test_a_router_that_does_not_say_what_it_takes():
    page = ReplicaPage()
    lab = Lab(replica_page=page)
    s = lab.datagram_socket(7)
    s.connect(PEER, 53)
    lab.run()
    d = Datagram(source=STACK, destination=PEER, source_port=7, destination_port=53, payload=bytes(1400))
    reports(lab, 3, 4, build_ip(build_udp(d), source=STACK, destination=PEER, protocol=17)[:28])
    assert known(page) == [1006]


@pytest.mark.parametrize(("mtu", "left"), [
    (1000, [(996, False, True, 0), (452, False, False, 976)]), (68, [(548, False, True, 0), (548, False, True, 528),
                                                                     (372, False, False, 1056)]),
])  # fmt: skip
def test_a_successor_knows_the_paths(mtu, left):
    page = ReplicaPage()
    first = Lab(replica_page=page)
    first.datagram_socket(7)
    too_long(first, 7, 53, mtu)
    lab = Lab(replica_page=page, incarnation=2)
    s = lab.datagram_socket(7)
    s.send(bytes(1400), PEER, 53)
    s.send(bytes(500), PEER, 53)
    lab.engine.run()
    *parts, small = [fields(frame) for frame, _ in lab.engine.output()]
    assert (parts, small) == (left, (528, mtu == 1000, False, 0)), "to one that is said to carry less routers may cut"


def test_a_path_is_not_learnt_from_what_no_socket_has_sent():
    lab = Lab()
    s = lab.datagram_socket(7)
    too_long(lab, 8, 53, 1000)
    too_long(lab, 7, 53, 1500)
    s.send(bytes(1400), PEER, 53)
    lab.engine.run()
    assert [fields(frame) for frame, _ in lab.engine.output()] == [(1428, True, False, 0)]
