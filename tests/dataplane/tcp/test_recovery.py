"""Fast retransmit and fast recovery: RFC 5681 section 3.2, RFC 6582 (NewReno)."""

import pytest

from tests.support.lab import Connection, Lab

MSS = 1460


def flight(lab: Lab, segments: int) -> Connection:
    """A connection with this many full segments in flight and more waiting."""
    c = lab.accepted(window=65535, wscale=7)
    c.window = 65535
    c.socket.send(bytes(range(250)) * 240)
    lab.run()
    while len(lab.left) < segments:
        acked = c.heard or 1
        got = c.receives()
        acked = max(s.seq + len(s.payload) for s in got)
        c.sends(ack=acked)
        assert lab.left, "the congestion window does not grow"
    return c


@pytest.mark.rfc("5681:3.2-FAST-RETRANSMIT", "5681:3.2-RETRANSMIT", "5681:2-DUPLICATE", "5681:3.1-REDUCED")
def test_three_duplicate_acks_retransmit_the_lost_segment():
    """RFC 5681 section 3.2, step 2: not after two."""
    lab = Lab()
    c = flight(lab, 10)
    sent = c.receives()
    una = sent[0].seq
    for _ in range(2):
        c.sends(ack=una)
    assert all(s.seq >= sent[-1].seq + MSS for s in c.receives()), "limited transmit (RFC 3042) sends new data only"
    c.sends(ack=una)
    again = c.expects("A", seq=una)
    assert again.payload == sent[0].payload
    assert lab.engine.counters()["retransmits"] == 1


@pytest.mark.rfc("9438:4.6-at-once")
def test_the_windows_after_fast_retransmit():
    """Step 2, ssthresh by CUBIC's 0.7; cwnd lets no more go at once than the segment that is sent again (RFC 9937)."""
    lab = Lab()
    c = flight(lab, 10)
    sent = c.receives()
    una, end = sent[0].seq, sent[-1].seq + len(sent[-1].payload)
    for _ in range(3):
        c.sends(ack=una)
    cc = c.tcb["cc"]
    assert cc["ssthresh"] == (end - una) * 7 // 10
    assert [s.seq for s in c.receives() if s.seq < end] == [una]
    assert cc["cwnd"] == c.tcb["snd"]["max"] - c.tcb["snd"]["una"]


def test_each_further_duplicate_ack_inflates_and_lets_new_data_go():
    """Step 4."""
    lab = Lab()
    c = flight(lab, 10)
    sent = c.receives()
    una = sent[0].seq
    for _ in range(9):
        c.sends(ack=una)
    new = [s for s in c.receives() if s.seq > una]
    assert new
    assert all(s.seq >= sent[-1].seq + MSS for s in new)


@pytest.mark.rfc("5681:3.2-DEFLATE", "6582:3.2-3-FULL")
def test_a_full_acknowledgment_ends_recovery():
    """RFC 6582 section 3.2, step 3: cwnd is deflated to ssthresh, or to flight + a segment."""
    lab = Lab()
    c = flight(lab, 10)
    sent = c.receives()
    una = sent[0].seq
    for _ in range(3):
        c.sends(ack=una)
    ssthresh = c.tcb["cc"]["ssthresh"]
    c.receives()
    c.sends(ack=c.heard)
    cc = c.tcb["cc"]
    assert cc["cwnd"] <= max(ssthresh, 2 * MSS)
    assert cc["dupacks"] == 0
    assert c.receives(), "and sending goes on"


@pytest.mark.rfc("6582:3.2-3-PARTIAL", "5681:4.3-ADVANCED")
def test_a_partial_acknowledgment_retransmits_the_next_hole():
    """RFC 6582 section 3.2, step 3: without waiting for three more duplicates."""
    lab = Lab()
    c = flight(lab, 10)
    sent = c.receives()
    una = sent[0].seq
    for _ in range(3):
        c.sends(ack=una)
    assert una in [s.seq for s in c.receives()]
    c.sends(ack=sent[3].seq)  # the fourth is lost too
    again = c.receives()
    assert again[0].seq == sent[3].seq
    assert again[0].payload == sent[3].payload
    c.sends(ack=sent[6].seq)
    assert c.receives()[0].seq == sent[6].seq


@pytest.mark.rfc("6582:3.2-2")
def test_recovery_is_entered_once_for_a_window():
    """RFC 6582 section 3.2, step 1: duplicates that do not cover `recover` start nothing."""
    lab = Lab()
    c = flight(lab, 10)
    sent = c.receives()
    una = sent[0].seq
    for _ in range(3):
        c.sends(ack=una)
    for _ in range(3):
        c.sends(ack=una)
    assert [s.seq for s in c.receives()].count(una) == 1


@pytest.mark.rfc("5681:2-DUPLICATE")
def test_what_is_no_duplicate_ack():
    """RFC 5681 section 2: with data, with another window, or with nothing in flight, an ACK is no duplicate."""
    lab = Lab()
    c = flight(lab, 10)
    sent = c.receives()
    una = sent[0].seq
    for _ in range(6):
        c.sends(ack=una, data=b"x")
        assert una not in [s.seq for s in c.receives() if s.payload]
    for n in range(6):
        c.sends(ack=una, window=60000 - n)
        assert una not in [s.seq for s in c.receives() if s.payload]


def test_duplicate_acks_with_nothing_in_flight_mean_nothing():
    lab = Lab()
    c = lab.accepted()
    for _ in range(10):
        c.sends()
    c.expects_nothing()
    assert c.tcb["cc"]["dupacks"] == 0


def test_a_lost_retransmission_is_found_by_the_timer():
    lab = Lab()
    c = flight(lab, 10)
    sent = c.receives()
    una = sent[0].seq
    for _ in range(5):
        c.sends(ack=una)
    c.receives()
    lab.wait(1.5)
    assert c.receives()[0].seq == una
    c.sends(ack=sent[1].seq)
    lab.wait(1.5)
    assert sent[1].seq in [s.seq for s in c.receives()]


@pytest.mark.rfc("5681:3.1-USED", "5681:3-ALGORITHMS")
def test_slow_start_and_congestion_avoidance():
    """RFC 5681 section 3.1: an MSS for each ACK below ssthresh; about an MSS for each round trip above."""
    lab = Lab(rings=1 << 20)
    c = lab.accepted(window=65535, wscale=7)

    def round_trip() -> int:
        total = 0
        for segment in c.receives():
            total += len(segment.payload)
            c.sends(ack=segment.seq + len(segment.payload))
            c.socket.send(b"x" * 65536)
        lab.run()
        return total

    c.socket.send(b"x" * 65536)
    lab.run()
    rounds = [round_trip() for _ in range(4)]
    assert rounds[0] == 10 * MSS
    assert rounds[1] == 2 * rounds[0]
    assert rounds[2] == 2 * rounds[1]


@pytest.mark.parametrize(("used", "grown"), [(5, 10), (6, 12), (9, 18), (10, 20)])
@pytest.mark.rfc("5681:3.1-USED")
def test_the_window_grows_to_twice_what_was_used_of_it_however_it_is_acknowledged(used: int, grown: int):
    """As on Linux: the last ACKs of a flight count as the first ones do, though the user sends no more."""
    lab = Lab()
    c = lab.accepted()
    for _ in range(3):
        c.socket.send(b"x" * used * MSS)
        lab.run()
        for segment in c.receives():
            c.sends(ack=segment.seq + len(segment.payload))
        assert c.tcb["cc"]["cwnd"] == grown * MSS


@pytest.mark.rfc("5681:3.1-HANDSHAKE")
@pytest.mark.parametrize("opened", ["accepted", "connected"])
def test_the_handshake_does_not_open_the_window(opened: str):
    """RFC 5681 section 3.1: neither the SYN-ACK nor its acknowledgment counts as one of text."""
    c = getattr(Lab(), opened)()
    assert c.tcb["cc"]["cwnd"] == 10 * MSS


def limited(segments: int = 10) -> tuple[Connection, int, int]:
    """A flight that fills the congestion window, its start and its end; more text waits."""
    c = Lab(rings=1 << 20).accepted(window=65535, wscale=7)
    c.socket.send(b"x" * 40 * MSS)
    c.lab.run()
    sent = c.receives()
    assert len(sent) == segments
    return c, sent[0].seq, sent[-1].seq + MSS


@pytest.mark.rfc("5681:3.2-LIMITED", "5681:3.2-LIMITED-BOUND", "5681:3.2-LIMITED-CWND")
def test_the_first_two_duplicates_let_a_segment_each_go():
    """RFC 5681 section 3.2, step 1 (RFC 3042): beyond the congestion window, which stays what it is."""
    c, una, end = limited()
    for n in range(2):
        c.sends(ack=una)
        assert [s.seq for s in c.receives()] == [end + n * MSS]
        assert c.tcb["cc"]["cwnd"] == 10 * MSS


@pytest.mark.rfc("5681:3.2-LIMITED-BOUND")
def test_limited_transmit_keeps_to_the_peers_window():
    c, una, end = limited()
    room = end - una >> 7
    c.sends(ack=una, window=room)
    for _ in range(2):
        c.sends(ack=una, window=room)
    c.expects_nothing()


@pytest.mark.rfc("5681:3.2-NEW")
def test_new_text_goes_in_recovery_as_the_window_lets_it():
    """RFC 5681 section 3.2, step 5."""
    c, una, _ = limited()
    for _ in range(12):
        c.sends(ack=una)
    assert any(s.seq > una + 12 * MSS for s in c.receives())


@pytest.mark.rfc("5681:4.3-TWICE")
def test_a_loss_in_the_next_window_reduces_again():
    """RFC 5681 section 4.3: of two windows of text each has lost something."""
    c, una, _ = limited()
    for _ in range(3):
        c.sends(ack=una)
    first = c.tcb["cc"]["ssthresh"]
    c.receives()
    c.sends(ack=c.heard)
    sent = c.receives()
    assert sent and not c.tcb["cc"]["dupacks"]
    for _ in range(3):
        c.sends(ack=sent[0].seq)
    assert c.tcb["cc"]["ssthresh"] < first
    assert sent[0].seq in [s.seq for s in c.receives()]


def test_a_window_that_was_used_once_does_not_grow_by_what_does_not_use_it():
    """The whole flight that has used it counts; what is sent after that shows only what itself is."""
    lab = Lab(rings=1 << 20)
    c = lab.accepted(window=65535, wscale=7)
    windows = []

    def flight(segments: int, lost: bool = False) -> None:
        c.socket.send(b"x" * segments * MSS)
        lab.run()
        left = c.receives()
        for segment in left:
            c.sends(ack=left[0].seq if lost else segment.seq + len(segment.payload))
        while lost or c.tcb["snd"]["una"] != c.tcb["snd"]["max"]:
            lost = False
            c.receives()
            c.sends(ack=c.tcb["snd"]["max"] - c.irs & 0xFFFFFFFF)
        c.receives()
        lab.wait(0.1)
        windows.append(c.tcb["cc"]["cwnd"])

    flight(10, lost=True)  # slow start is over
    flight(10)
    for _ in range(20):
        flight(2)
    assert windows[1] > windows[0] and set(windows[2:]) == {windows[1]}


@pytest.mark.rfc("5681:4.1-RESTART")
@pytest.mark.parametrize(("pause", "segments"), [(0.0, 20), (5.0, 10)])
def test_who_has_sent_nothing_for_long_begins_with_the_initial_window(pause: float, segments: int):
    """RFC 5681 section 4.1: the path may have changed, and no ACKs are on their way to space out what goes."""
    lab = Lab(rings=1 << 20)
    c = lab.accepted(window=65535, wscale=7)
    c.socket.send(b"x" * 10 * MSS)
    lab.run()
    for segment in c.receives():
        c.sends(ack=segment.seq + len(segment.payload))
    lab.wait(pause)
    c.receives()
    c.socket.send(b"x" * 100 * MSS)
    lab.run()
    assert sum(len(s.payload) for s in c.receives()) == segments * MSS
