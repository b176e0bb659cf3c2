"""Out-of-order segments: RFC 9293 section 3.10.7.4 (first, and seventh), RFC 5681 section 4.2 (when to acknowledge)."""

import random

import pytest

from tests.support.lab import Lab

DATA = bytes(range(256)) * 40


@pytest.mark.rfc("9293:SHLD-31", "9293:MAY-13")
def test_a_hole_is_acknowledged_at_once_and_filled():
    lab = Lab()
    c = lab.accepted()
    c.sends(seq=101, data=DATA[100:200])
    c.expects("A", ack=1)  # a duplicate ACK
    assert c.socket.readable == 0
    c.sends(seq=1, data=DATA[:100])
    c.expects("A", ack=201)
    assert c.socket.recv() == DATA[:200]


@pytest.mark.rfc("5681:3.2-OUT-OF-ORDER", "6582:5", "2018:4-NEW")
def test_every_segment_beyond_a_hole_gives_a_duplicate_ack():
    lab = Lab()
    c = lab.accepted()
    for n in range(1, 5):
        c.sends(seq=1 + 100 * n, data=DATA[100 * n : 100 * n + 100])
        c.expects("A", ack=1)
        c.expects_nothing()


@pytest.mark.rfc("5681:3.2-GAP-FILLED")
def test_filling_a_part_of_the_gap_is_acknowledged_at_once():
    """RFC 5681 section 4.2."""
    lab = Lab()
    c = lab.accepted()
    c.sends(seq=301, data=DATA[300:400])
    c.expects("A", ack=1)
    c.sends(seq=1, data=DATA[:100])
    c.expects("A", ack=101)


@pytest.mark.parametrize(
    "pieces",
    [
        [(0, 100), (50, 150)],
        [(0, 100), (0, 100)],
        [(0, 100), (20, 80), (80, 200)],
        [(100, 200), (0, 300)],
        [(100, 200), (50, 150), (0, 120)],
        [(100, 200), (150, 300), (0, 100)],
        [(100, 200), (300, 400), (150, 350), (0, 100)],
        [(100, 200), (300, 400), (500, 600), (50, 700), (0, 50)],
        [(200, 300), (100, 200), (0, 100)],
        [(1, 2), (3, 4), (5, 6), (0, 1), (2, 3), (4, 5)],
        [(100, 200), (100, 200), (0, 100)],
        [(100, 300), (150, 200), (0, 100)],
        [(10, 20), (30, 40), (50, 60), (70, 80), (90, 99), (110, 120), (5, 115), (0, 5)],
        [(10, 20), (30, 40), (50, 60), (70, 80), (90, 99), (110, 120), (0, 130)],
    ],
)
def test_overlaps(pieces):
    lab = Lab()
    c = lab.accepted()
    for left, right in pieces:
        c.sends(seq=1 + left, data=DATA[left:right])
    end = max(right for _, right in pieces)
    assert c.socket.recv() == DATA[:end]
    assert c.tcb["rcv"]["ranges"] == 0
    lab.wait(1)
    assert c.receives()[-1].ack == end + 1


def test_bytes_already_received_are_not_overwritten():
    """What has been acknowledged was perhaps read; a later copy that differs must change nothing."""
    lab = Lab()
    c = lab.accepted()
    c.sends(seq=1, data=b"A" * 100)
    c.sends(seq=51, data=b"B" * 100)
    assert c.socket.recv() == b"A" * 100 + b"B" * 50


def test_fin_beyond_a_hole_waits():
    lab = Lab()
    c = lab.accepted()
    c.sends("FA", seq=101, data=DATA[100:200])
    c.expects("A", ack=1)
    assert c.state == "ESTABLISHED"
    assert not c.socket.eof
    c.sends(seq=1, data=DATA[:100])
    lab.wait(1)
    assert c.receives()[-1].ack in (201, 202)
    c.sends("FA", seq=201)
    lab.wait(1)
    assert c.state == "CLOSE_WAIT"
    assert c.socket.recv() == DATA[:200]
    assert c.socket.eof


def test_more_holes_than_can_be_remembered():
    """Ranges beyond the eight remembered are dropped, counted, and sent again by the peer."""
    lab = Lab()
    c = lab.accepted()
    for n in range(1, 40, 2):
        c.sends(seq=1 + 10 * n, data=DATA[10 * n : 10 * n + 10])
    assert lab.drops("ranges") > 0
    for n in range(40):
        c.sends(seq=1 + 10 * n, data=DATA[10 * n : 10 * n + 10])
    assert c.socket.recv() == DATA[:400]


def test_ranges_beyond_the_window_are_dropped():
    lab = Lab(rings=4096)
    c = lab.accepted()
    c.sends(seq=5001, data=b"far")
    c.expects("A", ack=1)
    assert lab.drops("sequence") == 1
    c.sends(seq=4090, data=b"0123456789")  # its last bytes are outside
    c.expects("A", ack=1)
    c.sends(seq=1, data=b"x" * 1460)
    c.sends(seq=1461, data=b"x" * 1460)
    c.sends(seq=2921, data=b"x" * 1169)
    assert c.socket.recv() == b"x" * 4089 + b"0123456"


@pytest.mark.parametrize("seed", range(20))
def test_random_pieces_in_random_order(seed):
    lab = Lab(rings=16384)
    chance = random.Random(seed)
    c = lab.accepted()
    got = bytearray()
    while len(got) < len(DATA):
        left = max(0, min(len(DATA), len(got) + chance.randrange(-500, 3000)))
        right = min(len(DATA), left + chance.randrange(1, 1460))
        if right > left:
            c.sends(seq=1 + left, data=DATA[left:right])
            c.receives()
        got += c.socket.recv()
    assert bytes(got) == DATA


def test_a_fin_beyond_a_gap_is_not_forgotten_for_what_comes_in_order():
    """Also when the segment that reaches it is the next, and nothing else lies beyond the gap."""
    lab = Lab()
    c = lab.accepted()
    c.sends("FA", seq=4)
    assert c.state == "ESTABLISHED"
    c.nxt = 1
    c.sends(data=b"abc")
    assert c.state == "CLOSE_WAIT" and c.socket.recv() == b"abc" and c.socket.eof


def test_pieces_that_touch_are_one():
    """There is place for eight: that many holes, however many segments lie between them."""
    lab = Lab()
    c = lab.accepted()
    c.sends(seq=20, data=b"k" * 10)
    c.sends(seq=10, data=b"j" * 10)
    c.sends(seq=30, data=b"l" * 10)
    assert (c.tcb["rcv"]["ranges"], c.tcb["late"]["range"][0]["right"]) == (1, c.iss + 40 & 0xFFFFFFFF)


def test_a_fin_with_text_beyond_a_gap_is_remembered():
    lab = Lab()
    c = lab.accepted()
    c.sends("FA", seq=4, data=b"def")
    assert c.state == "ESTABLISHED"
    c.sends(seq=1, data=b"abc")
    assert c.state == "CLOSE_WAIT" and c.socket.recv() == b"abcdef" and c.socket.eof
