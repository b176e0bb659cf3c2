"""The header as it is written and read: RFC 9293 sections 3.1 (header), 3.2 (options), 3.7.1 (MSS)."""

import itertools
import struct

import pytest

from neatstack.dataplane.tcp.options import parse_bytes, syn_bytes
from tests.support.lab import PEER, PEER_MAC, STACK, STACK_MAC, Lab
from tests.support.packet import NOP, SACK_PERMITTED, build_all_ones, mss, option, read_options

MSS, UNKNOWN = mss(1000), option(253, b"?" * 3)


def stamps(value: int = 1) -> bytes:
    return NOP + NOP + option(8, struct.pack("!II", value, 0))


@pytest.mark.rfc("9293:MUST-1")
def test_the_window_is_no_signed_number():
    lab = Lab()
    c = lab.accepted(window=0xC000)
    c.socket.send(b"x" * 14_600)
    lab.run()
    assert sum(len(s.payload) for s in c.receives()) == 14_600


@pytest.mark.rfc("9293:REC-1")
def test_the_largest_window_is_a_gibibyte():
    lab = Lab()
    c = lab.connected(wscale=14)
    c.sends(window=65535)
    assert c.tcb["snd"]["wnd"] == 65535 << 14
    c.socket.send(b"x" * 3000)
    lab.run()
    assert sum(len(s.payload) for s in c.receives()) == 3000


def test_a_checksum_of_zero_may_come_as_all_ones():
    """As Linux writes it where no device sums for it; the sum is the same (RFC 1624 section 3)."""
    lab = Lab()
    c = lab.accepted()
    lab.inject_frame(build_all_ones(c.segment(data=b"text"), source_mac=PEER_MAC, destination_mac=STACK_MAC))
    assert len(c.socket.recv()) == len(b"text") + 2


@pytest.mark.rfc("9293:MUST-2")
def test_every_kind_of_segment_has_its_checksum():
    """The lab's reader sums up whatever leaves."""
    lab = Lab()
    lab.captured = []
    c = lab.accepted()
    c.socket.send(b"odd")
    lab.run()
    c.sends(ack=4)
    c.sends(data=b"x" * 2920)
    lab.connecting(81)
    closed = lab.connection(99)
    closed.sends("S")
    assert c.socket.recv() == b"x" * 2920
    c.socket.close()
    lab.run()
    assert {s.flags for s in lab.captured} == {"S", "SA", "A", "PA", "RA", "FA"}


@pytest.mark.rfc("9293:MUST-64")
@pytest.mark.parametrize("shift", range(5))
def test_options_may_begin_anywhere(shift):
    assert parse_bytes(NOP * shift + MSS + NOP + option(3, b"\x07"))["wscale"] == 7
    lab = Lab()
    lab.listening()
    c = lab.connection()
    c.sends("S", options=NOP * shift + MSS)
    c.expects("SA")
    assert c.tcb["snd"]["mss"] == 1000


@pytest.mark.rfc("9293:MUST-5")
@pytest.mark.parametrize("options", [UNKNOWN, MSS, NOP + NOP + option(5, b"\0" * 8), b"\0" * 40])
def test_options_may_come_in_any_segment(options):
    lab = Lab()
    c = lab.accepted()
    c.sends(data=b"text", options=options)
    assert c.socket.recv() == b"text"
    c.socket.send(b"answer")
    lab.run()
    c.sends(ack=7, options=options)
    assert c.socket.unacknowledged == 0
    assert c.tcb["snd"]["mss"] == 1460
    c.sends("FA", options=options)
    assert c.state == "CLOSE_WAIT"
    c.sends("R", options=options)
    assert c.state == "CLOSED"


@pytest.mark.rfc("9293:MUST-68", "9293:MUST-69")
@pytest.mark.parametrize("scaling, sack", list(itertools.product([False, True], repeat=2)))
def test_ours_have_lengths_and_fill_whole_words(scaling, sack):
    data = syn_bytes(1460, scaling, 7, sack)
    kinds = {2} | ({3} if scaling else set()) | ({4} if sack else set())
    assert len(data) % 4 == 0
    assert set(read_options(data)) == kinds


@pytest.mark.rfc("9293:MUST-65", "9293:MUST-68", "9293:MUST-69")
def test_only_syns_say_an_mss():
    """And what the others have, selective acknowledgments beside timestamps, is well-formed too."""
    lab = Lab()
    lab.captured = []
    listener = lab.listening()
    c = lab.connection()
    c.sends("S", options=MSS + SACK_PERMITTED + stamps())
    c.expects("SA")
    c.sends("A", options=stamps(2))
    socket = lab.program.accept(listener)
    c.sends(seq=101, data=b"later", options=stamps(3))
    socket.send(b"x" * 2500)
    socket.shutdown()
    lab.run()
    assert len(lab.captured) >= 4
    for segment in lab.captured:
        kinds = set(read_options(segment.options))
        assert (2 in kinds) == ("S" in segment.flags), segment
        assert 8 in kinds
    assert any(5 in read_options(s.options) for s in lab.captured)


@pytest.mark.rfc("9293:MUST-14", "9293:SHLD-5", "9293:MAY-3", "9293:MUST-67")
@pytest.mark.parametrize("mtu", [576, 1280, 1500, 9000])
def test_the_mss_announced_is_what_the_device_takes(mtu):
    lab = Lab(mtu=mtu)
    c = lab.connecting()
    assert c.expects("S").mss == mtu - 40
    lab.listening()
    d = lab.connection()
    d.sends("S")
    assert d.expects("SA").mss == mtu - 40


@pytest.mark.rfc("9293:SHLD-27", "9293:SHLD-28", "9293:MAY-16")
def test_what_was_sent_in_pieces_leaves_in_full_segments():
    lab = Lab()
    c = lab.accepted()
    for _ in range(30):
        c.socket.send(b"y" * 100)
    lab.run()
    assert [(len(s.payload), s.flags) for s in c.receives()] == [(1460, "A"), (1460, "A"), (80, "PA")]


@pytest.mark.rfc("9293:MUST-44", "9293:MUST-45", "1122:own-source", "1122:broadcast-source")
def test_a_connection_is_opened_from_our_address_and_keeps_it():
    lab = Lab()
    lab.captured = []
    c = lab.connecting()
    assert c.expects("S").source == STACK
    lab.wait(2)  # and when it is sent again
    c.receives()
    c.sends("SA", ack=1)
    c.socket.send(b"text")
    c.socket.close()
    lab.run()
    assert len(lab.captured) >= 4
    assert {(s.source, s.destination) for s in lab.captured} == {(STACK, PEER)}


@pytest.mark.rfc("1191:3a")
def test_no_router_may_cut_up_a_segment():
    """RFC 1191 section 3: DF on every one."""
    lab = Lab()
    c = lab.accepted()
    c.socket.send(b"x" * 3000)
    lab.program.connect(PEER, 81)
    lab.engine.run()
    frames = [frame for frame, _ in lab.engine.output()]
    assert len(frames) >= 2 and all(frame[20] & 0xE0 == 0x40 for frame in frames)
