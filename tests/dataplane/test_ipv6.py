"""IPv6 (RFC 8200): headers, extension headers, fragments, ICMPv6 errors, and TCP and UDP over it."""

import struct
from ipaddress import IPv6Address

import pytest

from tests.support.lab import PEER_MAC, STACK_MAC, Lab
from tests.support.layout import neat
from tests.support.packet import checksum

OURS, PEER, NETWORK = "fd00::2", "fd00::1", "fd00::2/64"
TCP, UDP, ICMP, FRAGMENT, HOP, ROUTING, OPTIONS, NONE = 6, 17, 58, 44, 0, 43, 60, 59
SYN, ACK = 2, 16


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


def tcp(port: int, seq: int, ack: int, flags: int, payload: bytes = b"", options: bytes = b"") -> bytes:
    offset = (20 + len(options)) // 4 << 4
    head = struct.pack("!HHIIBBHHH", 4000, port, seq, ack, offset, flags, 65535, 0, 0)
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


@pytest.mark.rfc("8200:8.1-checksum")
def test_a_datagram_without_checksum_is_refused(lab: Lab6) -> None:
    s = lab.datagram_socket(53, "::")
    good = udp(b"x")
    assert lab.takes(packet(UDP, good[:6] + b"\0\0" + good[8:]), packet(UDP, good[:6] + b"\1\1" + good[8:])) == []
    assert s.recv() is None and lab.drops("udp_checksum") == 2


def extension(following: int, options: bytes) -> bytes:
    return bytes([following, (len(options) + 2) // 8 - 1]) + options


@pytest.mark.rfc("8200:4.1-order", "8200:4.2-skip")
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


@pytest.mark.rfc("8200:4-unknown", "8200:4.2-option", "8200:4.4-routing", "5095:type-0", "4443:3.4-parameter")
def test_what_is_not_known_is_refused_and_told(lab: Lab6) -> None:
    """Pointers are to the field that is not known."""
    data = udp(b"x")
    assert parameter(lab.takes(packet(200, data))) == (4, 1, 6)
    assert parameter(lab.takes(packet(OPTIONS, extension(HOP, b"\1\4\0\0\0\0") + data))) == (4, 1, 40)
    assert parameter(lab.takes(packet(ROUTING, bytes([UDP, 0, 0, 1, 0, 0, 0, 0]) + data))) == (4, 0, 42)
    assert parameter(lab.takes(packet(OPTIONS, extension(UDP, b"\xbe\4abcd") + data))) == (4, 2, 42)
    assert lab.takes(packet(OPTIONS, extension(UDP, b"\x7e\4abcd") + data)) == []  # only to be dropped
    assert lab.takes(packet(NONE, data)) == []


def test_option_bombs_are_bounded(lab: Lab6) -> None:
    """RFC 8504 section 5.3."""
    s = lab.datagram_socket(53, "::")
    assert lab.takes(packet(OPTIONS, extension(UDP, b"\x1e\0" * 11) + udp(b"x"))) == []
    headers = extension(OPTIONS, b"\1\4\0\0\0\0") * 8 + extension(UDP, b"\1\4\0\0\0\0")
    assert lab.takes(packet(OPTIONS, headers + udp(b"x"))) == []
    assert s.recv() is None and lab.drops("ip_header") == 2


def fragments(data: bytes, size: int, number: int = 7, following: int = UDP) -> list[bytes]:
    made = []
    for at in range(0, len(data), size):
        more = at + size < len(data)
        made.append(packet(FRAGMENT, struct.pack("!BBHI", following, 0, at | more, number) + data[at : at + size]))
    return made


@pytest.mark.rfc("8200:4.5-reassembly")
@pytest.mark.parametrize("size", [8, 64, 1024])
def test_fragments_are_put_together(lab: Lab6, size: int) -> None:
    s = lab.datagram_socket(53, "::")
    text = bytes(range(200)) * 10
    pieces = fragments(udp(text), size)
    lab.takes(*pieces[1:], pieces[0])
    assert s.recv_all() == [text]


@pytest.mark.rfc("8200:4.5-reassembly", "8200:4.5-too-long")
def test_the_longest_datagram() -> None:
    """A payload of 65535 bytes, in which the header of the packet does not count: RFC 8200 section 3."""
    lab = Lab6(rings=1 << 18)
    s = lab.datagram_socket(53, "::")
    text = (bytes(range(251)) * 262)[: 65535 - 8]
    lab.takes(*fragments(udp(text), 1448))
    assert s.recv_all() == [text]
    s.send(text, PEER, 4000)
    lab.six = []
    lab.run()
    assert b"".join(one.body[8:] for one in lab.six)[8:] == text and lab.drops("command") == 0


@pytest.mark.rfc("6946:atomic")
def test_a_fragment_that_is_alone(lab: Lab6) -> None:
    s = lab.datagram_socket(53, "::")
    first, _ = fragments(udp(b"y" * 100), 64)
    lab.takes(first, *fragments(udp(b"alone"), 1024))
    assert s.recv_all() == [b"alone"]


@pytest.mark.rfc("5722:overlap")
def test_fragments_that_overlap_are_refused(lab: Lab6) -> None:
    s = lab.datagram_socket(53, "::")
    one, two, three = fragments(udp(b"z" * 150), 64)
    other = packet(FRAGMENT, struct.pack("!BBHI", UDP, 0, 56 | 1, 7) + b"!" * 64)
    lab.takes(one, other, two, three)
    assert s.recv() is None and lab.drops("overlap") >= 1


@pytest.mark.rfc("8200:4.5-length", "8200:4.5-too-long")
def test_fragments_of_a_wrong_length(lab: Lab6) -> None:
    odd = packet(FRAGMENT, struct.pack("!BBHI", UDP, 0, 1, 7) + b"x" * 9)
    assert parameter(lab.takes(odd)) == (4, 0, 4)
    far = packet(FRAGMENT, struct.pack("!BBHI", UDP, 0, 0xFFF8, 7) + b"x" * 8)
    assert parameter(lab.takes(far)) == (4, 0, 42)


def test_a_datagram_larger_than_the_link_leaves_in_fragments(lab: Lab6) -> None:
    s = lab.datagram_socket(53, "::")
    text = bytes(range(250)) * 12
    s.send(text, PEER, 4000)
    lab.six = []
    lab.run()
    assert len(lab.six) == 3 and all(len(one.body) <= 1460 and one.next == FRAGMENT for one in lab.six)
    whole = b"".join(one.body[8:] for one in lab.six)
    assert whole[8:] == text and summed(UDP, whole, 6, OURS, PEER) == whole
    assert len({one.body[4:8] for one in lab.six}) == 1


@pytest.mark.rfc("4443:3.1-port", "4443:2.4-quoted", "4443:2.4-no-error")
def test_a_closed_port_is_told(lab: Lab6) -> None:
    asked = packet(UDP, udp(b"q" * 1300, 9))
    (error,) = lab.takes(asked)
    assert (error.body[0], error.body[1]) == (1, 4)
    assert asked.startswith(error.body[8:]) and len(error.body) == 1240
    assert lab.takes(packet(ICMP, summed(ICMP, error.body, 2))) == []  # an error is not answered
    group = packet(UDP, udp(b"q", 9, destination="ff02::1"), destination="ff02::1")
    assert lab.takes(group, mac=b"\x33\x33\0\0\0\1") == []


@pytest.mark.rfc("4443:2.4-rate")
def test_errors_are_limited(lab: Lab6) -> None:
    assert len(lab.takes(*[packet(UDP, udp(b"q", 9))] * 300)) == 200


def too_big(mtu: int, quoted: bytes) -> bytes:
    return packet(ICMP, summed(ICMP, struct.pack("!BBHI", 2, 0, 0, mtu) + quoted, 2, "fd00::99"), "fd00::99")


@pytest.mark.rfc("8201:4-reduce", "8201:4-least")
@pytest.mark.parametrize(("mtu", "expected"), [(1300, 1240), (1280, 1220), (1279, 1440), (600, 1440), (9000, 1440)])
def test_a_path_that_carries_less(lab: Lab6, mtu: int, expected: int) -> None:
    """RFC 8201 section 4: never less than 1280, and a message that says so is no good."""
    listener = lab.program.listen(80, address="::")
    (answer,) = lab.takes(packet(TCP, tcp(80, 100, 0, SYN, options=b"\x02\x04\x05\xa0")))
    theirs = struct.unpack_from("!I", answer.body, 4)[0]
    lab.takes(packet(TCP, tcp(80, 101, theirs + 1, ACK)))
    slot = lab.program.accept(listener)
    assert slot is not None
    slot.send(b"x" * 1440)
    lab.six = []
    lab.run()
    (sent,) = lab.six
    quoted = packet(TCP, sent.body, OURS, PEER)
    left = lab.takes(too_big(mtu, quoted[:1232]))
    assert [(len(one.body) - 20, one.gso_size) for one in left] == ([(1440, expected)] if expected < 1440 else [])


@pytest.mark.parametrize("source", ["::ffff:10.0.0.1", "::", "::1", "ff02::1", OURS])
def test_sources_that_cannot_be(lab: Lab6, source: str) -> None:
    """RFC 4291 section 2.7, 2.5.2, 2.5.3; a mapped address on the wire would pass for IPv4."""
    s = lab.datagram_socket(53, "::")
    assert lab.takes(packet(UDP, udp(b"x", source=source), source)) == []
    assert s.recv() is None and lab.drops("martian") == 1


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
