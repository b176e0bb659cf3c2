"""Windows: RFC 9293 section 3.8.6 (managing the window), RFC 7323 section 2 (scaling), silly windows (3.8.6.2)."""

import random

import pytest

from tests.support.lab import Lab
from tests.support.wire import Faults, Wire

RING = 65536


def test_the_offered_window_is_the_room_in_the_ring():
    lab = Lab(rings=RING)
    c = lab.accepted()
    c.sends(data=b"x" * 1460)
    c.sends(data=b"x" * 1460)
    assert c.expects("A", ack=2921).window in (RING - 2920, 65535 - 2920)


@pytest.mark.rfc("7323:2.3a")
def test_a_scaled_window_is_read_and_written_scaled():
    """RFC 7323 section 2.3: every window but a SYN's is shifted."""
    lab = Lab(rings=1 << 20)
    listener = lab.listening()
    c = lab.connection(wscale=4, window=100)
    c.sends("S", options=c.syn_options, window=65535)
    shift = c.expects("SA").wscale
    assert 65535 << shift >= 1 << 20
    c.sends("A", window=100)  # 1600 bytes
    socket = lab.program.accept(listener)
    socket.set(receive_buffer=1 << 20)
    socket.send(b"x" * 5000)
    lab.run()
    assert sum(len(s.payload) for s in c.receives()) <= 1600
    c.sends(data=b"y" * 1460, window=100)
    c.sends(data=b"y" * 1460, window=100)
    lab.wait(0.1)
    acks = [s for s in c.receives() if s.ack == 2921]
    assert acks
    assert (1 << 20) - 2920 - (1 << shift) < acks[-1].window << shift <= (1 << 20) - 2920


@pytest.mark.rfc("7323:2.3a")
def test_a_window_of_a_gibibyte():
    """RFC 7323 section 2.3: the largest shift is 14. Text comes at its far end, and then all before."""
    size, far = 1 << 30, 1_000_000_000
    lab = Lab(rings=size, sockets=16, receive_shift=14)
    c = lab.accepted(wscale=0)
    c.socket.set(receive_buffer=size)
    c.sends(data=b"a" * 1000)
    c.sends(data=b"a" * 1000)
    lab.wait(0.1)
    assert c.receives()[-1].window << 14 > size - (1 << 15)
    c.sends(data=b"z" * 1000, seq=far)
    c.expects("A", ack=2001)
    assert c.tcb["rcv"]["ranges"] == 1
    c.sends(data=b"out", seq=1 + size)
    c.expects("A", ack=2001)
    assert c.tcb["rcv"]["ranges"] == 1
    assert c.socket.recv() == b"a" * 2000


def test_more_than_64_mebibytes_on_their_way():
    """A long path with a high rate: both ends ours."""
    wire = Wire(Faults(delay=0.5), rings=1 << 29, sockets=16, offload=True, receive_shift=14)
    client, server = wire.connect()
    total, most, received = 320 << 20, 0, 0
    text = random.Random(1).randbytes(1 << 20) * 320
    assert client.send(text) == total

    def done() -> bool:
        nonlocal most, received
        most = max(most, client.replica.tx_sent - client.replica.tx_tail)
        data = server.recv()
        assert data == text[received : received + len(data)]
        received += len(data)
        return received == total

    wire.until(done)
    assert 64 << 20 < most < 1 << 30


@pytest.mark.rfc("7323:2.2b")
def test_the_window_of_a_syn_is_never_scaled():
    lab = Lab(rings=1 << 20)
    c = lab.connecting()
    assert c.expects("S").window == 65535


@pytest.mark.rfc("7323:2.2c")
def test_a_shift_behind_the_syn_says_nothing():
    """RFC 7323 section 2.2: the option is the SYN's."""
    c = Lab().accepted(window=1000, wscale=2)
    c.sends(options=b"\x01\x03\x03\x09")
    c.sends(data=b"x", window=2000, options=b"\x01\x03\x03\x09")
    assert c.tcb["snd"]["wnd"] == 8000


@pytest.mark.rfc("7323:2.3b")
def test_a_shift_above_14_counts_as_14():
    """RFC 7323 section 2.3."""
    lab = Lab()
    listener = lab.listening()
    c = lab.connection(wscale=200)
    c.sends("S", options=c.syn_options, window=65535)
    c.expects("SA")
    c.sends("A", window=1)
    socket = lab.program.accept(listener)
    socket.send(b"x" * 60_000)
    lab.run()
    assert sum(len(s.payload) for s in c.receives()) == 14_600, "the congestion window: the peer's is 16 KiB"
    assert c.tcb["snd"]["wscale"] == 14


@pytest.mark.rfc("5681:2-WINDOW")
def test_the_peers_window_is_not_exceeded():
    lab = Lab()
    c = lab.accepted(window=3000)
    c.socket.send(b"x" * 20_000)
    lab.run()
    assert sum(len(s.payload) for s in c.receives()) <= 3000
    c.sends(ack=1461, window=1540)
    lab.run()
    c.receives()
    assert c.heard <= 3001, "the right edge has not moved"


@pytest.mark.rfc("9293:MUST-34", "9293:SHLD-15", "7323:2.4c")
def test_a_window_that_shrinks_is_survived():
    """3.8.6: a sender must be robust against shrinking; nothing beyond the new edge is sent anew."""
    lab = Lab()
    c = lab.accepted(window=8000)
    c.socket.send(b"x" * 20_000)
    lab.run()
    c.receives()
    reached = c.heard
    c.sends(ack=1461, window=1000)
    lab.run()
    c.receives()
    assert c.heard == reached
    c.sends(ack=reached, window=8000)
    assert c.expects("A").seq == reached


@pytest.mark.parametrize(("wscale", "left", "expected"), [(0, 0, 1461), (0, 2000, 3461), (10, 0, 1461), (10, 8, 9653)])
def test_a_peer_whose_window_has_shrunk_hears_our_acks(wscale, left, expected):
    """It takes none from beyond its edge: what it sends would never be acknowledged, while it reads nothing itself."""
    lab = Lab()
    c = lab.accepted(window=20_000 >> wscale, wscale=wscale)
    c.socket.send(b"x" * 20_000)
    lab.run()
    c.receives()
    c.sends(ack=1461, window=left)
    for pause in (0, 0.3):  # as what was sent is still under way, and as it has timed out
        lab.wait(pause)
        c.receives()
        c.sends(data=b"y" * 3000, ack=1461, window=left)
        assert c.expects("A", ack=c.nxt, length=0).seq == expected
    c.socket.close()
    lab.run()
    assert c.receives()[-1].seq == expected  # so is our RST, for what was never read


def test_less_than_a_unit_of_a_scaled_window_may_be_hidden():
    """It was rounded down: the peer may have received all that we have sent; an ACK from before that would be old."""
    lab = Lab()
    c = lab.accepted(window=14, wscale=10)
    c.socket.send(b"x" * 14_000)
    lab.run()
    c.receives()
    c.sends(data=b"y" * 3000, ack=1461, window=12)  # 252 bytes less
    assert c.expects("A", ack=3001, length=0).seq == 14_001


def test_an_old_segment_does_not_change_the_window():
    """3.10.7.4, fifth: SND.WL1 and SND.WL2 prevent using old segments."""
    lab = Lab()
    c = lab.accepted(window=65535)
    c.sends(data=b"ab", window=5000)
    c.sends(seq=1, data=b"a", window=100)
    assert c.tcb["snd"]["wnd"] == 5000


def test_an_acknowledgment_with_older_text_changes_the_window():
    """Text beyond a hole came before: what fills the hole was sent later, and its smaller window counts."""
    lab = Lab()
    c = lab.accepted(window=16384)
    c.socket.send(b"x" * 40000)
    lab.run()
    first = c.receives()
    acked = first[0].seq + sum(len(s.payload) for s in first)
    c.sends(data=b"b" * 100, seq=101, ack=first[0].seq, window=16384)
    lab.run()
    c.receives()
    c.sends(data=b"a" * 100, seq=1, ack=acked, window=1024)
    lab.wait(1.0)
    edge = acked + 1024
    assert max(s.seq + len(s.payload) for s in c.receives()) <= edge


@pytest.mark.rfc("9293:SHLD-14", "7323:2.4b")
def test_right_edge_never_moves_left():
    """3.8.6.2.2: what was offered stays offered, also while the program does not read."""
    lab = Lab(rings=8192)
    c = lab.accepted()
    edge = 0
    for _ in range(12):
        c.sends(data=b"x" * 700)
        lab.wait(0.3)
        for segment in c.receives():
            assert segment.ack + segment.window >= edge
            edge = segment.ack + segment.window
    assert c.socket.readable == 8192


def test_data_beyond_the_window_is_cut_off():
    """3.10.7.4: trimmed to the window; the rest is not acknowledged."""
    lab = Lab(rings=4096)
    c = lab.accepted()
    for _ in range(3):
        c.sends(data=b"x" * 1460)
    c.nxt = 4097
    lab.wait(0.5)
    assert c.receives()[-1].ack == 4097
    assert c.socket.recv() == b"x" * 4096


def test_the_window_opens_again_when_the_program_reads():
    """3.8.6.2.2: after a closed window an update is sent, once it is worth a segment or half the buffer."""
    lab = Lab(rings=4096)
    c = lab.accepted()
    c.sends(data=b"x" * 1460)
    c.sends(data=b"x" * 1460)
    c.sends(data=b"x" * 1176)
    lab.wait(0.5)
    assert c.receives()[-1].window == 0
    c.socket.recv(100)
    lab.run()
    c.expects_nothing()  # 100 bytes would be a silly window
    c.socket.recv(4000)
    lab.run()
    assert c.expects("A", ack=4097).window >= 1460


@pytest.mark.rfc("9293:MUST-39")
def test_a_small_window_is_offered_as_none():
    """Silly window avoidance of the receiver, 3.8.6.2.2: the edge moves by a segment or half the buffer, or not."""
    lab = Lab(rings=4096)
    c = lab.accepted()
    for size in (1460, 1460, 1176):
        c.sends(data=b"x" * size)
    lab.wait(0.5)
    c.receives()
    for _ in range(12):
        c.socket.recv(100)
        lab.run()
    c.sends(data=b"p", seq=4097)
    answer = c.receives()[-1]
    assert (answer.ack, answer.window) == (4097, 0)


@pytest.mark.rfc("9293:MUST-38")
def test_the_sender_waits_for_a_window_worth_a_segment():
    """Silly window avoidance of the sender, 3.8.6.2.1: a full segment, all there is, or half the largest window."""
    lab = Lab()
    c = lab.accepted(window=4000)
    c.socket.send(b"x" * 4000)
    lab.run()
    c.receives()
    c.socket.send(b"y" * 4000)
    c.sends(ack=4001, window=200)
    lab.run()
    c.expects_nothing()
    c.sends(ack=4001, window=2000)
    c.expects("A", seq=4001, length=1460)


@pytest.mark.parametrize("limit", [4096, 16384])
def test_so_rcvbuf_limits_the_window(limit):
    lab = Lab()
    c = lab.connecting(lines={"receive_buffer": limit})
    c.expects("S")
    c.sends("SA", ack=1, options=c.syn_options)
    assert c.expects("A").window <= limit


@pytest.mark.parametrize(("limit", "window"), [(4096, 4096), (1, 2048), (1 << 20, 65535)])
def test_so_rcvbuf_of_a_listener_limits_the_window_of_its_syn_ack(limit, window):
    """So that a peer does not take for the largest window what it will never see again (RFC 9293 section 3.8.6.2.1)."""
    lab = Lab()
    listener = lab.listening()
    for socket in lab.program.posted[listener]:
        socket.set(receive_buffer=limit)
    c = lab.connection()
    c.sends("S", options=c.syn_options)
    assert c.expects("SA").window == window


@pytest.mark.rfc("9293:SHLD-16")
def test_what_lies_within_a_window_that_shrank_is_sent_again():
    lab = Lab()
    c = lab.accepted(window=8000)
    c.socket.send(b"x" * 20_000)
    lab.run()
    c.receives()
    c.sends(ack=1461, window=2000)
    lab.wait(1.5)
    again = c.receives()
    assert again and again[0].seq == 1461
    assert max(s.seq + len(s.payload) for s in again) <= 3461


@pytest.mark.rfc("9293:SHLD-17")
def test_what_lies_beyond_it_does_not_end_the_connection():
    lab = Lab()
    c = lab.accepted(window=8000)
    c.socket.send(b"x" * 7300)
    lab.run()
    c.receives()
    c.sends(ack=1461, window=0)
    for _ in range(40):
        lab.wait(121)
        assert c.receives(), "probes"
        c.sends(ack=1461, window=0)
    assert c.state == "ESTABLISHED"
    c.sends(ack=1461, window=8000)
    assert c.expects("A").seq == 1461


@pytest.mark.rfc("7323:2.4a")
def test_a_buffer_made_smaller_does_not_take_back_the_edge():
    """RFC 7323 section 2.4, 1: what lies within it is looked at; but there is no room for all of it any more."""
    lab = Lab()
    c = lab.accepted()
    edge = c.tcb["rcv"]["adv"]
    c.socket.set(receive_buffer=4096)
    lab.run()
    c.sends(data=b"x" * 1460)
    c.sends(data=b"x" * 1460)
    assert c.receives()[-1].window < 4096
    assert c.tcb["rcv"]["adv"] == edge
    c.sends(data=b"y" * 1177)  # one too many
    c.sends(data=b"y" * 1460)
    assert c.socket.readable == 4096
    assert c.receives()[-1].ack == 4097
    c.socket.recv()
    lab.run()
    c.sends(data=b"y" * 100, seq=4097)
    assert c.socket.recv() == b"y" * 100


def test_a_fin_must_fit_into_the_window_too():
    """RFC 9293 section 3.10.7.4: trimmed as the text is, when the window ends before it."""
    lab = Lab(rings=4096)
    c = lab.accepted()
    for size in (1460, 1460):
        c.sends(data=b"x" * size)
    c.receives()
    c.sends("FA", data=b"x" * 1176)
    assert c.receives()[-1].ack == 4097
    assert c.state == "ESTABLISHED" and not c.socket.eof
    assert c.socket.recv() == b"x" * 4096
    lab.run()
    c.sends("FA", seq=4097)
    assert c.state == "CLOSE_WAIT" and c.socket.eof


def test_where_the_window_ends():
    """RFC 9293 section 3.10.7.4, first: RCV.NXT =< SEG.SEQ < RCV.NXT+RCV.WND, of text.

    A bare ACK may stand at the edge.
    """
    lab = Lab(rings=4096)
    c = lab.accepted()
    c.sends(seq=4096, data=b"z")
    assert c.tcb["rcv"]["ranges"] == 1
    c.sends(seq=4097, data=b"z")
    assert c.receives()[-1].ack == 1
    assert c.tcb["rcv"]["ranges"] == 1 and lab.drops("sequence") == 1
    c.socket.send(b"abc")
    lab.run()
    c.sends(seq=4098, ack=4)
    assert c.socket.unacknowledged == 3
    c.sends(seq=4097, ack=4)
    assert c.socket.unacknowledged == 0


def test_an_old_acknowledgment_does_not_change_the_window():
    """3.10.7.4, fifth: SND.WL2, between segments of one number."""
    lab = Lab()
    c = lab.accepted()
    c.socket.send(b"abc")
    lab.run()
    c.sends(ack=4, window=5000)
    c.sends(ack=1, window=100)
    assert c.tcb["snd"]["wnd"] == 5000


def test_half_of_a_small_buffer_is_worth_an_update():
    """3.8.6.2.2: half the buffer, when that is less than two segments."""
    lab = Lab(rings=4096)
    c = lab.accepted()
    for size in (1460, 1460, 1176):
        c.sends(data=b"x" * size)
    lab.wait(0.5)
    assert c.receives()[-1].window == 0
    c.socket.recv(2047)
    lab.run()
    c.expects_nothing()
    c.socket.recv(1)
    lab.run()
    c.expects("A", ack=4097, window=2048)


def test_a_peer_with_an_eighth_of_the_buffer_left_hears_of_room():
    lab = Lab(rings=65536)
    c = lab.accepted()
    for _ in range(41):
        c.sends(data=b"x" * 1460)
    c.receives()
    assert 2 * 1460 < c.tcb["rcv"]["adv"] - c.tcb["rcv"]["nxt"] & 0xFFFFFFFF < 65536 // 8
    c.socket.recv()
    lab.run()
    assert c.expects("A").window == 65535


def test_the_largest_window_is_remembered():
    """3.8.6.2.1: half of it is worth a segment, and RFC 5961 section 5.2 counts by it."""
    lab = Lab()
    c = lab.accepted(window=1000)
    for window in (8000, 3000):
        c.sends(window=window)
    assert (c.tcb["snd"]["wnd"], c.tcb["snd"]["max_wnd"]) == (3000, 8000)


def test_half_of_the_largest_window_is_worth_a_segment():
    """3.8.6.2.1, (3): for a peer that never has room for a full one."""
    lab = Lab()
    c = lab.accepted(window=1000)
    c.socket.send(b"x" * 4000)
    lab.run()
    c.expects("A", length=1000)
    c.sends(ack=1001, window=500)
    c.expects("A", length=500)
    c.sends(ack=1501, window=499)
    c.expects_nothing()
