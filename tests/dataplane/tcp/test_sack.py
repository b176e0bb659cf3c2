"""Selective acknowledgments that the stack sends: RFC 2018 (what has arrived), RFC 2883 (what came twice)."""

import random
import struct

import pytest

from tests.support.lab import Lab
from tests.support.packet import NOP, SACK_PERMITTED, Segment, mss, option, read_options

DATA = bytes(range(256)) * 64
SACK = 5


def accepted(lab: Lab):
    """A connection whose peer has said SACK-permitted."""
    c = lab.connection()
    c.syn_options = mss(1460) + NOP + NOP + SACK_PERMITTED
    c.listener = lab.listening()
    c.sends("S", options=c.syn_options)
    assert 4 in read_options(c.expects("SA").options)
    c.sends("A", seq=1)
    c.socket = lab.program.accept(c.listener)
    lab.run()
    return c


def blocks(c, segment: Segment) -> list[tuple[int, int]]:
    """The option's blocks, as offsets in DATA."""
    value = read_options(segment.options).get(SACK, b"")
    numbers = [n - c.iss - 1 & 0xFFFFFFFF for n in struct.unpack(f"!{len(value) // 4}I", value)]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def gives(c, left: int, right: int, **what) -> list[tuple[int, int]]:
    """The peer sends DATA[left:right]; the blocks of the ACK that answers at once."""
    c.sends(seq=1 + left, data=DATA[left:right], **what)
    return blocks(c, c.expects("A"))


def test_a_syn_says_permitted_and_only_an_answer_to_one_that_did():
    lab = Lab()
    c = lab.connecting()
    assert 4 in read_options(c.expects("S").options)
    plain = lab.connection()
    lab.listening()
    plain.sends("S", options=mss(1460))
    assert 4 not in read_options(plain.expects("SA").options)


@pytest.mark.rfc("2018:4-NOT-PERMITTED")
def test_nothing_is_said_to_a_peer_that_did_not_permit_it():
    c = Lab().accepted()
    assert gives(c, 100, 200) == []
    assert gives(c, 100, 200) == []


@pytest.mark.rfc("2018:4-NOT-PERMITTED")
def test_nothing_is_said_by_a_peer_that_opened_without_it():
    c = Lab().connected()
    assert gives(c, 100, 200) == []


def test_the_peer_that_we_connect_to_may_permit_it():
    lab = Lab()
    c = lab.connecting()
    c.expects("S")
    c.sends("SA", seq=0, ack=1, options=mss(1460) + NOP + NOP + SACK_PERMITTED)
    c.expects("A")
    assert gives(c, 100, 200) == [(100, 200)]


@pytest.mark.rfc("2018:4-MUST-1", "2018:4-MANY", "2018:4-REPEAT", "2018:4-NEW")
def test_the_first_block_is_what_came_last_and_the_others_follow_in_that_order():
    """RFC 2018 section 4."""
    c = accepted(Lab())
    assert gives(c, 500, 600) == [(500, 600)]
    assert gives(c, 100, 200) == [(100, 200), (500, 600)]
    assert gives(c, 900, 1000) == [(900, 1000), (100, 200), (500, 600)]
    assert gives(c, 300, 400) == [(300, 400), (900, 1000), (100, 200), (500, 600)]
    assert gives(c, 1100, 1200) == [(1100, 1200), (300, 400), (900, 1000), (100, 200)]
    assert gives(c, 600, 700)[0] == (500, 700)  # the whole block that it belongs to


@pytest.mark.rfc("2018:4-ALWAYS")
def test_blocks_go_when_the_gap_is_filled():
    c = accepted(Lab())
    gives(c, 100, 200)
    gives(c, 300, 400)
    assert gives(c, 0, 100) == [(300, 400)]
    assert gives(c, 200, 300) == []
    assert c.socket.recv() == DATA[:400]


@pytest.mark.rfc("2883:4-DUPLICATE", "2883:4-ONCE", "2883:4-EDGES")
def test_text_that_came_before_is_told_once():
    """RFC 2883 section 4.1.1, below the cumulative ACK."""
    lab = Lab()
    c = accepted(lab)
    c.sends(seq=1, data=DATA[:200])
    lab.wait(0.1)
    c.receives()
    assert gives(c, 0, 100) == [(0, 100)]
    assert gives(c, 300, 400) == [(300, 400)]


@pytest.mark.rfc("2883:4-EDGES", "2883:4-HOLDER")
def test_a_duplicate_stands_before_the_block_that_holds_it():
    """RFC 2883 section 4.1.2, above the cumulative ACK."""
    c = accepted(Lab())
    gives(c, 100, 300)
    assert gives(c, 150, 250) == [(150, 250), (100, 300)]
    assert gives(c, 200, 400) == [(200, 300), (100, 400)]  # section 4.2.1: the part that came twice


def test_the_old_part_of_new_text_is_a_duplicate():
    """RFC 2883 section 4.2."""
    lab = Lab()
    c = accepted(lab)
    c.sends(seq=1, data=DATA[:200])
    lab.wait(0.1)
    c.receives()
    c.sends(seq=1 + 100, data=DATA[100:300])
    lab.wait(0.1)
    assert blocks(c, c.receives()[-1]) == [(100, 200)]
    assert c.socket.recv() == DATA[:300]


@pytest.mark.rfc("2018:4-ALWAYS")
def test_a_program_that_sends_tells_it_too_while_there_is_room():
    lab = Lab()
    c = accepted(lab)
    gives(c, 100, 200)
    c.socket.send(b"x" * 100)
    lab.run()
    segment = c.expects("A", data=b"x" * 100)
    assert blocks(c, segment) == [(100, 200)]
    c.sends(ack=101, seq=1)
    c.socket.send(b"y" * 1460)
    lab.run()
    segment = c.expects("A", length=1460)  # a full segment stays one: the option would make it too long
    assert blocks(c, segment) == []


@pytest.mark.rfc("2018:8-HELD")
@pytest.mark.parametrize("seed", range(20))
def test_blocks_never_say_more_than_has_arrived(seed):
    """Any order of pieces, with overlaps: every block is true, and at the end all of it is there."""
    chance = random.Random(seed)
    c = accepted(Lab())
    have: set[int] = set()
    pieces = [(n, min(n + chance.randrange(1, 300), 8000)) for n in (chance.randrange(8000) for _ in range(80))]
    for left, right in pieces:
        c.sends(seq=1 + left, data=DATA[left:right])
        have |= set(range(left, right))
        for segment in c.receives():
            assert all(have >= set(range(*block)) for block in blocks(c, segment))
    c.sends(seq=1, data=DATA[:1000])
    for left in range(0, 8000, 1000):
        c.sends(seq=1 + left, data=DATA[left : left + 1000])
    assert c.socket.recv(8000) == DATA[:8000]


def test_an_option_of_the_peer_changes_nothing():
    """SACK blocks that lie about what we sent are no harm."""
    lab = Lab()
    c = accepted(lab)
    c.socket.send(b"abc")
    lab.run()
    c.expects("A", data=b"abc")
    lie = NOP + NOP + option(SACK, struct.pack("!II", 1 << 31, 5))
    c.sends(ack=1, options=lie)
    c.sends(ack=4, options=lie)
    assert c.tcb["snd"]["una"] == c.tcb["snd"]["max"]


@pytest.mark.rfc("2018:2-SYN-ONLY")
def test_only_syns_say_permitted():
    """RFC 2018 section 2."""
    lab = Lab()
    lab.captured = []
    c = accepted(lab)
    gives(c, 100, 200)
    c.socket.send(DATA[:3000])
    lab.run()
    c.receives()
    c.sends(ack=3001)
    c.socket.close()
    lab.run()
    c.sends("R", seq=1)
    said = {"S" in segment.flags for segment in lab.captured if 4 in read_options(segment.options)}
    assert len(lab.captured) > 4
    assert said == {True}


@pytest.mark.rfc("2883:4.2-FIRST", "2883:4-OTHERS")
def test_of_two_parts_that_came_before_the_first_is_told():
    """RFC 2883 section 4.2.2, and the blocks of what lies beyond gaps behind it."""
    c = accepted(Lab())
    gives(c, 100, 200)
    gives(c, 300, 400)
    gives(c, 600, 700)
    assert gives(c, 50, 450) == [(100, 200), (50, 450), (600, 700)]
