"""Keepalive (RFC 9293 section 3.8.4) and the user timeout (RFC 5482; Linux's TCP_USER_TIMEOUT)."""

import errno

import pytest

from tests.support.lab import Lab
from tests.support.layout import neat

KEEPALIVE = {"flags": neat.FLAG_KEEPALIVE, "keep_idle_s": 60, "keep_interval_s": 10, "keep_count": 3}


@pytest.mark.rfc("9293:MUST-25")
def test_it_is_off_by_default():
    """ "...MUST default to off"."""
    lab = Lab()
    c = lab.connected()
    lab.wait(100_000)
    c.expects_nothing()
    assert lab.engine.next_deadline() is None


@pytest.mark.rfc("9293:MUST-27", "9293:MAY-5", "9293:SHLD-12")
def test_probes_are_old_sequence_numbers_without_effect():
    lab = Lab()
    c = lab.connected(lines=KEEPALIVE)
    start = lab.time
    lab.wait(61)
    probe = c.expects("A", seq=0, ack=1)
    assert probe.at - start == pytest.approx(60, abs=1)
    assert len(probe.payload) <= 1
    c.sends()
    lab.wait(58)
    c.expects_nothing()
    lab.wait(3)
    c.expects("A", seq=0)


@pytest.mark.rfc("9293:MUST-29")
def test_no_answer_ends_the_connection():
    lab = Lab()
    c = lab.connected(lines=KEEPALIVE)
    lab.wait(85)
    assert len(c.receives()) == 3
    assert c.socket.state == neat.STATE_OPEN
    lab.wait(10)
    assert c.socket.state == neat.STATE_CLOSED
    assert c.socket.error == errno.ETIMEDOUT


@pytest.mark.rfc("9293:MUST-28")
def test_the_default_idle_time_is_two_hours():
    """ "...MUST be no less than two hours"."""
    lab = Lab()
    c = lab.connected(lines={"flags": neat.FLAG_KEEPALIVE})
    lab.wait(7190)
    c.expects_nothing()
    lab.wait(20)
    c.expects("A", seq=0)


@pytest.mark.rfc("9293:MUST-24", "9293:MUST-27")
def test_it_can_be_switched_on_later_and_off_again():
    lab = Lab()
    c = lab.accepted()
    c.socket.set(flags=c.socket.flags | neat.FLAG_KEEPALIVE, keep_idle_s=5, keep_interval_s=1, keep_count=100)
    lab.run()
    lab.wait(5.5)
    c.expects("A", seq=0)
    c.sends()
    c.socket.set(flags=c.socket.flags & ~neat.FLAG_KEEPALIVE)
    lab.run()
    lab.wait(1000)
    c.expects_nothing()


@pytest.mark.rfc("9293:MUST-27")
def test_the_idle_time_may_change_when_it_is_on():
    """As with Linux, what counts is when the peer was last heard: most programs set SO_KEEPALIVE first."""
    lab = Lab()
    c = lab.accepted()
    c.socket.set(flags=c.socket.flags | neat.FLAG_KEEPALIVE)
    lab.run()
    lab.wait(3)
    c.socket.set(keep_idle_s=5)
    lab.run()
    lab.wait(1.5)
    c.expects_nothing()
    lab.wait(1)
    c.expects("A", seq=0)


@pytest.mark.rfc("9293:MUST-26")
def test_data_postpones_the_probe():
    lab = Lab()
    c = lab.connected(lines=KEEPALIVE)
    for _ in range(5):
        lab.wait(50)
        c.sends(data=b"x")
        c.socket.recv()
    assert all(s.seq != 0 for s in c.receives())


@pytest.mark.rfc("9293:MUST-26")
def test_no_probe_goes_while_data_is_on_its_way():
    lab = Lab()
    c = lab.connected(lines=KEEPALIVE)
    c.socket.send(b"x")
    lab.run()
    lab.wait(200)
    sent = c.receives()
    assert len(sent) > 5
    assert all((s.seq, s.payload) == (1, b"x") for s in sent), "retransmissions only"


def test_a_keepalive_probe_is_answered():
    lab = Lab()
    c = lab.accepted()
    c.sends(seq=0)
    c.expects("A", seq=1, ack=1)
    c.sends(seq=0, data=b"\0")
    c.expects("A", seq=1, ack=1)
    assert c.socket.readable == 0


def test_a_reset_in_answer_to_a_probe_ends_the_connection():
    lab = Lab()
    c = lab.connected(lines=KEEPALIVE)
    lab.wait(61)
    c.expects("A", seq=0)
    c.sends("R", seq=1)
    assert c.socket.error == errno.ECONNRESET


@pytest.mark.rfc("9293:MUST-21", "5482:3.1")
def test_user_timeout_is_kept_to_between_retransmissions():
    """They are due after 0.2, 0.6, 1.4, 3 and 6.2 s or later: at none of them have 4 s just passed."""
    lab = Lab()
    c = lab.connected(lines={"user_timeout_ms": 4000})
    c.socket.send(b"x")
    lab.run()
    lab.wait(3.95)
    assert c.socket.state == neat.STATE_OPEN
    lab.wait(0.1)
    assert c.socket.state == neat.STATE_CLOSED
    assert c.socket.error == errno.ETIMEDOUT


def test_user_timeout_is_kept_to_between_probes_of_a_closed_window():
    lab = Lab()
    c = lab.accepted()
    c.socket.set(user_timeout_ms=4000)
    c.sends(window=0)
    c.socket.send(b"waiting")
    lab.run()
    lab.wait(3.95)
    assert c.state == "ESTABLISHED"
    lab.wait(0.1)
    assert c.state == "CLOSED"


@pytest.mark.rfc("9293:MUST-21", "5482:3.1")
def test_user_timeout_can_be_longer_than_the_default():
    lab = Lab()
    c = lab.connected(lines={"user_timeout_ms": 2_000_000})
    c.socket.send(b"x")
    lab.run()
    lab.wait(1900)
    assert c.socket.state == neat.STATE_OPEN
    lab.wait(300)
    assert c.socket.state == neat.STATE_CLOSED


@pytest.mark.parametrize(("limit", "probes"), [(75_000, 2), (200_000, 14)])
def test_user_timeout_counts_for_probes_instead_of_their_number(limit, probes):
    """tcp(7): it overrides keepalive in when a silent peer is given up, sooner or later than TCP_KEEPCNT."""
    lab = Lab()
    c = lab.connected(lines=KEEPALIVE | {"user_timeout_ms": limit})
    lab.wait(limit / 1000 - 6)
    assert c.socket.state == neat.STATE_OPEN
    lab.wait(16)
    assert c.socket.state == neat.STATE_CLOSED
    assert c.socket.error == errno.ETIMEDOUT
    assert sum(segment.flags == "A" for segment in c.receives()) == probes


@pytest.mark.rfc("5482:4.2")
def test_user_timeout_does_not_end_an_idle_connection():
    lab = Lab()
    c = lab.connected(lines={"user_timeout_ms": 1000})
    c.socket.send(b"x")
    lab.run()
    c.sends(ack=2)
    lab.wait(100)
    assert c.socket.state == neat.STATE_OPEN


def test_user_timeout_begins_anew_when_something_is_acknowledged():
    lab = Lab()
    c = lab.accepted()
    c.socket.set(user_timeout_ms=10_000)
    for n in range(3):
        c.socket.send(b"x")
        lab.run()
        lab.wait(7)
        assert c.state == "ESTABLISHED"
        c.sends(ack=2 + n)
    c.socket.send(b"x")
    lab.run()
    lab.wait(30)
    assert c.state == "CLOSED"


def test_user_timeout_begins_anew_when_the_window_opens():
    lab = Lab()
    c = lab.accepted()
    c.socket.set(user_timeout_ms=10_000)
    c.sends(window=0)
    c.socket.send(b"waiting")
    lab.run()
    lab.wait(7)
    c.sends(window=1000)
    lab.wait(7)
    assert c.state == "ESTABLISHED"
    lab.wait(20)
    assert c.state == "CLOSED"


def test_times_and_counts_are_bounded_as_by_linux():
    lab = Lab()
    c = lab.accepted()
    c.socket.set(keep_idle_s=65_535, keep_interval_s=65_535, keep_count=1)
    c.socket.set_flags(c.socket.flags | neat.FLAG_KEEPALIVE)
    lab.run()
    lab.wait(32_766)
    c.expects_nothing()
    lab.wait(2)
    c.expects("A", seq=0)
    lab.wait(32_767)
    assert c.state == "CLOSED"
