"""IPv6 (RFC 8200): headers, extension headers, fragments, ICMPv6 errors, and TCP and UDP over it."""

import errno
import struct
from ipaddress import IPv6Address

import pytest

from neatstack.dataplane.tcp.isn import siphash_bytes
from tests.support.lab import PEER_MAC, STACK_MAC, Lab
from tests.support.layout import neat
from tests.support.packet import checksum
from tests.support.program import Socket

OURS, PEER, NETWORK = "fd00::2", "fd00::1", "fd00::2/64"
TCP, UDP, ICMP, FRAGMENT, HOP, ROUTING, OPTIONS, NONE = 6, 17, 58, 44, 0, 43, 60, 59
SYN, ACK = 2, 16
GROUP = b"\x33\x33\0\0\0\1"  # ff02::1


def wire(address: str) -> bytes:
    return IPv6Address(address).packed


def packet(following: int, payload: bytes, source: str = PEER, destination: str = OURS, traffic: int = 0) -> bytes:
    head = struct.pack("!IHBB", 6 << 28 | traffic << 20, len(payload), following, 64)
    return head + wire(source) + wire(destination) + payload


def framed(data: bytes, mac: bytes = STACK_MAC) -> bytes:
    return mac + PEER_MAC + b"\x86\xdd" + data


def summed(kind: int, data: bytes, at: int, source: str = PEER, destination: str = OURS) -> bytes:
    pseudo = wire(source) + wire(destination) + struct.pack("!II", len(data), kind)
    value = checksum(pseudo + data[:at] + b"\0\0" + data[at + 2 :])
    return data[:at] + struct.pack("!H", value or 0xFFFF) + data[at + 2 :]


def udp(payload: bytes, port: int = 53, source_port: int = 4000, **ends: str) -> bytes:
    return summed(UDP, struct.pack("!4H", source_port, port, 8 + len(payload), 0) + payload, 6, **ends)


def tcp(
    port: int, seq: int, ack: int, flags: int, payload: bytes = b"", options: bytes = b"", source_port: int = 4000
) -> bytes:
    offset = (20 + len(options)) // 4 << 4
    head = struct.pack("!HHIIBBHHH", source_port, port, seq, ack, offset, flags, 65535, 0, 0)
    return summed(TCP, head + options + payload, 16)


class Left:
    """A packet that has left the stack, its checksums verified."""

    def __init__(self, frame: bytes, gso_size: int = 0) -> None:
        self.gso_size = gso_size
        assert frame[:12] == PEER_MAC + STACK_MAC and frame[12:14] == b"\x86\xdd"
        word, length, self.next, self.hops = struct.unpack_from("!IHBB", frame, 14)
        assert word >> 28 == 6 and length == len(frame) - 54
        self.traffic, self.label = word >> 20 & 0xFF, word & 0xFFFFF
        self.source, self.destination = (str(IPv6Address(frame[at : at + 16])) for at in (22, 38))
        self.body = frame[54:]
        if self.next in (TCP, UDP, ICMP):
            pseudo = frame[22:54] + struct.pack("!II", length, self.next)
            assert checksum(pseudo + self.body) == 0


class Lab6(Lab):
    """A stack with an IPv6 address, and a peer on its link."""

    def __init__(self, **options: object) -> None:
        super().__init__(addresses=[NETWORK, "fe80::2/64"], **options)
        self.engine.neighbour(PEER, PEER_MAC)
        self.six: list[Left] = []

    def collect(self, frames: list[tuple[bytes, int]]) -> None:
        self.six += [Left(frame, size) for frame, size in frames if frame[12:14] != b"\x08\x00"]

    def takes(self, *packets: bytes, mac: bytes = STACK_MAC) -> list[Left]:
        """The packets come in; what leaves."""
        self.six = []
        for data in packets:
            self.engine.input(framed(data, mac))
            self.run()
        return self.six


@pytest.fixture
def lab() -> Lab6:
    return Lab6()


@pytest.mark.rfc("8200:8.3-mss", "8200:6-label", "8200:8.1-pseudo")
def test_a_connection_over_ipv6(lab: Lab6) -> None:
    """RFC 9293 section 3.7.1: MSS is what the MTU leaves; RFC 6437: one flow label, that is not 0."""
    listener = lab.program.listen(80, address="::")
    (answer,) = lab.takes(packet(TCP, tcp(80, 100, 0, SYN, options=b"\x02\x04\x05\xa0")))
    assert answer.body[13] == SYN | ACK and (answer.source, answer.destination) == (OURS, PEER)
    assert struct.unpack_from("!H", answer.body, 22)[0] == 1440
    theirs = struct.unpack_from("!I", answer.body, 4)[0]
    lab.takes(packet(TCP, tcp(80, 101, theirs + 1, ACK)))
    slot = lab.program.accept(listener)
    assert slot is not None
    lab.takes(packet(TCP, tcp(80, 101, theirs + 1, ACK, b"hello")))
    assert slot.recv() == b"hello"
    lab.six = []
    slot.send(b"x" * 3000)
    lab.run()
    assert {one.label for one in lab.six} == {answer.label} and answer.label


def opened(lab: Lab6, options: bytes = b"\x02\x04\x05\xa0", others: int = 0) -> Socket:
    """A connection that the peer has begun, after so many that it never goes on with."""
    listener = lab.program.listen(80, address="::", backlog=8)
    lab.takes(*[packet(TCP, tcp(80, 100, 0, SYN, source_port=9000 + number)) for number in range(others)])
    (answer,) = lab.takes(packet(TCP, tcp(80, 100, 0, SYN, options=options)))
    theirs = struct.unpack_from("!I", answer.body, 4)[0]
    lab.takes(packet(TCP, tcp(80, 101, theirs + 1, ACK)))
    slot = lab.program.accept(listener)
    assert slot is not None
    lab.six = []
    return slot


@pytest.mark.rfc("9293:MUST-15")
@pytest.mark.parametrize("others", [0, 100])
def test_a_peer_that_does_not_say_its_mss(lab: Lab6, others: int) -> None:
    """Also when its SYN was answered with a cookie."""
    slot = opened(lab, b"", others)
    assert lab.engine.counters()["cookies_taken"] == (others > 0)
    slot.send(b"x" * 3000)
    lab.run()
    assert lab.six[0].gso_size == 1220


@pytest.mark.rfc("7413:4.1.2a")
def test_a_cookie_is_that_which_linux_makes_with_the_key() -> None:
    """SipHash-2-4 of both addresses: the peer's, then ours."""
    key = bytes.fromhex("a1a1a1a1b2b2b2b2c3c3c3c3d4d4d4d4")
    lab = Lab6(fastopen_keys=key)
    lab.program.listen(80, address="::", fastopen=8)
    (answer,) = lab.takes(packet(TCP, tcp(80, 100, 0, SYN, options=b"\x22\x02\1\1")))
    cookie = siphash_bytes(key, wire(PEER) + wire(OURS)).to_bytes(8, "little")
    assert b"\x22\x0a" + cookie in answer.body[20:]


@pytest.mark.rfc("7413:4.1.3")
def test_fast_open_to_a_peer_that_does_not_say_its_mss(lab: Lab6) -> None:
    """Its cookie is remembered, and that it takes 1220 bytes."""
    syns = []
    for _ in range(2):
        socket = lab.program.free_slot()
        at, _ = socket._ring(sending=True)
        lab.program.memory[at : at + 2000] = b"x" * 2000
        lab.program.connect(PEER, 80, local="::", flags=neat.FLAG_FASTOPEN, tx_head=2000)
        lab.six = []
        lab.run()
        syns.append(lab.six[0].body)
        ours, seq = struct.unpack_from("!HxxI", syns[-1])
        answer = tcp(ours, 500, seq + 1, SYN | ACK, options=b"\x22\x0a12345678\1\1", source_port=80)
        lab.takes(packet(TCP, answer))
    assert [len(syn) - 20 for syn in syns] == [(syns[0][12] >> 4) * 4 - 20, 1220]


@pytest.mark.rfc("4821:7.7a", "4821:7.7d")
def test_a_black_hole_takes_what_every_link_carries(lab: Lab6) -> None:
    slot = opened(lab)
    slot.send(b"x" * 1440)
    lab.run()
    for _ in range(400):
        lab.wait(0.5)
    sizes = [len(one.body) - 20 for one in lab.six]
    assert set(sizes) == {1440, 1220} and sizes[-1] == 1220


@pytest.mark.rfc("8200:7-traffic", "8200:8.1-pseudo")
def test_a_datagram_both_ways(lab: Lab6) -> None:
    s = lab.datagram_socket(53, "::")
    lab.takes(packet(UDP, udp(b"question"), traffic=0x28))
    got = s.recv()
    assert (got.payload, got.source) == (b"question", (PEER, 4000))
    s.send(b"answer", PEER, 4000, tos=0x20, ttl=9)
    lab.six = []
    lab.run()
    (left,) = lab.six
    assert (left.body[8:], left.hops, left.traffic, left.source) == (b"answer", 9, 0x20, OURS)


def test_dual_stack(lab: Lab6) -> None:
    """RFC 3493 section 3.7 and 5.3: what is bound to :: takes IPv4, unless it is for IPv6 only; 0.0.0.0 never IPv6."""
    both = lab.datagram_socket(1, "::")
    only = lab.datagram_socket(2, "::", flags=neat.BIND_V6ONLY)
    four = lab.datagram_socket(3)
    for port in (1, 2, 3):
        lab.takes(packet(UDP, udp(b"six", port)))
        lab.inject_datagram(b"four", port)
    assert both.recv_all() == [b"six", b"four"]
    assert only.recv_all() == [b"six"]
    assert four.recv_all() == [b"four"]


@pytest.mark.rfc("8200:8.1-checksum", "8200:8.1-pseudo")
def test_a_datagram_without_checksum_is_refused(lab: Lab6) -> None:
    s = lab.datagram_socket(53, "::")
    good = udp(b"x")
    assert lab.takes(packet(UDP, good[:6] + b"\0\0" + good[8:]), packet(UDP, good[:6] + b"\1\1" + good[8:])) == []
    assert s.recv() is None and lab.drops("udp_checksum") == 2


def extension(following: int, options: bytes) -> bytes:
    return bytes([following, (len(options) + 2) // 8 - 1]) + options


@pytest.mark.rfc("8200:4.1-order", "8200:4.2-skip", "8200:4.2-padding", "8200:4.4-ignored", "8200:8.4-routing")
def test_extension_headers_are_passed(lab: Lab6) -> None:
    s = lab.datagram_socket(53, "::")
    padding, unknown = b"\1\4\0\0\0\0", b"\x3e\4abcd"  # the latter's first bits say: skip it
    chain = extension(OPTIONS, padding) + extension(ROUTING, unknown) + bytes([UDP, 0, 0, 0, 0, 0, 0, 0])
    lab.takes(packet(HOP, chain + udp(b"behind")))
    assert s.recv_all() == [b"behind"]


def parameter(left: list[Left]) -> tuple[int, int, int]:
    (error,) = left
    assert error.next == ICMP
    return error.body[0], error.body[1], struct.unpack_from("!I", error.body, 4)[0]


@pytest.mark.rfc(
    "8200:4-unknown",
    "8200:4.2-option",
    "8200:4.4-routing",
    "5095:type-0",
    "4443:3.4-parameter",
    "8200:4.7-nothing",
    "4443:3.4-discard",
    "4443:3.4-sent",
)
def test_what_is_not_known_is_refused_and_told(lab: Lab6) -> None:
    """Pointers are to the field that is not known."""
    data = udp(b"x")
    assert parameter(lab.takes(packet(200, data))) == (4, 1, 6)
    assert parameter(lab.takes(packet(OPTIONS, extension(HOP, b"\1\4\0\0\0\0") + data))) == (4, 1, 40)
    assert parameter(lab.takes(packet(ROUTING, bytes([UDP, 0, 0, 1, 0, 0, 0, 0]) + data))) == (4, 0, 42)
    assert parameter(lab.takes(packet(OPTIONS, extension(UDP, b"\xbe\4abcd") + data))) == (4, 2, 42)
    assert lab.takes(packet(OPTIONS, extension(UDP, b"\x7e\4abcd") + data)) == []  # only to be dropped
    assert lab.takes(packet(NONE, data)) == []


@pytest.mark.rfc("8200:4.2-option", "4443:2.4-no-error", "4443:2.2-source")
def test_options_of_what_came_to_a_group(lab: Lab6) -> None:
    """Of two kinds of unknown options, one is told to who sent to a group, too; with an address of ours."""
    told = [
        lab.takes(packet(OPTIONS, extension(UDP, option + b"\4abcd") + udp(b"x"), destination="ff02::1"), mac=GROUP)
        for option in (b"\x9e", b"\xde")
    ]
    assert parameter(told[0]) == (4, 2, 42) and told[0][0].source in (OURS, "fe80::2")
    assert told[1] == []


@pytest.mark.rfc("4443:2.4-no-error")
def test_errors_behind_other_headers_are_not_answered(lab: Lab6) -> None:
    unknown, bad = b"\x9e\4abcd", bytes([ICMP, 0, 0, 1, 0, 0, 0, 0])
    error, redirect, request = (summed(ICMP, bytes([kind, 0]) + bytes(46), 2) for kind in (1, 137, 128))
    for message, answers in ((error, 0), (redirect, 0), (request, 1)):
        chains = (
            packet(OPTIONS, extension(ICMP, unknown) + message),
            packet(HOP, extension(OPTIONS, b"\1\4\0\0\0\0") + extension(ICMP, unknown) + message),
            packet(ROUTING, bad + message),
        )
        assert [len(lab.takes(chain)) for chain in chains] == [answers] * 3


@pytest.mark.rfc("8200:4.1-order", "8200:4.2-padding")
def test_hop_by_hop_options_come_first_or_are_refused(lab: Lab6) -> None:
    s = lab.datagram_socket(53, "::")
    padding = b"\1\4\0\0\0\0"
    assert lab.takes(packet(HOP, extension(UDP, b"\0" * 6) + udp(b"first"))) == []
    assert parameter(lab.takes(packet(OPTIONS, extension(HOP, padding) + extension(UDP, padding)))) == (4, 1, 40)
    assert s.recv_all() == [b"first"]


@pytest.mark.rfc("8200:5-link")
def test_packets_as_long_as_the_link_carries_are_taken(lab: Lab6) -> None:
    s = lab.datagram_socket(53, "::")
    lab.takes(packet(UDP, udp(b"l" * 1452)))
    assert s.recv_all() == [b"l" * 1452]


@pytest.mark.rfc("8200:3-hop-limit")
def test_a_hop_limit_of_zero_is_enough_for_us(lab: Lab6) -> None:
    s = lab.datagram_socket(53, "::")
    last = bytearray(packet(UDP, udp(b"just so")))
    last[7] = 0
    lab.takes(bytes(last))
    assert s.recv_all() == [b"just so"]


@pytest.mark.rfc("8504:5.3-options")
def test_option_bombs_are_bounded(lab: Lab6) -> None:
    """RFC 8504 section 5.3."""
    s = lab.datagram_socket(53, "::")
    assert lab.takes(packet(OPTIONS, extension(UDP, b"\x1e\0" * 11) + udp(b"x"))) == []
    headers = extension(OPTIONS, b"\1\4\0\0\0\0") * 8 + extension(UDP, b"\1\4\0\0\0\0")
    assert lab.takes(packet(OPTIONS, headers + udp(b"x"))) == []
    assert s.recv() is None and lab.drops("ip_header") == 2


@pytest.mark.rfc("8200:8.1-zero")
def test_a_checksum_of_zero_leaves_as_all_ones(lab: Lab6) -> None:
    s = lab.datagram_socket(53, "::")
    head = struct.pack("!4H", 53, 4000, 3008, 0)  # in fragments: no device sums them up
    filling = summed(UDP, head + bytes(3000), 6, OURS, PEER)[6:8]
    s.send(filling + bytes(2998), PEER, 4000)  # now the sum of all is nothing but ones
    lab.six = []
    lab.run()
    assert lab.six[0].body[8:18] == head[:6] + b"\xff\xff" + filling


@pytest.mark.rfc("8200:7-traffic", "8200:6-label")
def test_who_asks_for_nothing_gets_no_traffic_class(lab: Lab6) -> None:
    s = lab.datagram_socket(53, "::")
    s.send(b"x", PEER, 4000)
    s.send(b"y", PEER, 4000)
    lab.six = []
    lab.run()
    assert [one.traffic for one in lab.six] == [0, 0] and len({one.label for one in lab.six}) == 1


@pytest.mark.rfc("4443:3.1-congestion")
def test_what_finds_no_room_is_not_told(lab: Lab6) -> None:
    lab.datagram_socket(53, "::")
    assert lab.takes(*[packet(UDP, udp(b"f" * 1400))] * 100) == []
    assert lab.drops("udp_full") > 0


@pytest.mark.rfc(
    "4443:3.1-port", "4443:2.4-quoted", "4443:2.4-no-error", "4443:2.2-source", "4443:3-source", "4443:3.1-unused"
)
def test_a_closed_port_is_told(lab: Lab6) -> None:
    asked = packet(UDP, udp(b"q" * 1300, 9))
    (error,) = lab.takes(asked)
    assert error.body[:2] + error.body[4:8] == b"\1\4" + bytes(4)
    assert (error.source, error.destination) == (OURS, PEER)
    assert asked.startswith(error.body[8:]) and len(error.body) == 1240
    assert lab.takes(packet(ICMP, summed(ICMP, error.body, 2))) == []  # an error is not answered
    group = packet(UDP, udp(b"q", 9, destination="ff02::1"), destination="ff02::1")
    assert lab.takes(group, mac=GROUP) == []


@pytest.mark.rfc("4443:2.4-rate")
def test_errors_are_limited(lab: Lab6) -> None:
    assert len(lab.takes(*[packet(UDP, udp(b"q", 9))] * 300)) == 200


@pytest.mark.parametrize(
    ("group", "heard"), [("ff02::1", True), ("ff01::1", True), ("ff02::2", False), ("ff05::1", False)]
)
def test_all_nodes_are_everybody(lab: Lab6, group: str, heard: bool) -> None:
    """RFC 4291 section 2.8: a host is in the groups of all nodes, whether somebody has joined them or not."""
    s = lab.datagram_socket(53, "::")
    lab.takes(packet(UDP, udp(b"all", destination=group), destination=group), mac=GROUP[:5] + wire(group)[15:])
    assert len(s.recv_all()) == heard


def too_big(mtu: int, quoted: bytes) -> bytes:
    return packet(ICMP, summed(ICMP, struct.pack("!BBHI", 2, 7, 0, mtu) + quoted, 2, "fd00::99"), "fd00::99")


@pytest.mark.rfc("4443:3.2-code")
@pytest.mark.rfc("8201:4-reduce", "8201:4-least", "8201:4-increase", "8201:5.4-mss", "8200:5-path", "8504:5.1-atomic")
@pytest.mark.parametrize(("mtu", "expected"), [(1300, 1240), (1280, 1220), (1279, 1440), (600, 1440), (9000, 1440)])
def test_a_path_that_carries_less(lab: Lab6, mtu: int, expected: int) -> None:
    """RFC 8201 section 4: never less than 1280, and a message that says so is no good."""
    slot = opened(lab)
    slot.send(b"x" * 1440)
    lab.run()
    (sent,) = lab.six
    quoted = packet(TCP, sent.body, OURS, PEER)
    left = lab.takes(too_big(mtu, quoted[:1232]))
    assert [(len(one.body) - 20, one.gso_size) for one in left] == ([(1440, expected)] if expected < 1440 else [])


@pytest.mark.rfc("8201:4-increase", "8201:4-again", "8201:5.3-aging")
def test_a_path_is_tried_again_after_ten_minutes(lab: Lab6) -> None:
    s = lab.datagram_socket(53, "::")
    s.connect(PEER, 4000)
    s.send(b"x" * 1440, PEER, 4000)
    lab.six = []
    lab.run()
    quoted = packet(UDP, lab.six[0].body, OURS, PEER)[:1232]
    pieces = []
    for mtu, seconds in ((1300, 0), (1400, 299), (1300, 602)):
        lab.takes(too_big(mtu, quoted))
        lab.wait(seconds)
        lab.six = []
        s.send(b"x" * 1440, PEER, 4000)
        lab.run()
        pieces.append(len(lab.six))
    assert pieces == [2, 2, 1]


@pytest.mark.rfc("4443:3-told", "4443:2.4-whose")
@pytest.mark.parametrize(
    ("kind", "code", "number", "final"),
    [
        (1, 0, errno.ENETUNREACH, False),
        (1, 1, errno.EACCES, True),
        (1, 3, errno.EHOSTUNREACH, False),
        (1, 4, errno.ECONNREFUSED, True),
        (2, 0, errno.EMSGSIZE, False),
        (3, 0, errno.EHOSTUNREACH, False),
        (4, 1, errno.EPROTO, True),
        (5, 0, errno.EPROTO, False),
        (127, 9, errno.EPROTO, False),
        (200, 0, 0, False),
    ],
)
def test_what_an_error_means(lab: Lab6, kind: int, code: int, number: int, final: bool) -> None:
    """Of a connected socket, and of one that wants to know all (IPV6_RECVERR)."""
    connected, curious = (lab.datagram_socket(port, "::") for port in (8, 9))
    connected.connect(PEER, 53)
    curious.slot.set(flags=neat.FLAG_ERRORS)
    lab.run()
    for port in (8, 9):
        ours = packet(UDP, udp(b"ours", 53, port, source=OURS, destination=PEER), OURS, PEER)
        told = struct.pack("!BBHI", kind, code, 0, 1300 if kind == 2 else 0) + ours
        assert lab.takes(packet(ICMP, summed(ICMP, told, 2, "fd00::99"), "fd00::99")) == []
    assert connected.slot.error == (number if final else 0)
    news = curious.recv()
    assert (news.error if news else 0) == number
    assert news is None or (news.payload, news.destination[0]) == (b"ours", "fd00::99")


@pytest.mark.rfc("4861:7.2.2-4", "4443:3.1-own")
def test_who_has_sent_what_waited_in_vain_for_a_neighbour_is_told(lab: Lab6) -> None:
    s = lab.datagram_socket(8, "::")
    s.slot.set(flags=neat.FLAG_ERRORS)
    s.send(b"ours", "fd00::99", 53)
    lab.run()
    lab.wait(3.1)
    news = s.recv()
    assert news is not None and (news.payload, news.error, news.icmp) == (b"ours", errno.EHOSTUNREACH, (1, 3))
    assert (news.source, news.destination[0]) == (("fd00::99", 53), OURS)


@pytest.mark.rfc("4443:2.4-no-error")
@pytest.mark.parametrize("source", ["::ffff:10.0.0.1", "::", "::1", "ff02::1", OURS])
def test_sources_that_cannot_be(lab: Lab6, source: str) -> None:
    """RFC 4291 section 2.7, 2.5.2, 2.5.3; a mapped address on the wire would pass for IPv4."""
    s = lab.datagram_socket(53, "::")
    for port in (53, 9):
        assert lab.takes(packet(UDP, udp(b"x", port, source=source), source)) == []
    assert s.recv() is None and lab.drops("martian") == 2


@pytest.mark.rfc("4443:2.4-no-error")
def test_what_came_to_many_of_the_link_is_not_answered(lab: Lab6) -> None:
    for mac in (GROUP, b"\xff" * 6):
        assert lab.takes(packet(UDP, udp(b"x", 9)), mac=mac) == []
    assert lab.drops("not_ours") == 2


def test_to_ourselves(lab: Lab6) -> None:
    """::1 and our own address never leave."""
    s = lab.datagram_socket(53, "::")
    for address in ("::1", OURS):
        s.send(b"me", address, 53)
        lab.run()
        assert s.recv_all() == [b"me"]
    listener = lab.program.listen(80, address="::")
    client = lab.program.connect("::1", 80, local="::")
    lab.run()
    assert lab.program.accept(listener) is not None
    assert str(IPv6Address(bytes(client.replica.local_be))) == "::1"
    assert lab.six == []


def test_without_an_address_of_ipv6_nothing_is_taken() -> None:
    lab = Lab()
    lab.inject_frame(framed(packet(UDP, udp(b"x"))))
    assert lab.drops("ethertype") == 1


def test_long_segments_to_ourselves_wait_for_nothing() -> None:
    """The longest text of a segment is what both ends have announced, else Nagle would hold each back."""
    lab = Lab6(rings=1 << 18)
    listener = lab.program.listen(80, address="::")
    client = lab.program.connect("10.0.0.2", 80)
    lab.run()
    server = lab.program.accept(listener)
    assert server is not None
    sent = client.send(b"x" * 190_000)
    lab.run()
    assert sent == 190_000 and len(server.recv()) >= 2 * 65_483
