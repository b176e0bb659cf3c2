"""When data is acknowledged: RFC 9293 section 3.8.6.3 (delayed ACK), RFC 5681 section 4.2."""

import pytest

from tests.support.lab import PEER_MAC, STACK_MAC, Connection, Lab
from tests.support.layout import neat
from tests.support.packet import build


@pytest.mark.rfc("9293:SHLD-18", "9293:MUST-40", "5681:4.2-DELAY", "5681:4.2-DELAYED")
def test_a_single_segment_is_acknowledged_within_half_a_second():
    lab = Lab()
    c = lab.accepted()
    answered(c)
    c.sends(data=b"x" * 100)
    c.expects_nothing()
    lab.wait(0.5)
    c.expects("A", seq=2, ack=201, at=0.04)
    c.expects_nothing()


def answered(c: Connection) -> None:
    """The peer has sent 100 bytes, and the program has answered with one."""
    c.sends(data=b"x" * 100)
    c.socket.send(b"y")
    c.lab.run()
    c.expects("A", data=b"y", ack=101)
    c.sends()


def test_the_first_text_is_acknowledged_soon_for_more_may_wait_for_that():
    """Nagle's algorithm lets a peer hold the rest of its request back; a program that answers in time saves the ACK."""
    lab = Lab()
    c = lab.accepted()
    for number in range(1, 4):
        start = lab.time
        c.sends(data=b"x" * 100)
        c.expects_nothing()
        lab.wait(0.1)
        c.expects("A", seq=1, ack=1 + 100 * number, at=start + 0.001)
    answered(lab.accepted(81))


def test_the_first_answer_is_acknowledged_soon_and_later_ones_that_are_answered_not():
    """As Linux tells who converses from who does not: it has sent after it had received."""
    c = Lab().connected()
    c.socket.send(b"request")
    c.lab.run()
    c.expects("A", data=b"request")
    for number, soon in enumerate((True, False, False), 1):
        start = c.lab.time
        c.sends(data=b"answer", ack=1 + 7 * number)
        c.lab.wait(0.1)
        c.expects("A", length=0, at=start + (0.001 if soon else 0.04))
        c.socket.send(b"request")
        c.lab.run()
        c.expects("A", data=b"request")


def test_who_only_ever_receives_is_acknowledged_soon_at_the_beginning():
    lab = Lab()
    c = lab.accepted()
    for _ in range(8):
        c.sends(data=b"x" * 2 * 1460)
        c.expects("A")
    c.sends(data=b"x" * 100)
    start = lab.time
    lab.wait(0.1)
    c.expects("A", at=start + 0.04)


@pytest.mark.rfc("9293:SHLD-19", "5681:4.2-SECOND")
def test_every_second_full_segment_is_acknowledged_at_once():
    lab = Lab()
    c = lab.accepted()
    for n in range(5):
        c.sends(data=b"x" * 1460)
        c.expects_nothing()
        c.sends(data=b"x" * 1460)
        c.expects("A", ack=2920 * (n + 1) + 1)
        c.socket.recv()
        lab.run()
        c.receives()


@pytest.mark.rfc("9293:MUST-58", "9293:MUST-59")
def test_segments_of_one_batch_share_an_acknowledgment():
    lab = Lab()
    c = lab.accepted()
    for n in range(8):
        segment = c.segment(data=b"x" * 1000, seq=1 + 1000 * n)
        lab.engine.input(build(segment, source_mac=PEER_MAC, destination_mac=STACK_MAC))
    lab.run()
    assert [s.ack for s in c.receives()] == [8001]


def test_quickack():
    lab = Lab()
    c = lab.accepted()
    c.socket.set_flags(c.socket.flags | neat.FLAG_QUICKACK)
    lab.run()
    c.sends(data=b"x")
    c.expects("A", ack=2, at=lab.time)


def test_a_pure_ack_is_not_acknowledged():
    lab = Lab()
    c = lab.accepted()
    c.sends()
    lab.wait(5)
    c.expects_nothing()


def test_fin_is_acknowledged_at_once():
    lab = Lab()
    c = lab.accepted()
    c.sends("FA")
    c.expects("A", ack=2, at=lab.time)


def test_a_duplicate_is_acknowledged_at_once():
    """RFC 9293 section 3.10.7.4, first: an unacceptable segment gets an ACK."""
    lab = Lab()
    c = lab.accepted()
    c.sends(data=b"abc")
    lab.wait(0.5)
    c.receives()
    c.sends(seq=1, data=b"abc")
    c.expects("A", ack=4, at=lab.time)
    assert lab.drops("sequence") == 1


@pytest.mark.rfc("5681:4.2-ONE")
def test_no_segment_causes_two_acknowledgments():
    """RFC 5681 section 4.2, whatever it is: in order, twice, beyond a gap, filling one, outside of the window."""
    lab = Lab()
    c = lab.accepted()
    script = [(1, 1460), (1461, 1460), (1, 1460), (4381, 100), (4381, 100), (2921, 1460), (90000, 100), (4481, 1)]
    for seq, length in script:
        c.sends(seq=seq, data=b"x" * length)
        assert len(c.receives()) <= 1
    lab.wait(1)
    assert [s.ack for s in c.receives()] == [4482], "what was owed, once"
