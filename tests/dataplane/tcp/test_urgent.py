"""Urgent data (RFC 9293 section 3.8.5, RFC 6093): the pointer goes along both ways, the bytes stay in the stream."""

import struct

import pytest

from tests.support.lab import Lab
from tests.support.layout import neat
from tests.support.packet import NOP, SACK_PERMITTED, mss, option
from tests.support.wire import Faults, Wire


def urgent(socket) -> int | None:
    """The cursor of the urgent byte that the program is told of."""
    return socket.replica.rx_urgent if socket.replica.seen & neat.SEEN_URGENT else None


def send_urgent(socket, data: bytes) -> None:
    """send(MSG_OOB): what the library does."""
    socket.mine.tx_urgent = (socket.mine.tx_head + len(data)) & 0xFFFFFFFF
    socket.mine.flags |= neat.FLAG_URGENT
    socket.send(data)


# ---- receiving ----


@pytest.mark.rfc("9293:MUST-30", "9293:MUST-62")
def test_the_pointer_names_the_byte_after_the_urgent_one():
    """RFC 6093 section 2.1, as every stack has it."""
    lab = Lab()
    c = lab.accepted(80)
    lab.program.events()
    c.sends("AU", data=b"abc!def", urgent=4)
    assert urgent(c.socket) == 3 and c.socket.readable == 7
    assert (neat.OP_LOOK, c.socket.number, 1) in lab.program.events()
    assert c.socket.recv() == b"abc!def"
    c.sends(data=b"more")
    assert urgent(c.socket) is None  # it was read past


@pytest.mark.rfc("9293:MUST-31", "9293:MUST-32", "9293:MUST-33", "9293:MUST-66")
def test_it_is_told_before_the_byte_comes_and_through_a_closed_window():
    """RFC 9293 section 3.8.5: MUST-31 to 33: the user hears of it as soon as the peer says so."""
    lab = Lab(rings=4096)
    c = lab.accepted(80)
    c.sends("AU", data=b"x" * 100, urgent=3000)
    assert urgent(c.socket) == 2999
    for length in (1000, 1000, 1000, 996):
        c.sends(data=b"y" * length)
    assert c.receives()[-1].window == 0
    c.sends("AU", data=b"z", urgent=500)
    assert c.socket.readable == 4096 and urgent(c.socket) == 4096 + 499


@pytest.mark.rfc("9293:MUST-32", "9293:MUST-33")
def test_a_later_pointer_counts_an_earlier_one_does_not():
    lab = Lab()
    c = lab.accepted(80)
    c.sends("AU", data=b"0123456789", urgent=3)
    c.sends("AU", data=b"0123456789", urgent=8)
    assert urgent(c.socket) == 17
    c.sends("AU", seq=1, data=b"0123456789", urgent=5)  # old, and comes again
    assert urgent(c.socket) == 17
    c.sends("AU", data=b"x", urgent=0)
    assert urgent(c.socket) == 20


def test_pointers_beyond_a_gap_and_without_the_flag():
    lab = Lab()
    c = lab.accepted(80)
    c.sends("A", data=b"abc", urgent=2)
    assert urgent(c.socket) is None
    c.sends("AU", seq=10, data=b"later", urgent=5)
    assert urgent(c.socket) == 13
    assert c.socket.recv() == b"abc"


def test_after_the_end_nothing_is_urgent():
    lab = Lab()
    c = lab.accepted(80)
    c.sends("FA", data=b"end")
    c.sends("AU", seq=5, urgent=3)
    assert urgent(c.socket) is None


# ---- sending ----


@pytest.mark.rfc("9293:MUST-30", "9293:MUST-62")
def test_the_segment_points_behind_the_last_urgent_byte():
    lab = Lab()
    c = lab.accepted(80)
    c.socket.send(b"first")
    send_urgent(c.socket, b"!")
    lab.run()
    assert c.expects("AU", data=b"first!", urgent=6)
    c.sends()
    c.socket.send(b"then")
    lab.run()
    assert c.expects("A", data=b"then", urgent=0)


def test_nagle_does_not_hold_it():
    lab = Lab()
    c = lab.accepted(80)
    c.socket.send(b"small")
    lab.run()
    c.expects("A", data=b"small")
    send_urgent(c.socket, b"!")
    lab.run()
    c.expects("AU", data=b"!", urgent=1)


def test_every_segment_before_it_points_there():
    """And none is large, for a device that cuts it up would copy the pointer."""
    lab = Lab(rings=1 << 17)
    c = lab.accepted(80, window=65535)
    send_urgent(c.socket, b"x" * 5000)
    lab.run()
    came = c.receives()
    assert [(len(s.payload), s.urgent) for s in came] == [(1460, 5000), (1460, 3540), (1460, 2080), (620, 620)]
    assert all("U" in s.flags for s in came)
    lab.wait(1.5)  # and again when they are sent again
    again = c.receives()[0]
    assert (again.seq, again.urgent) == (1, 5000)


@pytest.mark.rfc("9293:MUST-31")
def test_what_is_too_far_is_announced_as_far_as_it_goes():
    lab = Lab(rings=1 << 18)
    c = lab.accepted(80, wscale=7, window=2048)
    send_urgent(c.socket, b"x" * 100_000)
    lab.run()
    sent = c.receives()
    assert sent[0].urgent == 65535
    while sent:
        c.sends(ack=max(s.seq + len(s.payload) for s in sent))
        lab.wait(0.01)
        more = c.receives()
        for segment in more:
            if segment.payload:
                assert segment.urgent == min(65535, 100_001 - segment.seq)
        sent = [s for s in more if s.payload]
    assert c.tcb["snd"]["una"] == c.tcb["snd"]["max"]


@pytest.mark.parametrize("lie", [0, 7, 1 << 31, 0xFFFFFFFF])
def test_a_program_that_lies_about_it_hurts_nobody(lie):
    lab = Lab()
    c = lab.accepted(80)
    c.socket.send(b"abc")
    lab.run()
    c.sends(ack=4)
    c.receives()
    c.socket.mine.tx_urgent = lie
    c.socket.mine.flags |= neat.FLAG_URGENT
    c.socket.send(b"def")
    lab.run()
    assert c.expects("A", data=b"def", urgent=0)


@pytest.mark.parametrize("seed", range(4))
def test_over_a_bad_link_the_last_byte_is_known(seed):
    wire = Wire(Faults(loss=0.1, reorder=0.1, duplicate=0.1), seed=seed)
    client, server = wire.connect()
    for part in (b"a" * 3000, b"b" * 4000, b"c" * 10):
        send_urgent(client, part)
    wire.until(lambda: server.readable == 7010)
    assert urgent(server) == 7009
    assert server.recv() == b"a" * 3000 + b"b" * 4000 + b"c" * 10


def test_with_timestamps_and_selective_acknowledgments():
    lab = Lab()
    c = lab.connection(80)
    c.listener = lab.listening(80)
    stamps = option(8, struct.pack("!II", 1, 0))
    c.sends("S", options=mss(1460) + SACK_PERMITTED + stamps + NOP + NOP)
    c.expects("SA")
    c.sends("AU", data=b"q!", urgent=2, options=NOP + NOP + stamps)
    socket = lab.program.accept(c.listener)
    assert urgent(socket) == 1
