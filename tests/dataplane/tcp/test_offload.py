"""Segments larger than the wire's, both ways, as virtio-net headers allow; inside, RFC 9293 section 3.7 still holds."""

import itertools

from tests.support.lab import PEER_MAC, STACK_MAC, Lab
from tests.support.packet import build, parse, split
from tests.support.wire import Wire

DATA = bytes(range(250)) * 400


def test_a_large_segment_is_received_whole():
    lab = Lab(rings=1 << 18)
    c = lab.connected(wscale=7)
    c.sends(data=DATA[:60000])
    assert c.socket.recv() == DATA[:60000]
    c.expects("A", ack=60001)


def test_a_large_segment_with_good_checksum_need_not_be_summed():
    """VIRTIO_NET_HDR_F_NEEDS_CSUM or _DATA_VALID: the checksum field holds anything."""
    lab = Lab()
    c = lab.accepted()
    frame = bytearray(build(c.segment(data=b"trusted"), source_mac=PEER_MAC, destination_mac=STACK_MAC))
    frame[14 + 20 + 16] ^= 0xFF
    lab.inject_frame(bytes(frame), checked=True)
    assert c.socket.recv() == b"trusted"


def test_what_is_sent_in_bulk_leaves_in_large_segments():
    lab = Lab(rings=1 << 18)
    c = lab.accepted(wscale=7)
    for _ in range(6):  # open the congestion window
        c.socket.send(DATA)
        lab.run()
        c.receives()
        c.sends(ack=c.heard)
    c.receives()
    c.sends(ack=c.heard)
    c.receives()
    c.socket.send(DATA)
    lab.engine.run()
    frames = lab.engine.output()
    assert frames
    assert max(len(frame) for frame, _ in frames) > 10_000
    for frame, gso_size in frames:
        whole = parse(frame, mtu=None)
        assert len(frame) <= 14 + 65535
        if len(whole.payload) > 1460:
            assert gso_size == 1460


def test_the_pieces_of_a_large_segment_are_proper():
    """What the device makes of it: sequence numbers follow on, and PSH or FIN stand on the last alone."""
    lab = Lab(rings=1 << 18)
    c = lab.accepted(wscale=7)
    lab.captured = []
    for _ in range(8):
        c.socket.send(DATA)
        lab.run()
        c.receives()
        c.sends(ack=c.heard)
    fresh = sorted((s for s in lab.captured if s.payload), key=lambda s: s.seq - c.irs & 0xFFFFFFFF)
    for left, right in itertools.pairwise(fresh):
        assert right.seq == left.seq + len(left.payload) & 0xFFFFFFFF


def test_what_leaves_as_one_ends_in_push_though_more_is_queued():
    lab = Lab()
    c = lab.accepted()
    c.socket.send(DATA[: 30 * 1460])
    lab.run()
    assert ["P" in s.flags for s in c.receives()] == [False] * 9 + [True]
    c.sends(ack=1 + 1460)
    assert ["P" in s.flags for s in c.receives()] == [False, True]


def test_a_segment_alone_has_no_push_while_more_is_queued():
    lab = Lab()
    c = lab.accepted(window=1460)
    c.socket.send(DATA[: 2 * 1460])
    lab.run()
    c.expects("A", seq=1, length=1460, push=False)
    c.sends(ack=1 + 1460)
    c.expects("A", seq=1 + 1460, length=1460, push=True)


def test_a_small_congestion_window_has_no_push():
    lab = Lab()
    c = lab.accepted()
    c.socket.send(DATA[:1460])
    lab.run()
    lab.wait(1.1)  # a timeout
    c.receives()
    c.sends(ack=1 + 1460)
    c.socket.send(DATA[: 30 * 1460])
    lab.run()
    assert ["P" in s.flags for s in c.receives()] == [False, False]


def test_split_is_what_a_device_does():
    lab = Lab()
    c = lab.accepted()
    pieces = list(split(c.segment("FPA", data=DATA[:3000]), 1460))
    assert [len(p.payload) for p in pieces] == [1460, 1460, 80]
    assert [p.flags for p in pieces] == ["A", "A", "FPA"]


def test_two_stacks_exchange_large_segments():
    wire = Wire(offload=True, rings=1 << 18)
    left, right = wire.connect()
    sent, got = 0, bytearray()
    data = DATA * 20

    def act() -> bool:
        nonlocal sent
        if sent < len(data):
            sent += left.send(data[sent : sent + (1 << 18)])
        got.extend(right.recv())
        return len(got) == len(data)

    wire.until(act, limit=60)
    assert got == data
    assert wire.frames < len(data) / 1460


def test_an_mtu_other_than_1500():
    for mtu in (576, 9000, 1280):
        lab = Lab(mtu=mtu, rings=1 << 18)
        c = lab.accepted(mss=65495, wscale=7)
        c.socket.send(DATA)
        lab.run()
        assert len(c.receives()[0].payload) == mtu - 40
