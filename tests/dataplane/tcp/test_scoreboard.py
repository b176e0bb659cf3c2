"""Recovery by the peer's selective acknowledgments: RFC 6675."""

import struct

import pytest

from tests.support.lab import Lab
from tests.support.packet import NOP, SACK_PERMITTED, mss, option
from tests.support.wire import Faults, Wire

MSS = 1000
ROUND_TRIP = 0.05
DATA = bytes(range(256)) * 400


def sack(c, *blocks: tuple[int, int]) -> bytes:
    """The option for blocks of our segments, counted from 0."""
    edges = [(c.irs + 1 + MSS * n) & 0xFFFFFFFF for block in blocks for n in block]
    return NOP + NOP + option(5, struct.pack(f"!{len(edges)}I", *edges))


def sending(lab: Lab, segments: int = 10, *, permitted: bytes = NOP + NOP + SACK_PERMITTED, flags: str = "S"):
    """A connection on which the stack has sent so many segments; the window has room for that."""
    c = lab.connection(mss=MSS)
    c.syn_options = mss(MSS) + permitted
    c.listener = lab.listening()
    c.sends(flags, options=c.syn_options)
    c.expects(seq=0)
    lab.wait(ROUND_TRIP)
    c.sends("A", seq=1)
    c.socket = lab.program.accept(c.listener)
    lab.run()
    c.socket.send(DATA[: 40 * MSS])
    lab.run()
    assert sent(c) == list(range(segments))
    lab.wait(ROUND_TRIP)
    return c


def sent(c) -> list[int]:
    """Numbers of the segments that have left."""
    numbers = []
    for segment in c.receives():
        first, length = (segment.seq - 1) // MSS, len(segment.payload)
        assert (segment.seq - 1) % MSS == 0 and length % MSS == 0
        numbers += range(first, first + length // MSS)
    return numbers


def acks(c, upto: int, *blocks: tuple[int, int]) -> list[int]:
    """A millisecond later the peer acknowledges `upto` segments and those in the blocks; what leaves then."""
    c.lab.wait(0.001)
    c.sends(ack=1 + MSS * upto, seq=1, options=sack(c, *blocks) if blocks else b"")
    return sent(c)


@pytest.mark.rfc(
    "2018:5-RECORD", "6675:4-NEXTSEG-NEW", "6675:4-NEXTSEG-NONE", "6675:5-FIRST", "2018:5.1-CONGESTION", "8985:4-SACK"
)
@pytest.mark.rfc("6675:4-UPDATE")
@pytest.mark.rfc("6675:4-PIPE")
def test_one_hole_is_sent_again_and_nothing_else():
    c = sending(Lab())
    assert acks(c, 0, (1, 2)) == [10]  # limited transmit: what has arrived is not on its way
    assert acks(c, 0, (1, 3)) == [11]
    assert acks(c, 0, (1, 4)) == [0]  # more than two segments beyond it have arrived
    assert 0 not in acks(c, 0, (1, 5))


@pytest.mark.rfc("6675:4-NEXTSEG")
def test_several_holes_are_filled_in_one_round_trip():
    """NewReno needs a round trip for each."""
    c = sending(Lab())
    again = acks(c, 0, (1, 2)) + acks(c, 0, (3, 4), (1, 2))
    for upto in range(6, 11):
        again += acks(c, 0, (5, upto), (3, 4), (1, 2))
    assert [n for n in again if n < 10] == [0, 2, 4]


@pytest.mark.rfc("6675:5-ENTER")
def test_three_pieces_mean_a_loss_however_small():
    """IsLost(): three discontiguous ranges."""
    c = sending(Lab())
    edges = ((c.irs + 1 + n) & 0xFFFFFFFF for n in (1000, 1010, 2000, 2010, 3000, 3010))
    c.sends(ack=1, seq=1, options=NOP + NOP + option(5, struct.pack("!6I", *edges)))
    assert 0 in sent(c)


@pytest.mark.rfc("6675:5-RECOVERY")
def test_the_window_is_reduced_once_for_all_losses_of_a_round_trip():
    c = sending(Lab())
    acks(c, 0, (1, 4))
    once = c.tcb["cc"]["ssthresh"]
    acks(c, 0, (5, 9), (1, 4))
    acks(c, 4, (5, 9))
    acks(c, 4, (5, 10))
    assert c.tcb["cc"]["ssthresh"] == once


def test_what_was_sent_before_something_that_came_is_sent_again_in_recovery():
    """Two segments beyond the second hole alone would not prove a loss; that it was sent before what came does."""
    c = sending(Lab(), 10)
    c.socket.send(b"")
    acks(c, 10)  # all of the first window
    lab = c.lab
    while (left := sent(c)) or c.tcb["snd"]["max"] - c.irs - 1 < 40 * MSS:
        c.sends(ack=c.tcb["snd"]["max"] - c.irs & 0xFFFFFFFF, seq=1)
        lab.run()
        del left
    una = (c.tcb["snd"]["una"] - c.irs - 1) // MSS
    assert una == 40
    c.socket.send(DATA[: 8 * MSS])
    lab.run()
    assert sent(c) == list(range(40, 48))
    lab.wait(ROUND_TRIP)
    assert acks(c, 40, (41, 44)) == [40]
    assert acks(c, 40, (45, 46), (41, 44)) == [44]
    assert acks(c, 40, (45, 48), (41, 44)) == []


def test_a_loss_that_nothing_tells_of_is_repaired_by_a_partial_acknowledgment():
    """What is acknowledged last is the retransmission: all that was sent before it had the time to arrive."""
    c = sending(Lab())
    acks(c, 0, (1, 4))
    c.lab.wait(ROUND_TRIP)
    assert acks(c, 4)[:1] == [4]


@pytest.mark.rfc("6675:5-END")
def test_recovery_ends_when_all_that_was_sent_is_acknowledged():
    c = sending(Lab())
    acks(c, 0, (1, 4))
    assert acks(c, 10) == list(range(10, 17))
    assert acks(c, 11) == [17]
    assert c.tcb["cc"]["cwnd"] >= c.tcb["cc"]["ssthresh"]


def test_blocks_of_an_acknowledgment_that_another_has_overtaken_are_taken():
    """What it acknowledges is known already; that two more segments have come is not, and lets as many go."""
    c = sending(Lab())
    assert acks(c, 4) == list(range(10, 18))
    assert acks(c, 3, (5, 7)) == [18, 19]  # limited transmit
    assert acks(c, 3, (5, 7)) == []  # nothing new
    assert acks(c, 3, (5, 8)) == [4]


@pytest.mark.rfc("6675:2-DUPACK")
@pytest.mark.rfc("2883:5-DSACK")
def test_a_duplicate_of_what_is_acknowledged_says_nothing():
    """RFC 2883: a block below the ACK."""
    c = sending(Lab())
    acks(c, 5)
    before = c.tcb
    for _ in range(5):
        c.sends(ack=1 + 5 * MSS, seq=1, options=sack(c, (1, 2)), window=60000)
        sent(c)
    assert c.tcb["cc"]["ssthresh"] == before["cc"]["ssthresh"]


@pytest.mark.parametrize("block", [(30, 40), (5, 5), (7, 6), (-3, -1), (1 << 20, 1 << 21), (0, 3)])
def test_blocks_that_cannot_be_are_not_believed(block):
    """Beyond what was sent, empty, backwards, or from the first byte that is missing."""
    c = sending(Lab())
    for _ in range(4):
        c.sends(ack=1, seq=1, options=sack(c, block), window=60000)
        sent(c)
    assert acks(c, 10) != []


@pytest.mark.rfc("2018:5-FORGET", "2018:5.1-IGNORE")
def test_a_timeout_forgets_what_the_peer_has():
    """RFC 2018 section 8: it may have thrown it away."""
    lab = Lab()
    c = sending(lab)
    acks(c, 0, (1, 3))  # too little for a loss
    lab.wait(1.5)
    assert 0 in sent(c)
    assert acks(c, 1)[:2] == [1, 2]  # sent again, though it had them


def test_more_pieces_than_the_board_holds_are_survived():
    lab = Lab(rings=1 << 18)
    c = sending(lab)
    edge = c.irs + 1
    for n in range(200):
        edges = ((edge + 1000 + 40 * n + k) & 0xFFFFFFFF for k in (0, 20))
        c.sends(ack=1, seq=1, options=NOP + NOP + option(5, struct.pack("!2I", *edges)))
    c.receives()
    c.sends(ack=1 + 10 * MSS, seq=1)
    assert c.tcb["snd"]["una"] - c.irs - 1 == 10 * MSS


@pytest.mark.parametrize("seed", range(3))
def test_a_long_path_that_loses_one_in_a_hundred(seed):
    """100 ms there and back: a transfer in a few dozen round trips, not one for each loss."""
    wire = Wire(Faults(delay=0.05, loss=0.01), seed=seed, rings=1 << 18)
    client, server = wire.connect()
    data, got = DATA * 5, bytearray()
    rest = data

    def done() -> bool:
        nonlocal rest
        rest = rest[client.send(rest) :]
        got.extend(server.recv())
        return len(got) == len(data)

    before = wire.time
    wire.until(done)
    assert bytes(got) == data
    assert wire.time - before < 6


@pytest.mark.rfc("5681:3.2-LIMITED-SACK", "6675:2-DUPACK")
def test_a_duplicate_without_news_is_none():
    """RFC 5681 section 3.2, step 1; RFC 6675 section 2: who permits SACK and tells nothing by it has heard nothing."""
    c = sending(Lab())
    for _ in range(5):
        assert acks(c, 0) == []
    assert acks(c, 0, (1, 2)) == [10]
    assert acks(c, 0, (1, 2)) == []
    assert c.tcb["cc"]["dupacks"] == 0


@pytest.mark.rfc("2018:5-LEFT-EDGE", "2018:8-KEPT", "6675:4-KEPT")
def test_what_the_peer_takes_back_is_sent_again():
    """RFC 2018 section 8: it had acknowledged the second segment selectively, and asks for it now."""
    c = sending(Lab())
    acks(c, 0, (1, 10))
    acks(c, 1)
    c.lab.wait(3)
    again = [s for s in c.receives() if s.seq <= 1 + 9 * MSS]
    assert again[0].seq == 1 + MSS
    assert again[0].payload[:MSS] == DATA[MSS : 2 * MSS]


@pytest.mark.rfc("6675:5.1-USE")
def test_what_is_acknowledged_selectively_after_a_timeout_is_not_sent_again():
    """RFC 6675 section 5.1."""
    lab = Lab()
    c = sending(lab)
    lab.wait(1.5)
    assert 0 in sent(c)
    assert 5 not in acks(c, 1, (5, 6)) + acks(c, 5, (5, 6))


@pytest.mark.rfc("6675:5-RESET")
def test_an_acknowledgment_of_new_text_ends_the_counting_of_duplicates():
    """RFC 6675 section 5: two, an advance, and one more are no three."""
    c = sending(Lab())
    assert 0 not in acks(c, 0, (2, 3))
    assert 0 not in acks(c, 0, (2, 3), (4, 5))
    assert 3 not in acks(c, 3, (4, 5))
    assert 3 not in acks(c, 3, (4, 6))


@pytest.mark.parametrize("selectively", [True, False])
def test_what_was_known_to_have_arrived_does_not_open_the_window_when_it_is_acknowledged(selectively: bool):
    """It has let as much go before, out of its turn; else many segments would leave at once."""
    c = sending(Lab(), permitted=NOP + NOP + SACK_PERMITTED if selectively else b"")
    assert acks(c, 0, *[(1, 2)] * selectively) == [10]
    assert acks(c, 0, *[(1, 3)] * selectively) == [11]
    assert acks(c, 3) == [12, 13]  # it was reordering: a segment has left the path, and cwnd grows by that
