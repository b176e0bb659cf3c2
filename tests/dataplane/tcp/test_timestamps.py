"""Timestamps (RFC 7323 sections 3 to 5) and what they decide in TIME-WAIT (RFC 6191)."""

import struct

import pytest

from tests.support.lab import Lab
from tests.support.packet import NOP, Segment, mss, option, read_options
from tests.support.wire import Wire

DATA = bytes(range(256)) * 16
THEIRS = 0xFFFFFF00  # the peer's clock wraps soon


def stamps(value: int, echo: int = 0) -> bytes:
    return NOP + NOP + option(8, struct.pack("!II", value & 0xFFFFFFFF, echo))


def told(segment: Segment) -> tuple[int, int]:
    """TSval and TSecr."""
    value, echo = struct.unpack("!II", read_options(segment.options)[8])
    return value, echo


def accepted(lab: Lab, port: int = 80, value: int = THEIRS, **options):
    """A connection with timestamps, established."""
    c = lab.connection(port, **options)
    c.syn_options = mss(1460) + stamps(value)
    c.listener = lab.listening(port)
    c.sends("S", options=c.syn_options)
    assert told(c.expects("SA"))[1] == value
    c.sends("A", seq=1, options=stamps(value))
    c.socket = lab.program.accept(c.listener)
    lab.run()
    return c


@pytest.mark.rfc("7323:3.2a", "7323:3.2f")
def test_a_syn_offers_them_and_a_syn_ack_only_answers():
    lab = Lab()
    c = lab.connecting()
    assert told(c.expects("S"))[1] == 0
    plain = lab.connection()
    lab.listening()
    plain.sends("S", options=mss(1460))
    assert 8 not in read_options(plain.expects("SA").options)


def test_an_impossible_acknowledgment_does_not_move_the_echo():
    """It is answered (RFC 9293 section 3.10.7.4) and forgotten: who cannot know what we sent must not set our clock."""
    lab = Lab()
    c = accepted(lab)
    c.sends(ack=9999, options=stamps(THEIRS + 200))
    assert told(c.expects("A", ack=1))[1] == THEIRS
    c.sends(data=b"abc", ack=1, options=stamps(THEIRS + 1))
    lab.wait(0.1)
    assert told(c.expects("A", ack=4))[1] == THEIRS + 1


def test_a_peer_that_answers_without_them_gets_none():
    lab = Lab()
    c = lab.connected()
    c.socket.send(b"abc")
    lab.run()
    assert read_options(c.expects("A", data=b"abc").options) == {}


@pytest.mark.rfc("7323:3.2b", "7323:5.4a")
def test_every_segment_has_them_and_they_go_by_milliseconds():
    lab = Lab()
    c = accepted(lab)
    c.socket.send(b"abc")
    lab.run()
    first, echo = told(c.expects("A", data=b"abc"))
    assert echo == THEIRS
    c.sends(ack=4, options=stamps(THEIRS + 5))
    lab.wait(1.5)
    c.socket.send(b"def")
    lab.run()
    assert told(c.expects("A", data=b"def")) == ((first + 1500) & 0xFFFFFFFF, THEIRS + 5)
    c.socket.shutdown()
    lab.run()
    told(c.expects("FA"))


@pytest.mark.rfc("9293:MUST-16")
def test_text_leaves_room_for_them():
    """RFC 6691: the MSS does not count options."""
    lab = Lab()
    c = accepted(lab)
    c.socket.send(DATA[:1449])
    lab.run()
    c.expects("A", length=1448)


def test_two_full_segments_are_acknowledged_at_once():
    """They are shorter than the MSS by the timestamps (RFC 9293 section 3.8.6.3)."""
    c = accepted(Lab())
    c.sends(data=DATA[:1448], options=stamps(THEIRS + 1))
    c.expects_nothing()
    c.sends(data=DATA[1448:2896], options=stamps(THEIRS + 2))
    c.expects("A", ack=2897)


@pytest.mark.rfc("7323:4.3")
def test_a_delayed_ack_echoes_the_first_segment_it_acknowledges():
    """RFC 7323 section 4.3 (2)."""
    lab = Lab()
    c = accepted(lab)
    c.sends(data=DATA[:100], options=stamps(THEIRS + 1))
    c.sends(data=DATA[100:200], options=stamps(THEIRS + 7))
    lab.wait(0.1)
    assert told(c.expects("A", ack=201))[1] == THEIRS + 1


@pytest.mark.rfc("7323:4.3")
def test_what_lies_beyond_a_gap_is_not_echoed():
    lab = Lab()
    c = accepted(lab)
    c.sends(seq=101, data=DATA[100:200], options=stamps(THEIRS + 9))
    assert told(c.expects("A", ack=1))[1] == THEIRS
    c.sends(seq=1, data=DATA[:100], options=stamps(THEIRS + 12))
    assert told(c.expects("A", ack=201))[1] == THEIRS + 12


@pytest.mark.rfc("7323:5.2a", "7323:5.3a", "7323:5.3b")
def test_an_old_timestamp_is_answered_and_dropped():
    """PAWS (section 5.3, R1): though the sequence number is right."""
    lab = Lab()
    c = accepted(lab)
    c.sends(data=DATA[:100], options=stamps(THEIRS + 300))  # wrapped: it is later
    lab.wait(0.1)
    c.expects("A", ack=101)
    c.sends(data=b"old" * 10, options=stamps(THEIRS + 299))
    c.expects("A", ack=101)
    assert c.socket.recv() == DATA[:100]
    c.sends(seq=101, data=DATA[100:200], options=stamps(THEIRS + 300))
    lab.wait(0.1)
    assert c.socket.recv() == DATA[100:200]


@pytest.mark.rfc("7323:5.5")
def test_after_24_days_of_silence_a_timestamp_says_nothing():
    """Section 5.5."""
    lab = Lab()
    c = accepted(lab)
    lab.wait(24 * 86400 + 1)
    c.sends(data=DATA[:100], options=stamps(THEIRS - 5))
    lab.wait(0.1)
    assert c.socket.recv() == DATA[:100]


@pytest.mark.rfc("7323:3.2d", "7323:3.2e")
def test_a_segment_that_has_lost_them_is_dropped():
    """Section 3.2."""
    lab = Lab()
    c = accepted(lab)
    c.sends(seq=1, data=DATA[:100])
    lab.wait(1)
    c.expects_nothing()
    assert lab.drops("sequence") == 1


@pytest.mark.rfc("7323:5.2b")
def test_a_reset_needs_none():
    """Section 5.2."""
    c = accepted(Lab())
    c.sends("R", seq=1)
    assert c.state == "CLOSED"


@pytest.mark.rfc("7323:3.2g")
def test_on_a_connection_without_them_they_say_nothing():
    """RFC 7323 section 3.2: the segment is taken as ever, however old it looks, and its echo is none."""
    lab = Lab()
    c = lab.accepted()
    for value in (1000, 0, 0x80000000):
        c.sends(data=b"x", options=stamps(value, 12345))
    assert c.socket.recv() == b"xxx"
    lab.wait(0.1)
    assert all(read_options(s.options) == {} for s in c.receives())


@pytest.mark.rfc("7323:3.2h")
def test_the_echo_of_a_syn_says_nothing():
    """RFC 7323 section 3.2: nothing has been sent that could be echoed."""
    lab = Lab()
    c = lab.connection()
    lab.listening()
    c.sends("S", options=mss(1460) + stamps(THEIRS, 12345))
    c.expects("SA")
    assert c.tcb["rtt"]["srtt"] == 0
    assert c.tcb["rtt"]["rto"] == 1_000_000


@pytest.mark.rfc("7323:5.2c")
def test_a_reset_that_is_not_believed_does_not_move_the_echo():
    """RFC 7323 section 5.2."""
    lab = Lab()
    c = accepted(lab)
    c.sends("R", seq=100, options=stamps(THEIRS + 1000))
    c.receives()
    c.sends(data=b"abc", options=stamps(THEIRS + 1))
    lab.wait(0.1)
    assert c.socket.recv() == b"abc"
    assert told(c.receives()[-1])[1] == THEIRS + 1


@pytest.mark.rfc("9293:MUST-5")
def test_they_may_stand_anywhere_among_the_options():
    lab = Lab()
    c = accepted(lab)
    odd = option(254, b"xy") + option(8, struct.pack("!II", THEIRS + 3 & 0xFFFFFFFF, 0)) + NOP + NOP
    c.sends(data=DATA[:3000], options=odd)
    lab.wait(0.1)
    assert told(c.receives()[-1])[1] == THEIRS + 3


def in_time_wait(lab: Lab):
    c = accepted(lab, peer_port=5000)
    c.socket.shutdown()
    lab.run()
    c.expects("FA")
    c.sends("FA", seq=1, ack=2, options=stamps(THEIRS + 1))
    c.expects("A")
    assert c.state == "TIME_WAIT"
    return c


def syn_again(lab: Lab, c, iss: int, value: int):
    again = lab.connection(peer_port=5000, iss=iss)
    again.sends("S", options=mss(1460) + stamps(value))
    return again


@pytest.mark.rfc("9293:SHLD-4", "6191:2a")
def test_a_later_timestamp_opens_a_flow_in_time_wait_anew():
    """RFC 6191 section 2: though its number is lower."""
    lab = Lab()
    c = in_time_wait(lab)
    last = told_before(lab, c)
    again = syn_again(lab, c, c.iss - 5000, THEIRS + 2)
    assert (told(again.expects("SA"))[0] - last) & 0xFFFFFFFF < 1 << 31  # ours go on, too


def told_before(lab: Lab, c) -> int:
    c.sends("FA", seq=1, ack=2, options=stamps(THEIRS + 1))
    return told(c.expects("A"))[0]


@pytest.mark.rfc("6191:2c")
def test_an_earlier_timestamp_does_not_though_its_number_is_higher():
    lab = Lab()
    c = in_time_wait(lab)
    again = syn_again(lab, c, c.iss + 70000, THEIRS)
    again.irs = c.irs
    again.expects("A")
    assert c.state == "TIME_WAIT"


@pytest.mark.rfc("6191:2f")
@pytest.mark.parametrize(("ahead", "opens"), [(70000, True), (-70000, False)])
def test_a_syn_without_them_leaves_it_to_the_number(ahead: int, opens: bool):
    lab = Lab()
    c = in_time_wait(lab)
    again = lab.connection(80, peer_port=c.peer_port, iss=(c.iss + ahead) & 0xFFFFFFFF)
    again.sends("S", options=mss(1460))
    if not opens:
        again.irs = c.irs
    again.expects("SA" if opens else "A")


def test_both_ends_ours_use_them():
    wire = Wire()
    client, server = wire.connect()
    for host in (wire.a, wire.b):
        (found,) = host.engine.connections()
        assert host.engine.tcb(found["index"])["stamps"]["recent"] != 0
        assert host.engine.tcb(found["index"])["snd"]["mss"] == 1448


@pytest.mark.rfc("7323:3.2c")
def test_our_reset_has_them():
    lab = Lab()
    c = accepted(lab)
    c.socket.abort()
    lab.run()
    assert told(c.expects("RA"))[1] == THEIRS


@pytest.mark.rfc("7323:5.4b")
def test_flows_have_clocks_of_their_own():
    """RFC 7323 section 5.4: nobody learns from one connection how long the host runs, or where another stands."""
    lab = Lab()
    clocks = [told(lab.connecting(port).expects("S"))[0] for port in range(80, 90)]
    assert max(clocks) - min(clocks) > 1 << 28


@pytest.mark.parametrize("ahead, opens", [(70000, True), (-5000, False)])
@pytest.mark.rfc("6191:2b")
def test_the_same_timestamp_leaves_it_to_the_number(ahead, opens):
    lab = Lab()
    c = in_time_wait(lab)
    told_before(lab, c)
    again = syn_again(lab, c, c.iss + ahead, THEIRS + 1)
    assert again.expects().flags == ("SA" if opens else "A")
