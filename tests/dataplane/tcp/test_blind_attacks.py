"""Blind attacks: RFC 5961 sections 3 (RST), 4 (SYN), 5 (data), 7 (limit on challenges); sequence checks."""

import pytest

from tests.support.lab import Lab
from tests.support.layout import neat


@pytest.mark.rfc("5961:3.2b")
def test_a_reset_at_the_very_next_byte_is_believed():
    """Section 3.2, 1."""
    lab = Lab()
    c = lab.accepted()
    c.sends(data=b"abc")
    c.sends("R", seq=4)
    assert c.state == "CLOSED"


@pytest.mark.parametrize("seq", [2, 100, 65535])
@pytest.mark.rfc("5961:3.2c")
def test_a_reset_elsewhere_in_the_window_is_challenged(seq):
    """Section 3.2, 2."""
    lab = Lab()
    c = lab.accepted()
    c.sends("R", seq=seq)
    c.expects("A", seq=1, ack=1)
    assert c.state == "ESTABLISHED"
    c.sends("R", seq=1)  # what a peer that truly has no connection answers to a challenge
    assert c.state == "CLOSED"


@pytest.mark.parametrize("seq", [0, -1, 65536, 70000, 1 << 31])
@pytest.mark.rfc("5961:3.2a")
def test_a_reset_outside_the_window_is_dropped(seq):
    """Section 3.2, 3."""
    lab = Lab()
    c = lab.accepted()
    c.sends("R", seq=seq)
    c.expects_nothing()
    assert c.state == "ESTABLISHED"


@pytest.mark.parametrize("seq", [0, 1, 500, -1000, 1 << 31])
@pytest.mark.parametrize("flags", ["S", "SA"])
@pytest.mark.rfc("5961:4.2a", "5961:4.2b")
def test_a_syn_is_challenged_wherever_it_is(seq, flags):
    """Section 4.2."""
    lab = Lab()
    c = lab.accepted()
    c.sends(flags, seq=seq)
    c.expects("A", seq=1, ack=1)
    c.expects_nothing()
    assert c.state == "ESTABLISHED"


@pytest.mark.rfc("9293:MAY-12", "5961:5.2b")
def test_an_ack_too_old_is_challenged_and_its_data_dropped():
    """Section 5.2: SEG.ACK must be within (SND.UNA - MAX.SND.WND, SND.NXT]."""
    lab = Lab()
    c = lab.accepted()
    c.sends(ack=-1_000_000, data=b"inject")
    c.expects("A", seq=1, ack=1)
    assert c.socket.readable == 0


def test_an_ack_slightly_old_is_fine():
    lab = Lab()
    c = lab.accepted()
    c.socket.send(b"x" * 1000)
    lab.run()
    c.receives()
    c.sends(ack=1001)
    c.sends(ack=500, data=b"late")
    assert c.socket.recv() == b"late"


@pytest.mark.rfc("5961:7")
def test_challenges_are_limited():
    """Section 7: an attacker must not make us an amplifier, nor use up for one connection what is for all."""
    lab = Lab()
    c, other = lab.accepted(), lab.accepted(81)
    for expected, pause in ((1, 0.45), (0, 0.1), (1, 0)):
        for wrong in ("S", "R", "A", "A") * 500:
            c.sends(wrong, seq=100 if wrong == "R" else 90_000, ack=1)
        assert len(c.receives()) == expected
        lab.wait(pause)
    assert lab.drops("blind_attack") == 6000
    other.sends("S", seq=100)
    other.expects("A", ack=1)


def test_an_unacceptable_segment_is_acknowledged_with_what_we_expect():
    """RFC 9293 section 3.10.7.4, first: <SEQ=SND.NXT><ACK=RCV.NXT><CTL=ACK>."""
    lab = Lab()
    c = lab.accepted()
    for seq in (70000, -100):
        c.sends(seq=seq, data=b"x")
        c.expects("A", seq=1, ack=1)
    assert c.socket.readable == 0


def test_a_connection_survives_a_storm_of_forgeries():
    lab = Lab()
    c = lab.accepted()
    for seq in range(2, 60000, 997):
        c.sends("R", seq=seq)
        c.sends("S", seq=seq)
        c.sends("FA", seq=seq + 1000, ack=1 << 20)
    c.receives()
    c.nxt = 1
    c.sends(data=b"alive")
    assert c.socket.recv() == b"alive"
    assert c.socket.state == neat.STATE_OPEN


@pytest.mark.parametrize("state", ["FIN_WAIT_1", "FIN_WAIT_2", "CLOSE_WAIT", "CLOSING", "LAST_ACK"])
@pytest.mark.rfc("5961:4.2a")
def test_every_synchronized_state_challenges(state):
    lab = Lab()
    c = in_state(lab, state)
    c.receives()
    c.sends("S", seq=c.nxt + 10)
    assert c.receives()[0].flags == "A"
    c.sends("R", seq=c.nxt + 1)
    assert [s.flags for s in c.receives()] in (["A"], [])
    assert c.state == state


@pytest.mark.parametrize("state", ["FIN_WAIT_1", "FIN_WAIT_2", "CLOSE_WAIT", "CLOSING", "LAST_ACK"])
@pytest.mark.rfc("5961:3.2b")
def test_an_exact_reset_ends_every_synchronized_state(state):
    """RFC 9293 section 3.10.7.4, second."""
    lab = Lab()
    c = in_state(lab, state)
    c.receives()
    c.sends("R", seq=c.nxt)
    assert c.state == "CLOSED"
    c.expects_nothing()
    lab.wait(1)
    assert lab.engine.counters()["connections"] == 0


def in_state(lab: Lab, state: str):
    c = lab.accepted()
    if state in ("CLOSE_WAIT", "LAST_ACK"):
        c.sends("FA")
    if state != "CLOSE_WAIT":
        c.socket.shutdown()
        lab.run()
    if state == "FIN_WAIT_2":
        c.sends(ack=2)
    if state == "CLOSING":
        c.sends("FA", ack=1)
    assert c.state == state
    return c


@pytest.mark.rfc("9293:SHLD-2")
def test_a_reset_may_have_text():
    """RFC 9293 section 3.5.3: it says why; nobody reads it."""
    lab = Lab()
    c = lab.accepted()
    c.sends("R", seq=1, data=b"why")
    assert c.state == "CLOSED"
    assert c.socket.reset and c.socket.readable == 0


@pytest.mark.rfc("9293:MUST-66")
def test_a_reset_counts_while_our_window_is_closed():
    lab = Lab(rings=4096)
    c = lab.accepted()
    for size in (1460, 1460, 1176):
        c.sends(data=b"x" * size)
    assert c.receives()[-1].window == 0
    c.sends("R", seq=4098)
    assert c.state == "ESTABLISHED"
    c.sends("R", seq=4097)
    assert c.state == "CLOSED"


@pytest.mark.rfc("5961:5.2a", "5961:5.2b")
def test_how_old_an_ack_may_be():
    """RFC 5961 section 5.2: SND.UNA - MAX.SND.WND =< SEG.ACK =< SND.NXT."""
    lab = Lab()
    c = lab.accepted(window=5000)
    c.socket.send(b"x" * 6000)
    for reached in (4381, 6001):
        lab.run()
        c.sends(ack=reached, window=5000)
    c.receives()
    c.sends(ack=1001, data=b"1")
    assert c.socket.recv() == b"1"
    c.sends(ack=1000, data=b"2")
    c.nxt = 2
    assert c.socket.recv() == b""
    c.sends(ack=6002, data=b"2")
    c.nxt = 2
    assert c.socket.recv() == b""
    c.sends(ack=6001, data=b"2")
    assert c.socket.recv() == b"2"


def test_nobody_can_count_by_the_limit():
    """How many challenges a second has is chance: who gets fewer does not know what others have caused."""
    lab = Lab(sockets=2048, max_tcbs=2048, rings=4096)
    listener = lab.listening()
    many = [lab.accepted(listener=listener) for _ in range(1001)]
    counts = []
    for _ in range(4):
        for c in many:
            c.sends("S", seq=100)
        counts.append(len(lab.left))
        lab.left.clear()
        lab.wait(1)
    assert len(set(counts)) > 1 and all(489 <= count <= 1000 for count in counts)
