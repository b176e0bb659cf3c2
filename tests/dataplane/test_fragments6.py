"""Fragments of IPv6, both ways (RFC 8200 section 4.5)."""

import struct

import pytest

from tests.dataplane.test_ipv6 import (
    FRAGMENT,
    HOP,
    OURS,
    PEER,
    SYN,
    TCP,
    UDP,
    Lab6,
    extension,
    lab,
    packet,
    parameter,
    summed,
    tcp,
    udp,
)

__all__ = ["lab"]  # a fixture


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


@pytest.mark.rfc("8200:5-reassembled")
def test_what_is_put_together_may_be_longer_than_the_link_carries(lab: Lab6) -> None:
    s = lab.datagram_socket(53, "::")
    for size in (1500 - 48, 9000):
        lab.takes(*fragments(udp(b"r" * size), 1024, size))
        assert s.recv_all() == [b"r" * size]


@pytest.mark.rfc("8200:4.5-minute")
@pytest.mark.parametrize("came", [0, 1])
def test_what_is_not_complete_after_a_minute_is_told(lab: Lab6, came: int) -> None:
    """If the first fragment was there."""
    s = lab.datagram_socket(53, "::")
    pieces = fragments(udp(b"m" * 100), 64)
    assert lab.takes(pieces[came]) == []
    lab.wait(59)
    assert lab.six == [] and lab.drops("reassembly_time") == 0
    lab.wait(2)
    assert [(one.body[0], one.body[1]) for one in lab.six] == ([(3, 1)] if came == 0 else [])
    lab.takes(pieces[1 - came])
    assert s.recv() is None


@pytest.mark.rfc("8200:4.5-first")
def test_a_first_fragment_without_all_headers_is_refused_and_told(lab: Lab6) -> None:
    s = lab.datagram_socket(53, "::")
    text = tcp(53, 1, 0, SYN)
    short = packet(FRAGMENT, struct.pack("!BBHI", TCP, 0, 1, 7) + text[:16])
    assert parameter(lab.takes(short)) == (4, 3, 0)
    assert lab.takes(packet(FRAGMENT, struct.pack("!BBHI", TCP, 0, 16, 7) + text[16:])) == []
    assert s.recv() is None


@pytest.mark.rfc("6946:atomic", "8200:4.5-atomic", "6946:others")
def test_a_fragment_that_is_alone(lab: Lab6) -> None:
    s = lab.datagram_socket(53, "::")
    first, second = fragments(udp(b"y" * 100), 64)
    lab.takes(first, *fragments(udp(b"alone"), 1024))
    assert s.recv_all() == [b"alone"]
    lab.takes(second)
    assert s.recv_all() == [b"y" * 100]


@pytest.mark.rfc("5722:overlap", "8200:4.5-overlap")
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


@pytest.mark.rfc("8200:4.5-identification", "8200:4.5-fit", "8200:4.5-chain", "5722:sent", "8504:5.1-predictable")
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
    places = [(struct.unpack_from("!H", one.body, 2)[0], len(one.body) - 8) for one in lab.six]
    ends = [place & 0xFFF8 for place, _ in places[1:]]
    assert ends == [(place & 0xFFF8) + length for place, length in places[:-1]]
    assert [place & 1 for place, _ in places] == [1, 1, 0]
    first = lab.six[0].body[4:8]
    s.send(text, PEER, 4000)
    lab.six = []
    lab.run()
    assert lab.six[0].body[4:8] != first


@pytest.mark.rfc("8200:4.5-retained")
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_headers_are_those_of_the_first_fragment(lab: Lab6, order: tuple[int, int]) -> None:
    s = lab.datagram_socket(53, "::")
    text = b"r" * 100
    first, (other, *_) = fragments(udp(text), 64)[0], fragments(udp(text), 64, following=6)[1:]
    lab.takes(*((first, other)[k] for k in order))
    assert s.recv_all() == [text]


@pytest.mark.rfc("8200:4-strictly")
def test_headers_are_processed_in_their_order(lab: Lab6) -> None:
    """What is wrong with the first is told, and not with what is behind it."""
    unknown = extension(FRAGMENT, b"\xbe\4abcd")
    (error,) = lab.takes(packet(HOP, unknown + bytes([200, 0, 0, 1, 0, 0, 0, 7]) + b"x" * 9))
    assert error.body[:2] == b"\4\2" and error.body[4:8] == (42).to_bytes(4, "big")
