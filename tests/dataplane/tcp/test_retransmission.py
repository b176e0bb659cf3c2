"""The retransmission timer: RFC 6298 with Karn; RFC 5681 section 3.1 (after a timeout); giving up (RFC 9293 3.8.3)."""

import errno
import itertools

import pytest

from tests.support.lab import Lab
from tests.support.layout import neat
from tests.support.wire import Faults, Wire


def gaps(moments: list[float]) -> list[float]:
    return [b - a for a, b in itertools.pairwise(moments)]


@pytest.mark.rfc("9293:MUST-19", "6298:5.4", "6298:5.5", "6298:5.6", "6298:5-EARLY", "6298:1-AGGRESSIVE")
@pytest.mark.rfc("6298:5.1")
def test_unacknowledged_data_is_sent_again_with_doubling_gaps():
    """Section 5: (5.4) the earliest segment, (5.5) the timeout doubled."""
    lab = Lab()
    c = lab.accepted()
    c.socket.send(b"lost")
    lab.run()
    lab.until(30)
    copies = c.receives()
    assert len(copies) >= 6
    assert all((s.seq, s.payload) == (1, b"lost") for s in copies)
    between = gaps([s.at for s in copies])
    for earlier, later in itertools.pairwise(between):
        assert later == pytest.approx(2 * earlier, rel=0.05)


@pytest.mark.rfc("6298:2.1")
def test_first_timeout_without_a_measurement_is_a_second():
    """Section 2.1; a handshake without retransmission gives a measurement (2.2), so this needs a SYN-ACK sent twice."""
    lab = Lab()
    listener = lab.listening()
    c = lab.connection()
    c.sends("S", options=c.syn_options)
    c.expects("SA")
    c.at(1.5)
    c.expects("SA", at=1)
    c.sends("A", seq=1)
    socket = lab.program.accept(listener)
    socket.send(b"x")
    lab.run()
    c.expects("A", at=1.5)
    c.at(10)
    again = c.expects("A", data=b"x")
    assert 2.5 <= again.at <= 4.5 + 0.01, "1 s, or 3 s as in section 5.7"


@pytest.mark.rfc("6298:3-SAMPLE")
def test_the_timeout_follows_the_measured_round_trip():
    """Section 2: RTO = SRTT + max(G, 4 * RTTVAR)."""
    lab = Lab()
    listener = lab.listening()
    c = lab.connection()
    c.sends("S", options=c.syn_options)
    c.expects("SA")
    lab.wait(0.5)
    c.sends("A", seq=1)
    c.socket = lab.program.accept(listener)
    assert c.tcb["rtt"]["srtt"] == pytest.approx(500_000, rel=0.01)
    assert c.tcb["rtt"]["rto"] == pytest.approx(1_500_000, rel=0.01)
    for _ in range(20):
        c.socket.send(b"x")
        lab.run()
        c.receives()
        lab.wait(0.5)
        c.sends()
    tcb = c.tcb
    assert tcb["rtt"]["srtt"] == pytest.approx(500_000, rel=0.1)
    assert 500_000 < tcb["rtt"]["rto"] < 1_000_000
    assert c.tcb["rtt"]["srtt"] == pytest.approx(500_000, rel=0.1)
    sent = lab.time
    c.socket.send(b"lost")
    lab.run()
    c.expects("A")
    lab.wait(2)
    assert c.expects("A", data=b"lost").at - sent == pytest.approx(tcb["rtt"]["rto"] / 1e6, rel=0.1)


@pytest.mark.rfc("9293:MUST-18", "6298:3-KARN")
def test_karn_a_retransmitted_segment_is_never_measured():
    """Section 3."""
    lab = Lab()
    c = lab.accepted()
    before = c.tcb["rtt"]
    c.socket.send(b"x")
    lab.run()
    lab.wait(5)
    c.receives()
    c.sends(ack=2)
    after = c.tcb["rtt"]
    assert after["srtt"] == before["srtt"]


def test_the_backoff_ends_with_new_data_acknowledged():
    """RFC 6298 section 5.7: after a new measurement the timeout is computed afresh."""
    lab = Lab()
    c = lab.accepted()
    c.socket.send(b"x")
    lab.run()
    lab.wait(5)
    c.receives()
    c.sends(ack=2)
    c.socket.send(b"y")
    lab.run()
    c.receives()
    lab.wait(0.01)
    c.sends(ack=3)
    c.socket.send(b"z")
    lab.run()
    first = c.expects("A", data=b"z").at
    lab.wait(3)
    assert c.expects("A", data=b"z").at - first <= 1.1


@pytest.mark.rfc("6298:5.3", "6298:5-EARLY")
def test_an_ack_of_part_restarts_the_timer():
    """Section 5.3."""
    lab = Lab()
    c = lab.accepted()
    c.socket.send(b"x" * 2920)
    lab.run()
    c.receives()
    rto = c.tcb["rtt"]["rto"] / 1e6
    lab.wait(rto * 0.9)
    c.sends(ack=1461)
    rto = c.tcb["rtt"]["rto"] / 1e6
    lab.wait(rto * 0.9)
    c.expects_nothing()
    lab.wait(rto * 0.2)
    c.expects("A", seq=1461)


@pytest.mark.rfc("6298:5.2")
def test_no_timer_runs_when_nothing_is_in_flight():
    """Section 5.2."""
    lab = Lab()
    c = lab.accepted()
    c.socket.send(b"x")
    lab.run()
    c.expects("A")
    c.sends(ack=2)
    assert lab.engine.next_deadline() is None
    lab.wait(100)
    c.expects_nothing()


@pytest.mark.rfc("9293:MUST-19", "5681:3.1-LOSS-WINDOW")
def test_a_timeout_collapses_the_congestion_window():
    """RFC 5681 section 3.1: cwnd = 1 segment, ssthresh = 0.7 of the flight (RFC 9438); then slow start."""
    lab = Lab()
    c = lab.accepted()
    c.socket.send(b"x" * 14600)
    lab.run()
    assert len(c.receives()) == 10
    lab.wait(1.01)
    assert [s.seq for s in c.receives()][:1] == [1]
    cc = c.tcb["cc"]
    assert cc["cwnd"] == 1460
    assert cc["ssthresh"] == 10220
    c.sends(ack=1461)
    assert [s.seq for s in c.receives()] == [1461, 2921]


def test_after_a_timeout_everything_lost_is_sent_again():
    lab = Lab()
    c = lab.accepted()
    data = bytes(range(250)) * 50
    c.socket.send(data)
    lab.run()
    c.receives()
    got = bytearray(len(data))
    acked = 1
    for _ in range(60):
        lab.wait(0.5)
        for s in c.receives():
            got[s.seq - 1 : s.seq - 1 + len(s.payload)] = s.payload
            if s.seq <= acked:
                acked = max(acked, s.seq + len(s.payload))
        if acked > 1:
            c.sends(ack=acked)
    assert bytes(got) == data
    assert c.socket.unacknowledged == 0


@pytest.mark.rfc("9293:SHLD-11", "9293:MUST-20")
def test_a_connection_without_answer_ends_with_etimedout():
    """RFC 9293 section 3.8.3: R2 is at least 100 s; Linux gives up after 15 retransmissions, 924 s or more."""
    lab = Lab()
    c = lab.accepted()
    c.socket.send(b"x")
    lab.run()
    lab.until(100)
    assert c.socket.state == neat.STATE_OPEN
    lab.until(4000)
    assert c.socket.state == neat.STATE_CLOSED
    assert c.socket.error == errno.ETIMEDOUT
    assert c.state == "CLOSED"
    gaps_seen = gaps([s.at for s in c.receives() if s.payload])
    assert max(gaps_seen) <= 121, "section 2.5 allows a bound of 60 s or more; Linux's is 120 s"


def test_the_fin_is_retransmitted():
    lab = Lab()
    c = lab.accepted()
    c.socket.shutdown()
    lab.run()
    c.expects("FA", seq=1)
    lab.wait(1.1)
    c.expects("FA", seq=1)


def test_retransmission_repeats_bytes_also_where_the_ring_wraps():
    lab = Lab(rings=4096)
    c = lab.accepted()
    for _ in range(3):
        c.socket.send(b"-" * 1000)
        lab.run()
        c.receives()
        c.sends(ack=c.heard)
    data = bytes(range(250)) * 10
    c.socket.send(b"!")  # keeps the ring from being empty, so its base stays
    c.socket.send(data)
    lab.run()
    first = b"".join(s.payload for s in c.receives())
    assert first == b"!" + data
    at = c.heard
    lab.wait(1.1)
    again = c.receives()[0]
    assert again.payload == first[: len(again.payload)]
    assert again.seq == at - len(first)


def test_retransmissions_are_counted():
    lab = Lab()
    c = lab.accepted()
    c.socket.send(b"x")
    lab.run()
    lab.wait(4)
    copies = len(c.receives()) - 1
    assert copies >= 2
    assert lab.engine.counters()["retransmits"] == copies
    assert c.tcb["cc"]["retransmits"] == copies


def test_acks_after_a_timeout_carry_the_highest_number_sent():
    """SND.NXT of RFC 9293 never steps back: a peer that has received everything would drop an older number."""
    lab = Lab()
    c = lab.accepted()
    c.socket.send(b"x" * 4380)
    lab.run()
    lab.wait(0.25)
    assert [s.seq for s in c.receives()] == [1, 1461, 2921, 1]
    c.sends(data=b"y" * 3000, ack=1)
    assert c.expects("A", ack=3001).seq == 4381


def test_two_stacks_that_both_time_out_hear_each_other():
    """Both have received what the other sends again, and have lost the other's ACKs."""
    wire = Wire(Faults(delay=0.2))
    left, right = wire.connect()
    for socket in (left, right):
        socket.send(b"x" * 10_000)
    wire.run()
    wire.wait(0.1)
    wire.faults = Faults(delay=0.2, loss=1.0)
    wire.wait(0.9)  # the data arrives; the acknowledgments and what is sent again do not
    wire.faults = Faults(delay=0.2)
    wire.until(lambda: not left.unacknowledged and not right.unacknowledged, limit=10)
    assert left.recv() == right.recv() == b"x" * 10_000


def test_what_nobody_waits_for_is_given_up_sooner():
    """As Linux's tcp_orphan_retries: eight times."""
    lab = Lab()
    c = lab.accepted()
    c.socket.send(b"last words")
    c.socket.close()
    lab.run()
    lab.wait(2000)
    assert len(c.receives()) == 1 + 8
    assert c.state == "CLOSED"


def test_the_time_counts_where_fewer_retransmissions_take_as_long():
    """R2 (RFC 9293 section 3.8.3) is 925 s, wherever the timeout begins: here at a second, for want of a round trip."""
    lab = Lab()
    listener = lab.listening()
    c = lab.connection()
    c.sends("S")
    lab.wait(1.1)
    c.receives()
    c.sends("A")
    socket = lab.program.accept(listener)
    socket.send(b"x")
    lab.run()
    start = lab.time
    lab.wait(920)
    assert c.state == "ESTABLISHED"
    lab.wait(120)
    assert c.state == "CLOSED" and socket.error
    assert len(c.receives()) < 1 + 15 and c.lab.time - start < 1087


@pytest.mark.rfc("5681:3.1-SSTHRESH-HELD")
def test_only_the_first_timeout_of_a_segment_lowers_ssthresh():
    """RFC 5681 section 3.1: later ones say nothing new about the flight."""
    lab = Lab()
    c = lab.accepted()
    c.socket.send(b"x" * 14600)
    lab.run()
    lab.wait(1.01)
    held = c.tcb["cc"]["ssthresh"]
    lab.wait(20)
    assert c.tcb["snd"]["backoff"] > 3
    assert c.tcb["cc"]["ssthresh"] == held
    assert c.tcb["cc"]["cwnd"] == c.tcb["snd"]["mss"]
