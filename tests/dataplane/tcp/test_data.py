"""Data both ways in order: RFC 9293 sections 3.7 (segmentation) and 3.10.7.4 (seventh: the segment text)."""

import pytest

from tests.support.lab import Lab
from tests.support.layout import neat
from tests.support.packet import mss
from tests.support.wire import Wire


def pattern(length: int) -> bytes:
    """Bytes in which a shift of a few places is visible."""
    return b"".join(n.to_bytes(4, "big") for n in range(length // 4 + 1))[:length]


def test_received_data_reaches_the_program():
    lab = Lab()
    c = lab.accepted()
    lab.program.events()
    c.sends("PA", data=b"hello ")
    c.sends("PA", data=b"world")
    assert c.socket.recv() == b"hello world"
    assert lab.program.events() == [(neat.OP_LOOK, c.socket.number, 1)], "one entry until it is taken"


def test_sent_data_reaches_the_peer():
    lab = Lab()
    c = lab.accepted()
    c.socket.send(b"hello")
    lab.run()
    c.expects("A", seq=1, ack=1, data=b"hello", push=True)
    assert c.socket.unacknowledged == 5
    lab.program.events()
    c.sends(ack=6)
    assert c.socket.unacknowledged == 0


def test_an_answer_carries_the_acknowledgment():
    lab = Lab()
    c = lab.accepted()
    c.sends(data=b"question")
    c.expects_nothing()
    c.socket.recv()
    c.socket.send(b"answer")
    lab.run()
    c.expects("A", ack=9, data=b"answer")
    lab.wait(1)
    assert [s for s in c.receives() if not s.payload] == [], "the ACK went with the data"


@pytest.mark.parametrize("length", [1, 1459, 1460, 1461, 2920, 14600])
@pytest.mark.rfc("9293:MUST-61")
def test_segmentation_by_mss(length):
    lab = Lab()
    c = lab.accepted()
    data = pattern(length)
    c.socket.send(data)
    lab.run()
    segments = c.receives()
    assert b"".join(s.payload for s in segments) == data
    assert all(len(s.payload) == 1460 for s in segments[:-1])
    assert "P" in segments[-1].flags


@pytest.mark.parametrize("offered,used", [(None, 536), (536, 536), (900, 900), (1460, 1460), (9000, 1460)])
@pytest.mark.rfc("9293:MUST-14", "9293:MUST-15", "9293:MUST-16", "1191:3.1a", "1191:3.1c")
def test_the_peers_mss_is_respected(offered, used):
    """RFC 9293 section 3.7.1: 536 when the option is missing; never more than the MTU allows."""
    lab = Lab()
    c = lab.accepted(mss=offered)
    c.socket.send(pattern(4000))
    lab.run()
    assert len(c.receives()[0].payload) == used


@pytest.mark.parametrize("tiny", [0, 1, 40])
def test_a_tiny_mss_does_not_make_thousands_of_segments(tiny):
    """An MSS below what any link needs is an attack; Linux's floor is 48 less options, ours may be higher."""
    lab = Lab()
    c = lab.connection(mss=tiny)
    listener = lab.listening()
    c.sends("S", options=mss(tiny))
    c.expects("SA")
    c.sends("A")
    socket = lab.program.accept(listener)
    socket.send(pattern(4000))
    lab.run()
    segments = c.receives()
    assert segments
    assert len(segments[0].payload) >= 36


def test_tcp_maxseg_lowers_what_is_announced_and_sent():
    lab = Lab()
    c = lab.connecting(lines={"mss": 1000})
    assert c.expects("S").mss == 1000
    c.sends("SA", ack=1, options=c.syn_options)
    c.expects("A")
    c.socket.send(pattern(3000))
    lab.run()
    assert c.expects("A").payload == pattern(3000)[:1000]


def test_bytes_survive_the_rings_wrapping_many_times():
    lab = Lab(rings=4096)
    c = lab.accepted(window=65535)
    sent, got, received = b"", b"", b""
    data = pattern(100_000)
    for offset in range(0, len(data), 1000):
        piece = data[offset : offset + 1000]
        assert c.socket.send(piece) == 1000
        lab.run()
        got += b"".join(s.payload for s in c.receives())
        c.sends(data=piece)
        received += c.socket.recv()
        sent += piece
    assert got == received == sent == data


def test_a_send_larger_than_the_ring_goes_on_as_it_is_acknowledged():
    lab = Lab(rings=8192)
    c = lab.accepted()
    data, taken, got = pattern(50_000), 0, b""
    for _ in range(100):
        taken += c.socket.send(data[taken:])
        lab.run()
        got += b"".join(s.payload for s in c.receives())
        c.sends(ack=c.heard)
        if len(got) == len(data):
            break
    assert got == data


@pytest.mark.rfc("5681:2-WINDOW")
def test_the_congestion_window_limits_the_first_flight():
    """RFC 6928: ten segments at first; what is acknowledged lets more go."""
    lab = Lab()
    c = lab.accepted()
    c.socket.send(pattern(60_000))
    lab.run()
    flight = sum(len(s.payload) for s in c.receives())
    assert 2 * 1460 <= flight <= 10 * 1460
    c.sends(ack=1 + flight)
    assert sum(len(s.payload) for s in c.receives()) > flight


def test_urgent_data_is_delivered_in_line():
    """RFC 6093 section 3.2: the pointer is ignored, the bytes are part of the stream."""
    lab = Lab()
    c = lab.accepted()
    for pointer in (0, 1, 3, 65535):
        c.sends("PAU", data=b"abc", urgent=pointer)
    assert c.socket.recv() == b"abc" * 4


def test_data_acknowledging_nothing_new_twice_is_delivered_once():
    lab = Lab()
    c = lab.accepted()
    c.sends(data=b"once")
    c.sends(seq=1, data=b"once")
    c.expects("A", ack=5)
    assert c.socket.recv() == b"once"


def test_a_segment_without_ack_is_dropped():
    """3.10.7.4, fifth: if the ACK bit is off, drop the segment."""
    lab = Lab()
    c = lab.accepted()
    c.sends("P", data=b"no", seq=1)
    c.nxt = 1
    assert c.socket.readable == 0
    c.sends(data=b"yes")
    assert c.socket.recv() == b"yes"


@pytest.mark.rfc("5961:5.2a")
def test_an_ack_of_what_was_never_sent():
    """3.10.7.4, fifth, ESTABLISHED: SEG.ACK > SND.NXT: send an ACK, drop the segment."""
    lab = Lab()
    c = lab.accepted()
    c.sends(ack=1000, data=b"evil")
    c.expects("A", seq=1, ack=1)
    c.expects_nothing()
    assert c.socket.readable == 0
    assert c.state == "ESTABLISHED"


def test_many_connections_do_not_mix():
    lab = Lab(max_tcbs=256, sockets=256)
    listener = lab.listening(80)
    peers = []
    for _ in range(100):
        c = lab.accepted(80, listener=listener)
        peers.append(c)
    for n, c in enumerate(peers):
        c.sends(data=f"from {n}".encode())
        c.socket.send(f"to {n}".encode())
    lab.run()
    for n, c in enumerate(peers):
        assert c.socket.recv() == f"from {n}".encode()
        assert b"".join(s.payload for s in c.receives()) == f"to {n}".encode()


def test_a_megabyte_each_way_between_two_stacks():
    wire = Wire()
    left, right = wire.connect()
    data = pattern(1_000_000)
    at = {left: 0, right: 0}
    got = {left: bytearray(), right: bytearray()}

    def act() -> bool:
        for socket in (left, right):
            if at[socket] < len(data):
                at[socket] += socket.send(data[at[socket] : at[socket] + 65536])
            got[socket] += socket.recv()
        return all(len(g) == len(data) for g in got.values())

    wire.until(act, limit=60)
    assert got[left] == got[right] == data
