"""Datagrams that come in fragments: RFC 791 section 3.2, RFC 1122 section 3.3.2, RFC 5722; and hostile ones."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neatstack.dataplane.ip.reassembler import Reassembler
from tests.support.lab import PEER, PEER_MAC, STACK, STACK_MAC, Lab
from tests.support.packet import (
    Datagram,
    address,
    build_ethernet,
    build_icmp,
    build_ip,
    build_tcp,
    build_udp,
    checksum,
    cut,
    is_sound,
)

KEY = bytes(range(1, 17))
SECOND = 10**9
CHUNKS, PARTIALS = 2048, 512


def udp(payload: bytes, port: int = 7, source: str = PEER, tos: int = 0) -> bytes:
    d = Datagram(source=source, destination=STACK, source_port=5000, destination_port=port, payload=payload)
    return build_ip(build_udp(d), source=source, destination=STACK, protocol=17, tos=tos, fragment=0)


def data(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def arrive(lab: Lab, *packets: bytes) -> None:
    for packet in packets:
        lab.inject_frame(build_ethernet(packet, source=PEER_MAC, destination=STACK_MAC))


def piece(at: int, size: int, *, more: bool = True, number: int = 1, source: str = PEER, fill: bytes = b"x") -> bytes:
    place = at // 8 | (0x2000 if more else 0)
    return build_ip(fill * size, source=source, destination=STACK, protocol=17, fragment=place, identification=number)


# ---- through the stack ----


@pytest.mark.rfc("6864:4.1-only", "6864:4.1-ignored")
def test_the_identification_of_what_is_whole_says_nothing():
    """Neither that it has come before, nor that it belongs to fragments that wait."""
    lab = Lab()
    s = lab.datagram_socket(7)
    first, last = cut(udp(data(2000)), 1480, identification=1)
    arrive(lab, first, udp(b"one"), udp(b"one"), last)
    assert s.recv_all() == [b"one", b"one", data(2000)]


@pytest.mark.rfc("791:fragment-key", "1122:reassembly", "791:reassembly-576")
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (1, 0, 2)])
def test_a_datagram_in_any_order(order):
    lab = Lab()
    s = lab.datagram_socket(7)
    parts = cut(udp(data(3000)), 1480, 1480)
    arrive(lab, *(parts[k] for k in order))
    got = s.recv()
    assert (got.payload, got.source, got.destination) == (data(3000), (PEER, 5000), (STACK, 7))
    assert lab.engine.counters()["reassembled"] == 1
    assert lab.engine.next_deadline() is None


@pytest.mark.rfc("791:longest")
@pytest.mark.parametrize("size", [1, 8, 40, 48, 1473, 8000, 60000, 65507])
def test_every_size(size):
    lab = Lab(rings=1 << 18)
    s = lab.datagram_socket(7)
    arrive(lab, *cut(udp(data(size)), *[1480 if size > 1000 else 8] * 100))
    assert s.recv().payload == data(size)


def test_datagrams_mixed_up_with_each_other():
    """RFC 791: identification, source, destination and protocol together say what belongs together."""
    lab = Lab(rings=1 << 18)
    s = lab.datagram_socket(7)
    expected, parts = set(), []
    for n in range(40):
        source = f"10.0.0.{10 + n % 5}"
        parts += cut(udp(data(2000 + n), source=source), 1480, identification=n // 5)
        expected.add((source, data(2000 + n)))
    random.Random(1).shuffle(parts)
    arrive(lab, *parts)
    assert {(got.source[0], got.payload) for got in iter(s.recv, None)} == expected


def test_the_checksum_is_of_the_whole():
    lab = Lab()
    s = lab.datagram_socket(7)
    first, second = cut(udp(data(2000)), 1480)
    damaged = second[:-1] + bytes([second[-1] ^ 1])
    for packet in (first, damaged):
        lab.inject_frame(build_ethernet(packet, source=PEER_MAC, destination=STACK_MAC), checked=True)
    assert s.recv() is None and lab.drops("udp_checksum") == 1


def test_a_segment_in_fragments():
    lab = Lab()
    c = lab.accepted()
    packet = build_ip(build_tcp(c.segment("PA", data=data(1400))), source=PEER, destination=STACK, fragment=0)
    arrive(lab, *cut(packet, 8, 16, 576, 576))
    assert c.socket.recv() == data(1400)


def test_options_of_the_first_fragment_stay():
    lab = Lab()
    s = lab.datagram_socket(7)
    whole = udp(data(100))[20:]
    with_options = build_ip(
        whole[:64], source=PEER, destination=STACK, protocol=17, fragment=0x2000, options=b"\1" * 40
    )
    rest = build_ip(whole[64:], source=PEER, destination=STACK, protocol=17, fragment=8)
    arrive(lab, with_options, rest)
    assert s.recv().payload == data(100)


def test_a_datagram_to_a_group():
    lab = Lab()
    s = lab.datagram_socket(7)
    d = Datagram(source=PEER, destination="10.0.0.255", source_port=1, destination_port=7, payload=data(2000))
    packet = build_ip(build_udp(d), source=PEER, destination="10.0.0.255", protocol=17, fragment=0)
    for part in cut(packet, 1480):
        lab.inject_frame(build_ethernet(part, source=PEER_MAC, destination=b"\xff" * 6))
    assert s.recv().payload == data(2000)


def test_an_error_about_a_whole_one_quotes_a_good_header():
    lab = Lab()
    arrive(lab, *cut(udp(data(2000), port=99), 1480))
    [frame] = lab.other_frames
    quoted = frame[14 + 20 + 8 :]
    assert frame[34:36] == b"\3\3" and is_sound(quoted[:20])
    assert struct.unpack_from("!H2xH", quoted, 2) == (2028, 0)


def test_no_error_about_an_error():
    """RFC 1122 section 3.2.2: also when what is not complete is one."""
    lab = Lab()
    packet = build_icmp(3, 3, udp(b"x" * 100), source=PEER, destination=STACK)
    arrive(lab, cut(packet, 64)[0])
    lab.wait(61)
    assert lab.drops("reassembly_time") == 1 and not lab.other_frames


@pytest.mark.rfc(
    "1122:reassembly-timeout", "1122:time-exceeded-reassembly", "792:time-exceeded-reassembly", "792:reassembly-discard"
)
@pytest.mark.parametrize("came", [0, 1, 2])
def test_what_is_not_complete_after_a_minute_is_given_up(came):
    """Time exceeded, code 1, if the first fragment was there (RFC 792)."""
    lab = Lab()
    s = lab.datagram_socket(7)
    parts = cut(udp(data(4000)), 1480, 1480)
    arrive(lab, parts[came])
    lab.wait(30)
    arrive(lab, parts[(came + 1) % 3])
    lab.wait(29)
    assert lab.drops("reassembly_time") == 0
    lab.wait(2)
    assert lab.drops("reassembly_time") == 1
    arrive(lab, parts[(came + 2) % 3])
    assert s.recv() is None
    if came == 1:
        assert not lab.other_frames
    else:
        [frame] = lab.other_frames
        ip, icmp = frame[14:34], frame[34:]
        assert ip[16:20] == address(PEER) and icmp[:2] == b"\x0b\x01" and is_sound(icmp)
        assert icmp[8:].startswith(parts[0][:28])


# ---- what is refused ----


@pytest.mark.rfc("5722:overlap")
@pytest.mark.parametrize(
    "second", [(8, 16), (0, 24), (16, 16), (0, 8), (8, 8), (16, 8)],
    ids=["into the middle", "over all", "over the end", "other start", "other middle", "other end"],
)  # fmt: skip
def test_overlaps(second):
    """RFC 5722 section 4: the whole datagram goes, with what comes of it later."""
    lab = Lab()
    lab.datagram_socket(7)
    arrive(lab, piece(0, 24), piece(*second, fill=b"y"))
    assert lab.drops("overlap") == 1
    arrive(lab, piece(24, 8, more=False), piece(0, 24))
    assert lab.drops("overlap") == 3 and lab.engine.counters()["reassembled"] == 0
    lab.wait(61)
    assert not lab.other_frames, "silently"
    assert lab.engine.next_deadline() is None


@pytest.mark.rfc("8200:4.5-duplicate")
def test_the_same_bytes_once_more():
    lab = Lab()
    s = lab.datagram_socket(7)
    first, second, third = cut(udp(data(4000)), 1480, 1480)
    arrive(lab, first, first, third, second[:20] and first, third, second)
    assert s.recv().payload == data(4000)
    assert lab.drops("fragment_again") == 3 and lab.drops("overlap") == 0


@pytest.mark.rfc("791:longest", "791:fragment-blocks")
def test_a_fragment_beyond_the_longest_packet():
    """The ping of death."""
    lab = Lab()
    lab.datagram_socket(7)
    arrive(lab, piece(65512, 64, more=False), piece(65528, 8, more=False), piece(0, 0), piece(8, 7))
    assert lab.drops("fragment") == 4
    assert lab.engine.next_deadline() is None


@pytest.mark.parametrize(
    "parts",
    [
        [piece(16, 8, more=False), piece(24, 8)],
        [piece(24, 8), piece(8, 8, more=False)],
        [piece(16, 8, more=False), piece(16, 4, more=False)],
        [piece(16, 8, more=False), piece(0, 24)],
    ],
    ids=["beyond the end", "the end before others", "two ends", "more at the end"],
)
def test_contradictions_about_the_end(parts):
    lab = Lab()
    arrive(lab, *parts)
    assert lab.drops("overlap") == 1


@pytest.mark.rfc("3168:5.3-fragments", "3168:5.3-same")
@pytest.mark.parametrize(
    ("codepoints", "result"), [((0, 0), 0), ((2, 3), 3), ((3, 1), 3), ((2, 2), 2), ((0, 3), None), ((2, 0), None)]
)
def test_congestion_marks(codepoints, result):
    """RFC 3168 section 5.3."""
    lab = Lab()
    s = lab.datagram_socket(7)
    parts = []
    for part, codepoint in zip(cut(udp(data(2000)), 1480), codepoints, strict=True):
        head = part[:1] + bytes([codepoint]) + part[2:10] + b"\0\0" + part[12:20]
        parts.append(head[:10] + struct.pack("!H", checksum(head)) + head[12:] + part[20:])
    arrive(lab, *parts)
    got = s.recv()
    assert (got and got.tos) == result


# ---- limits ----


def test_memory_is_bounded_and_the_flood_displaces_its_own():
    r = Reassembler(KEY)
    mine = cut(udp(data(8000)), 1480, 1480)
    for part in mine[:-1]:
        assert r.take(part, 0) is None
    for n in range(5000):
        r.take(piece(8 * (n % 100), 8, number=n, source="10.0.0.66"), n)
        datagrams, chunks = r.held()
        assert datagrams <= PARTIALS and chunks <= CHUNKS
    assert r.counters()["drop_reassembly_room"] == 5001 - PARTIALS
    assert r.take(mine[-1], 5000)[20:] == udp(data(8000))[20:], "another's datagram is not touched"


def test_large_datagrams_that_are_never_complete():
    r = Reassembler(KEY)
    mine = cut(udp(data(8000)), 1480, 1480)
    r.take(mine[0], 0)
    for n in range(200):
        for at in range(1480, 64000, 1480):
            r.take(piece(at, 1480, number=n, source="10.0.0.66"), n)
    assert r.held()[1] <= CHUNKS and r.counters()["drop_reassembly_room"] > 100
    r.take(mine[1], 300)
    assert r.take(mine[2], 300) is not None


def test_many_sources_have_their_turn():
    """From addresses that nobody has; who is quick is served all the same."""
    r = Reassembler(KEY)
    for n in range(3000):
        r.take(piece(8, 8, number=n, source=f"10.{n >> 8}.{n & 255}.9"), n)
        if n % 100 == 0:
            first, second = cut(udp(data(2000)), 1480, identification=n)
            assert r.take(first, n) is None and r.take(second, n) is not None
    assert r.held()[0] <= PARTIALS


def test_a_tiny_first_fragment_is_no_way_round():
    """RFC 1858: it may have any size; the headers are looked at when all is there."""
    lab = Lab()
    c = lab.accepted()
    packet = build_ip(build_tcp(c.segment("PA", data=data(100))), source=PEER, destination=STACK, fragment=0)
    arrive(lab, *cut(packet, *[8] * 20))
    assert c.socket.recv() == data(100)


def test_what_is_far_behind_is_another_datagram():
    """RFC 4963: identifications come round."""
    r = Reassembler(KEY)
    old, new = cut(udp(b"o" * 2000), 1480, identification=5), cut(udp(b"n" * 2000), 1480, identification=5)
    r.take(old[0], 0)
    for n in range(1100):
        for part in cut(udp(data(1600)), 1480, identification=100 + n):
            whole = r.take(part, n)
        assert whole
    assert r.take(new[1], 2000) is None
    assert r.take(new[0], 2000)[20:] == udp(b"n" * 2000)[20:]
    assert r.counters()["drop_overlap"] == 0


def test_a_repetition_that_says_where_the_datagram_ends():
    """What lies beyond that end is refused, as if it had come first."""
    r = Reassembler(KEY)
    assert r.take(piece(0, 8, more=True, fill=b"x"), 0) is None
    assert r.take(piece(0, 8, more=False, fill=b"x"), 0) is None
    assert r.take(piece(8, 8, more=False, fill=b"x"), 0) is None
    assert r.counters()["drop_overlap"] == 1


def test_time_goes_by_datagrams():
    r = Reassembler(KEY)
    for n in range(10):
        r.take(piece(0, 8, number=n), n * SECOND)
    assert r.deadline() == 60 * SECOND
    assert len(r.expired(63 * SECOND)) == 4
    assert r.deadline() == 64 * SECOND and r.held() == (6, 6)
    assert len(r.expired(100 * SECOND)) == 6
    assert r.deadline() is None and r.held() == (0, 0)


@pytest.mark.parametrize(
    "packet", [b"", bytes(20), b"\x45" + bytes(10), b"\x4f" + bytes(30), b"\x45\0\xff\xff" + bytes(20)]
)
def test_headers_that_are_none(packet):
    with pytest.raises(ValueError, match="IPv4 header|wrong length"):
        Reassembler(KEY).take(packet, 0)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_against_a_model(choose):
    """Any fragments, of one datagram: what the stack makes of them is what a list of bytes makes of them."""
    r, have, end, refused = Reassembler(KEY), {}, None, False
    for _ in range(choose.draw(st.integers(1, 12))):
        at, blocks = choose.draw(st.integers(0, 9)), choose.draw(st.integers(1, 4))
        more, fill = choose.draw(st.booleans()), choose.draw(st.sampled_from([b"x", b"x", b"y"]))
        whole = r.take(piece(8 * at, 8 * blocks, more=more, fill=fill), 0)
        if refused:
            assert whole is None
            continue
        stop, places = at + blocks, range(at, at + blocks)
        bad = end is not None and (stop > end or (more and stop == end) or (not more and stop != end))
        bad = bad or (not more and any(k >= stop for k in have))
        known = [k for k in places if k in have]
        if bad or (known and (len(known) < blocks or any(have[k] != fill for k in places))):
            refused = True
            assert whole is None
            continue
        have.update(dict.fromkeys(places, fill))
        end = end if more else stop
        if end is not None and len(have) == end and not known:
            assert whole[20:] == b"".join(have[k] * 8 for k in range(end))
            return
        assert whole is None
