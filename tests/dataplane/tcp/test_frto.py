"""Timeouts that were not needed: F-RTO (RFC 5682), and what a lost SYN means for the text (RFC 6298, RFC 5681)."""

import pytest

from tests.dataplane.tcp.test_scoreboard import DATA, MSS, ROUND_TRIP, acks, sending, sent
from tests.support.lab import Lab


def late(lab: Lab):
    """Ten segments and a probe were sent; nothing came back until the timer fired, and the first was sent again."""
    c = sending(lab)
    window = c.tcb["cc"]["cwnd"]
    lab.wait(0.4)
    assert sent(c) == [10, 0]
    assert c.tcb["cc"]["cwnd"] == MSS < window
    return c, window


@pytest.mark.rfc("5682:3.1-STEP-1", "4015:2-DETECTION", "4015:3.1-RESUME")
@pytest.mark.rfc("5682:3.1-STEP-3")
@pytest.mark.rfc("4015:3.1-RESTORE")
def test_a_timeout_after_which_the_first_sending_is_acknowledged_is_undone():
    c, window = late(Lab())
    assert acks(c, 1) == [11, 12]  # new text
    assert [n for n in acks(c, 2) if n < 11] == []
    assert c.tcb["cc"]["cwnd"] >= window
    assert c.tcb["cc"]["ssthresh"] >= window
    assert [n for n in acks(c, 11) if n < 11] == []


@pytest.mark.rfc("5682:3.1-STEP-3")
def test_a_selective_acknowledgment_of_it_tells_as_well():
    c, window = late(Lab())
    acks(c, 1)
    acks(c, 1, (4, 5))
    assert c.tcb["cc"]["cwnd"] >= window


@pytest.mark.rfc("9438:4.9-restore")
def test_what_cubic_aims_at_is_restored_too():
    """RFC 9438 section 4.9.2: the window of the last loss that was one."""
    c = sending(Lab())
    acks(c, 0, (1, 6))
    acks(c, 10)
    aim = c.tcb["cc"]["w_max"], c.tcb["cc"]["cwnd_prior"]
    assert all(aim)
    c.lab.wait(0.4)
    assert sent(c) == [17, 10]
    assert c.tcb["cc"]["w_max"] == 0
    acks(c, 11)
    acks(c, 12)
    assert (c.tcb["cc"]["w_max"], c.tcb["cc"]["cwnd_prior"]) == aim


@pytest.mark.rfc("5682:3.1-STEP-2")
def test_a_duplicate_first_says_that_the_timeout_was_needed():
    c, window = late(Lab())
    acks(c, 0, (10, 11))
    assert acks(c, 1)[:1] == [1]
    assert c.tcb["cc"]["cwnd"] < window


@pytest.mark.rfc("5682:3.1-STEP-3", "5682:3.1-STEP-3A")
def test_if_only_new_text_arrives_what_was_lost_is_sent_again():
    c, window = late(Lab())
    assert acks(c, 1) == [11, 12]
    c.lab.wait(ROUND_TRIP)
    assert acks(c, 1, (11, 12))[:1] == [1]
    assert c.tcb["cc"]["cwnd"] < window


@pytest.mark.rfc("5682:3.1-STEP-2")
def test_an_acknowledgment_of_everything_says_nothing():
    c, window = late(Lab())
    acks(c, 11)
    assert c.tcb["cc"]["ssthresh"] < window


@pytest.mark.rfc("5682:3.1-STEP-1", "4015:3.1-ONCE")
def test_a_second_timeout_is_not_undone():
    lab = Lab()
    c, window = late(lab)
    lab.wait(1)
    assert sent(c)[-1] == 0
    acks(c, 1)
    acks(c, 2)
    assert c.tcb["cc"]["ssthresh"] < window


@pytest.mark.rfc("5682:3.1-IN-RECOVERY")
def test_a_timeout_during_recovery_is_not_undone():
    lab = Lab()
    c = sending(lab)
    assert 0 in acks(c, 0, (1, 4))
    reduced = c.tcb["cc"]["ssthresh"]
    lab.wait(1)
    assert sent(c)[-1] == 0
    acks(c, 1)
    acks(c, 4)
    assert c.tcb["cc"]["ssthresh"] <= reduced


@pytest.mark.rfc("5682:3.1-NO-TEXT")
def test_without_room_for_new_text_nothing_tells():
    """RFC 5682 section 3.1, step 2: what was sent goes again then, and an ACK of it may be of either sending.

    The window ends where it did: its program does not read.
    """
    c, window = late(Lab())
    c.window = 10 * MSS
    assert acks(c, 1)[:1] == [1]
    acks(c, 2)
    assert c.tcb["cc"]["ssthresh"] < window


@pytest.mark.rfc("4015:3.1-ECE", "4015:3.1-RESUME")
@pytest.mark.parametrize("marked", [False, True])
def test_a_mark_keeps_the_window_small_though_the_timeout_was_not_needed(marked: bool):
    """RFC 4015 section 3.4; what was on its way does not go again all the same."""
    lab = Lab(ecn=2)
    c = sending(lab, flags="SEC")
    window = c.tcb["cc"]["cwnd"]
    lab.wait(0.4)
    assert sent(c) == [10, 0]
    acks(c, 1)
    c.lab.wait(0.001)
    c.sends("AE" if marked else "A", ack=1 + 2 * MSS, seq=1)
    assert [n for n in sent(c) if n < 11] == []
    assert (c.tcb["cc"]["ssthresh"] >= window) == (not marked)
    assert (c.tcb["cc"]["cwnd"] >= window) == (not marked)
    assert [n for n in acks(c, 4) if n < 11] == []


@pytest.mark.rfc("6298:5.7")
@pytest.mark.rfc("5681:3.1-LOST-SYN")
def test_a_syn_that_was_lost_makes_text_begin_slowly():
    lab = Lab()
    c = lab.connecting()
    c.expects("S")
    lab.wait(1.1)
    c.expects("S")
    c.sends("SA", seq=0, ack=1, options=c.syn_options)
    c.expects("A")
    c.socket.send(DATA[:8000])
    lab.run()
    assert len(c.receives()) == 1
    lab.wait(2.8)
    assert c.receives() == []
    lab.wait(0.4)
    assert len(c.receives()) == 1


def test_the_mark_of_the_last_loss_keeps_pace():
    """Else it would lie ahead again after 2 GiB, and losses would not be seen until it is reached."""
    c = sending(Lab())
    acks(c, 10)
    assert c.tcb["cc"]["recover"] == c.tcb["snd"]["una"]
