"""Loss found by time: RACK, RFC 8985 section 6."""

import random
import struct

import pytest

from tests.dataplane.tcp.test_scoreboard import DATA, MSS, ROUND_TRIP, acks, sack, sending, sent
from tests.dataplane.test_transfer import run
from tests.support.lab import Lab
from tests.support.packet import NOP, SACK_PERMITTED, mss, option
from tests.support.wire import Faults, Mishap, Wire


def timestamps(value: int, echo: int) -> bytes:
    return option(8, struct.pack("!2I", value, echo))


@pytest.mark.rfc("8985:6.2-STEP-5", "8985:6.2-TIMER")
@pytest.mark.rfc("8985:6.2-STEP-1")
def test_one_segment_beyond_a_hole_is_enough_after_a_quarter_of_a_round_trip():
    """Three would have to come to tell without the time."""
    lab = Lab()
    c = sending(lab)
    assert acks(c, 0, (1, 2)) == [10]
    lab.wait(0.010)
    assert sent(c) == []
    lab.wait(0.005)
    assert sent(c) == [0]
    assert c.tcb["cc"]["ssthresh"] < 10 * MSS


@pytest.mark.rfc("8985:6.2-STEP-3")
@pytest.mark.rfc("8985:4-REORDER")
def test_what_comes_late_within_the_window_is_not_sent_again():
    """And once that has been seen, three segments beyond a hole do not mean a loss at once."""
    lab = Lab()
    c = sending(lab)
    acks(c, 0, (1, 2))
    lab.wait(0.005)
    before = c.tcb["cc"]["cwnd"]
    assert 0 not in acks(c, 2)
    assert c.tcb["cc"]["cwnd"] >= before
    assert 2 not in acks(c, 2, (3, 8))
    lab.wait(0.020)
    assert 2 in sent(c)


@pytest.mark.rfc("6675:4-ISLOST")
@pytest.mark.rfc("8985:6.2-STEP-4")
def test_without_reordering_three_segments_tell_at_once():
    c = sending(Lab())
    acks(c, 0, (1, 3))
    assert acks(c, 0, (1, 4)) == [0]


@pytest.mark.rfc("8985:4-DSACK")
@pytest.mark.rfc("8985:6.2-STEP-4")
def test_what_was_sent_again_in_vain_widens_the_window():
    """Each round trip in which the peer tells of it (RFC 2883): by another quarter of the least round trip."""
    lab = Lab()
    c = sending(lab)
    acks(c, 0, (1, 2))
    lab.wait(0.005)
    acks(c, 2)  # there is reordering
    c.receives()
    acks(c, 2, (3, 4))
    lab.wait(0.016)
    assert 2 in sent(c)
    edges = [(c.irs + 1 + MSS * n) & 0xFFFFFFFF for n in (2, 3)]
    c.sends(ack=1 + 12 * MSS, seq=1, options=NOP + NOP + option(5, struct.pack("!2I", *edges)))
    numbers = sent(c)
    lab.wait(ROUND_TRIP)
    first = numbers[0]
    acks(c, first, (first + 1, first + 2))
    lab.wait(0.016)
    assert first not in sent(c)
    lab.wait(0.012)
    assert first in sent(c)


@pytest.mark.rfc("8985:3.3.2-BOUND", "8985:4-DSACK")
@pytest.mark.parametrize(("rounds", "quarters"), [(0, 1), (1, 2), (2, 3), (12, 4)])
def test_the_window_never_grows_beyond_a_round_trip(rounds: int, quarters: int):
    """However often the peer tells of what came twice, also when it has acknowledged everything."""
    lab = Lab()
    c = sending(lab)
    acks(c, 0, (1, 2))
    lab.wait(0.005)
    acks(c, 2)  # there is reordering
    upto = 2
    for _ in range(rounds):
        lab.wait(ROUND_TRIP)
        edges = [(c.irs + 1 + MSS * n) & 0xFFFFFFFF for n in (upto - 1, upto)]
        upto = (c.tcb["snd"]["max"] - c.irs - 1 & 0xFFFFFFFF) // MSS
        c.sends(ack=1 + upto * MSS, seq=1, options=NOP + NOP + option(5, struct.pack("!2I", *edges)))
        c.socket.send(DATA[: 10 * MSS])
        lab.run()
        c.receives()
    lab.wait(ROUND_TRIP)
    acks(c, upto, (upto + 1, upto + 3))
    lab.wait(quarters * ROUND_TRIP / 4 - 0.002)
    assert upto not in sent(c)
    lab.wait(0.006)
    assert upto in sent(c)


@pytest.mark.rfc("8985:6.2-STEP-2", "8985:9.2-LOST-AGAIN")
def test_a_retransmission_that_is_lost_is_found():
    """Something that was sent after it has arrived; without the time only a timeout would tell."""
    lab = Lab()
    c = sending(lab)
    acks(c, 0, (1, 4))  # sends 0 again
    lab.wait(0.005)
    acks(c, 0, (1, 9))
    acks(c, 0, (1, 10))
    new = acks(c, 0, (1, 11))
    lab.wait(ROUND_TRIP)
    latest = c.tcb["snd"]["max"] - c.irs - 1 & 0xFFFFFFFF
    again = acks(c, 0, (1, latest // MSS))
    assert 0 in again, new
    assert lab.time < 0.2


@pytest.mark.rfc("8985:6.2-STEP-2")
def test_an_acknowledgment_of_the_first_sending_is_no_sign_of_the_second():
    """The timestamp that it echoes is older than the retransmission."""
    lab = Lab()
    c = lab.connection(mss=MSS)
    c.listener = lab.listening()
    c.sends("S", options=mss(MSS) + SACK_PERMITTED + timestamps(1, 0))
    c.expects("SA")
    lab.wait(ROUND_TRIP)
    c.sends("A", seq=1, options=NOP + NOP + timestamps(2, 0))
    c.socket = lab.program.accept(c.listener)
    c.socket.send(DATA[: 9 * (MSS - 12)])
    lab.run()
    first = c.receives()
    echo = struct.unpack("!I", first[0].options[4:8])[0]
    edges = [(c.irs + 1 + (MSS - 12) * n) & 0xFFFFFFFF for n in (2, 5)]
    blocks = NOP + NOP + option(5, struct.pack("!2I", *edges))
    lab.wait(ROUND_TRIP)
    c.sends(ack=1, seq=1, options=NOP + NOP + timestamps(3, echo) + blocks)
    assert [s.seq for s in c.receives()][0] == 1
    lab.wait(ROUND_TRIP + 0.005)  # long enough for either
    # 0 is acknowledged, by its first sending: so 5 to 8, which were sent between the two, are not lost
    c.sends(ack=1 + MSS - 12, seq=1, options=NOP + NOP + timestamps(4, echo) + blocks)
    assert all(s.seq < edges[1] - c.irs for s in c.receives())


@pytest.mark.rfc("8985:6.3-RTO", "6582:3.2-4")
@pytest.mark.rfc("6675:5.1-MUST-1")
def test_a_timeout_sends_the_first_segment_and_what_had_the_time():
    lab = Lab()
    c = sending(lab)
    acks(c, 0, (1, 2))
    lab.wait(0.03)
    assert 0 in sent(c)
    lab.wait(1)
    again = sent(c)
    assert again[0] == 0
    assert c.tcb["cc"]["cwnd"] == MSS
    assert acks(c, 1)[:2] == [1, 2]


def test_the_fin_is_sent_again_with_the_text_that_is_lost():
    lab = Lab()
    c = sending(lab)
    acks(c, 10)
    while c.tcb["snd"]["max"] - c.irs - 1 & 0xFFFFFFFF < 40 * MSS:
        c.sends(ack=c.tcb["snd"]["max"] - c.irs & 0xFFFFFFFF, seq=1)
    c.receives()
    c.sends(ack=1 + 40 * MSS, seq=1)
    c.socket.send(DATA[:MSS])
    c.socket.shutdown()
    lab.run()
    assert "F" in c.receives()[-1].flags
    lab.wait(1.5)
    again = c.receives()
    assert again and all("F" in s.flags and len(s.payload) == MSS for s in again)


@pytest.mark.parametrize("seed", range(4))
def test_hostile_acknowledgments_are_survived(seed):
    """Blocks anywhere, of any length, and ACKs that move by anything: memory is bounded, and text still goes."""
    draw = random.Random(seed)
    lab = Lab(rings=1 << 18)
    c = sending(lab)
    una = 0
    for _ in range(1500):
        c.socket.send(DATA[:20000])
        limit = c.tcb["snd"]["max"] - c.irs - 1 & 0xFFFFFFFF
        if draw.random() < 0.05 and limit > una:
            una = draw.randint(una, limit)
        edges: list[int] = []
        for _ in range(draw.randint(1, 4)):
            left = draw.randint(una - 50, limit + 50)
            edges += [left, left + draw.choice([1, 7, 50, 3000, 20000])]
        packed = struct.pack(f"!{len(edges)}I", *((c.irs + 1 + edge) & 0xFFFFFFFF for edge in edges))
        c.sends(ack=1 + una, seq=1, options=NOP + NOP + option(5, packed))
        if draw.random() < 0.3:
            lab.wait(draw.choice([0.0005, 0.003, 0.03]))
        c.receives()
    for _ in range(2000):
        limit = c.tcb["snd"]["max"] - c.irs - 1 & 0xFFFFFFFF
        if c.tcb["snd"]["una"] - c.irs - 1 & 0xFFFFFFFF == limit:
            break
        c.sends(ack=1 + limit, seq=1)
        lab.wait(0.01)
    c.receives()
    assert c.tcb["snd"]["una"] == c.tcb["snd"]["max"]


@pytest.mark.parametrize("late", [0.002, 0.004])
def test_reordering_causes_no_retransmissions(late):
    """Every seventh frame is late by up to a quarter of a round trip; the first time may be mistaken for a loss."""
    wire = Wire(Faults(delay=0.01), rings=1 << 17)

    def begin() -> None:
        wire.schedule = {("a", n): Mishap(late=late) for n in range(0, 4000, 7)}
        wire.carried = {"a": 0, "b": 0}

    run([("send", "a", 1_000_000)], wire, begin, 60)
    assert wire.a.engine.counters()["retransmits"] <= 3


def test_blocks_of_the_kind_that_sack_writes():
    """The helper of these tests counts from the connection's first byte."""
    c = sending(Lab())
    assert len(sack(c, (1, 2), (3, 4))) == 20
