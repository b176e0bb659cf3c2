"""Zero windows: RFC 9293 section 3.8.6.1."""

import itertools

import pytest

from tests.support.lab import Connection, Lab
from tests.support.layout import neat


def stuck(lab: Lab) -> Connection:
    """A connection whose peer has closed its window, with data waiting."""
    c = lab.accepted()
    c.sends(window=0)
    c.socket.send(b"waiting")
    lab.run()
    c.expects_nothing()
    return c


@pytest.mark.rfc("9293:MUST-35", "9293:MUST-36")
def test_a_closed_window_is_probed():
    lab = Lab()
    c = stuck(lab)
    lab.wait(10)
    probes = c.receives()
    assert len(probes) >= 3
    for probe in probes:
        assert probe.ack == 1
        assert len(probe.payload) <= 1
        assert probe.seq in (0, 1), "one byte of new data, or an old sequence number as Linux sends"


@pytest.mark.rfc("9293:SHLD-30")
def test_probes_back_off():
    lab = Lab()
    c = stuck(lab)
    lab.wait(30)
    moments = [s.at for s in c.receives()]
    between = [b - a for a, b in itertools.pairwise(moments)]
    assert between == sorted(between)
    assert between[1] == pytest.approx(2 * between[0], rel=0.1)


@pytest.mark.rfc("9293:MUST-37")
def test_probing_goes_on_for_ever_while_the_peer_answers():
    """ "...as long as the receiving TCP continues to send acknowledgments in response to the probe segments"."""
    lab = Lab()
    c = stuck(lab)
    for _ in range(24 * 30):
        lab.wait(121)
        assert c.receives(), "a probe at least every two minutes"
        c.sends(window=0, ack=1)
    assert c.socket.state == neat.STATE_OPEN
    c.sends(window=1000, ack=1)
    c.expects("A", data=b"waiting")


def test_the_answer_of_a_peer_whose_own_probe_was_taken():
    """It does not count that byte yet: its ACK lies just before the window, and says that our probe was taken, too."""
    lab = Lab()
    c = stuck(lab)
    lab.wait(1)
    assert c.receives()
    c.sends(seq=1, data=b"p", window=0, ack=1)
    lab.wait(0.1)
    assert c.receives()[-1].ack == 2
    c.sends("A", seq=1, window=1000, ack=2)
    sent = c.receives()
    assert b"".join(s.payload for s in sent) == b"aiting"


def test_an_opened_window_lets_data_go_at_once():
    lab = Lab()
    c = stuck(lab)
    lab.wait(1)
    c.receives()
    c.sends(window=1000, ack=1)
    c.expects("A", seq=1, data=b"waiting")
    lab.wait(0.05)
    c.expects_nothing()


def test_a_probe_that_was_taken_is_not_sent_again():
    lab = Lab()
    c = stuck(lab)
    lab.wait(3)
    probe = c.receives()[-1]
    taken = len(probe.payload)
    c.sends(window=1000, ack=1 + taken)
    c.expects("A", seq=1 + taken, data=b"waiting"[taken:])


def test_a_fin_waits_behind_a_closed_window_and_its_data():
    lab = Lab()
    c = stuck(lab)
    c.socket.shutdown()
    lab.run()
    lab.wait(2)
    c.receives()
    c.sends(window=1000, ack=1)
    c.expects("FA", seq=1, data=b"waiting")


def test_a_closed_window_with_nothing_to_send_is_left_alone():
    lab = Lab()
    c = lab.accepted()
    c.sends(window=0)
    lab.wait(300)
    c.expects_nothing()
    assert lab.engine.next_deadline() is None


@pytest.mark.rfc("9293:MAY-8")
def test_our_closed_window_answers_probes():
    """RFC 9293 section 3.10.7.4: with RCV.WND = 0 every unacceptable segment gets an ACK; valid ACKs are taken."""
    lab = Lab(rings=4096)
    c = lab.accepted()
    for size in (1460, 1460, 1176):
        c.sends(data=b"x" * size)
    lab.wait(1)
    c.receives()
    c.sends(seq=4097, data=b"p")
    c.nxt = 4097
    c.expects("A", ack=4097, window=0)
    c.sends(seq=4096)
    c.expects("A", ack=4097, window=0)
    c.socket.send(b"out")
    lab.run()
    c.expects("A", data=b"out")
    c.sends(ack=4)
    assert c.socket.unacknowledged == 0


@pytest.mark.rfc("9293:SHLD-29")
def test_the_first_probe_goes_after_a_retransmission_timeout():
    lab = Lab()
    c = stuck(lab)
    start, timeout = lab.time, c.tcb["rtt"]["rto"] / 1e6
    lab.wait(10)
    assert c.receives()[0].at - start == pytest.approx(timeout, rel=0.01)


def test_a_closed_window_does_not_keep_what_no_program_has():
    """Else a peer could keep the memory of as many connections as it likes."""
    lab = Lab()
    c = stuck(lab)
    c.socket.close()
    lab.run()
    for _ in range(20):
        lab.wait(60)
        if c.state == "CLOSED":
            break
        c.sends(window=0, ack=1)
    assert c.state == "CLOSED"
    assert "R" in c.receives()[-1].flags


def test_user_timeout_counts_while_the_window_is_closed():
    """RFC 5482 section 3, as Linux: though the peer answers."""
    lab = Lab()
    c = stuck(lab)
    c.socket.set(user_timeout_ms=10_000)
    for _ in range(12):
        lab.wait(2)
        c.sends(window=0, ack=1)
    assert c.state == "CLOSED"


def test_a_peer_that_no_more_answers_probes_is_given_up():
    lab = Lab()
    c = stuck(lab)
    lab.wait(900)
    assert c.state == "ESTABLISHED"
    lab.wait(1200)
    assert c.state == "CLOSED" and c.socket.error


def test_a_probe_that_was_not_taken_does_not_count():
    """What follows it has the number of what the peer expects: it would drop an ACK beyond its window."""
    lab = Lab()
    c = stuck(lab)
    lab.wait(3)
    c.receives()
    for _ in range(2):
        c.sends(data=b"x" * 1460, window=0, ack=1)
    c.expects("A", seq=1, ack=2921)


def test_a_fin_does_not_go_into_a_closed_window_but_probes_it():
    lab = Lab()
    c = lab.accepted()
    c.sends(window=0)
    c.socket.shutdown()
    lab.run()
    c.expects_nothing()
    lab.wait(2)
    c.expects("FA", seq=1, length=0)
