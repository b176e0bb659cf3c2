"""Tail loss probes: RFC 8985 section 7."""

import struct

import pytest

from tests.dataplane.tcp.test_scoreboard import DATA, MSS, ROUND_TRIP, acks, sending, sent
from tests.support.lab import Lab
from tests.support.packet import NOP, option


def all_sent(lab: Lab):
    """Ten segments are on their way, and the program has no more."""
    c = sending(lab, 10)
    while c.tcb["snd"]["una"] - c.irs - 1 & 0xFFFFFFFF < 40 * MSS:
        c.sends(ack=c.tcb["snd"]["max"] - c.irs & 0xFFFFFFFF, seq=1)
        sent(c)
        lab.wait(ROUND_TRIP)
    c.socket.send(DATA[: 4 * MSS])
    lab.run()
    assert sent(c) == [40, 41, 42, 43]
    return c


@pytest.mark.rfc("8985:7.2-SHOULD-1", "8985:7.1", "8985:7.3-RACK")
@pytest.mark.rfc("8985:7.2-PTO")
@pytest.mark.rfc("8985:7.3-PROBE")
def test_the_last_segment_is_sent_again_after_two_round_trips():
    lab = Lab()
    c = all_sent(lab)
    window, round_trip = c.tcb["cc"]["cwnd"], c.tcb["rtt"]["srtt"] / 1e6
    lab.wait(2 * round_trip - 0.005)
    assert sent(c) == []
    lab.wait(0.010)
    assert sent(c) == [43]
    assert c.tcb["cc"]["cwnd"] == window
    lab.wait(ROUND_TRIP)
    assert acks(c, 40, (43, 44)) == [40]  # RACK: they were sent before; as much as has arrived (PRR)
    assert c.tcb["cc"]["cwnd"] < window


@pytest.mark.rfc("8985:7.3-PROBE")
def test_new_text_is_the_better_probe():
    """The congestion window does not matter, the peer's does."""
    lab = Lab()
    c = sending(lab)
    lab.wait(2 * ROUND_TRIP)
    assert sent(c) == [10]


@pytest.mark.rfc("8985:7.3-MUST-2", "8985:8-ONE")
@pytest.mark.rfc("8985:7.3-MUST-3")
@pytest.mark.rfc("8985:7.3-MUST-4")
def test_there_is_one_probe_then_a_timeout():
    lab = Lab()
    c = all_sent(lab)
    lab.wait(0.15)
    assert sent(c) == [43]
    lab.wait(0.15)
    assert sent(c) == []
    lab.wait(0.5)
    assert sent(c)[0] == 40
    assert c.tcb["cc"]["cwnd"] == MSS


def probed(lab: Lab):
    """Only the probe's ACK is left to wait for."""
    c = all_sent(lab)
    lab.wait(2 * ROUND_TRIP + 0.01)
    assert sent(c) == [43]
    return c


@pytest.mark.rfc("8985:7.4-MUST-1", "8985:7.4-RESPONSE")
def test_a_loss_that_the_probe_has_repaired_reduces_the_window():
    """Nothing tells that both the segment and the probe came: so one was lost."""
    lab = Lab()
    c = probed(lab)
    before = c.tcb["cc"]["cwnd"]
    acks(c, 44)
    assert c.tcb["cc"]["cwnd"] >= before
    c.socket.send(DATA[:MSS])
    lab.run()
    acks(c, 45)
    assert c.tcb["cc"]["cwnd"] < before


@pytest.mark.rfc("8985:7.4-MUST-2")
@pytest.mark.parametrize("told", ["DSACK", "bare"])
def test_a_probe_that_came_twice_says_that_nothing_was_lost(told):
    lab = Lab()
    c = probed(lab)
    before = c.tcb["cc"]["cwnd"]
    acks(c, 44)
    edges = [(c.irs + 1 + MSS * n) & 0xFFFFFFFF for n in (43, 44)]
    c.sends(
        ack=1 + 44 * MSS, seq=1, options=NOP + NOP + option(5, struct.pack("!2I", *edges)) if told == "DSACK" else b""
    )
    c.socket.send(DATA[:MSS])
    lab.run()
    acks(c, 45)
    assert c.tcb["cc"]["cwnd"] >= before


@pytest.mark.rfc("8985:7.2-SHOULD-1")
def test_what_is_acknowledged_selectively_needs_no_probe():
    lab = Lab()
    c = all_sent(lab)
    lab.wait(ROUND_TRIP / 2)
    acks(c, 40, (41, 42))
    lab.wait(ROUND_TRIP)
    assert 43 not in sent(c)


def test_one_segment_waits_for_what_its_receiver_may_wait():
    """Its ACK may be delayed: there is no probe before the timeout would come anyway, and then it is in its place."""
    lab = Lab()
    c = all_sent(lab)
    acks(c, 44)
    window = c.tcb["cc"]["cwnd"]
    c.socket.send(DATA[:MSS])
    lab.run()
    assert sent(c) == [44]
    lab.wait(0.19)
    assert sent(c) == []
    lab.wait(0.2)
    assert sent(c) == [44]
    assert c.tcb["cc"]["cwnd"] == window
