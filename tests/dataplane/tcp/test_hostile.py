"""Hostile peers, in virtual time: what they cost is bounded, and counted; others are served meanwhile.

Work is measured by segments: for each that comes at most one leaves, and time alone makes few.
"""

import random
import struct

import pytest

from tests.support.lab import PEER, PEER_MAC, STACK, STACK_MAC, Connection, Lab
from tests.support.packet import NOP, SACK_PERMITTED, Segment, build, mss, option

MANY = 1200


class Cost:
    """What the stack has done since then."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.before = lab.engine.counters()

    def __getitem__(self, name: str) -> int:
        return self.lab.engine.counters()[name] - self.before[name]

    @property
    def dropped(self) -> int:
        return sum(self[name] for name in self.before if name.startswith("drop_"))

    def one_for_one(self) -> None:
        assert self["packets_out"] <= self["packets_in"] + 4, (self["packets_out"], self["packets_in"])


def served(lab: Lab, listener: int) -> None:
    """Somebody else opens a connection and is answered."""
    c = lab.connection(80)
    c.sends("S", options=mss(1460))
    c.expects("SA")
    c.sends("A", data=b"request")
    socket = lab.program.accept(listener)
    assert socket is not None and socket.recv() == b"request"
    socket.send(b"answer")
    lab.run()
    c.expects("A", data=b"answer")
    c.sends("R", seq=c.nxt)
    socket.close()
    lab.run()


def shower(lab: Lab, segments) -> int:
    """Put them in, some at a time; how many."""
    count = 0
    for segment in segments:
        lab.engine.input(build(segment, source_mac=PEER_MAC, destination_mac=STACK_MAC))
        count += 1
        if count % 50 == 0:
            lab.run()
    lab.run()
    lab.left.clear()
    return count


def established(**options) -> tuple[Lab, int, Connection]:
    lab = Lab(max_tcbs=128)
    listener = lab.listening(80)
    c = lab.accepted(80, listener=listener, **options)
    return lab, listener, c


# ---- windows ----


@pytest.mark.parametrize("window", [0, 1, 10, 100])
def test_tiny_windows(window):
    """A peer that lets nothing through: probes get rarer and rarer, and the send ring is all that it holds."""
    lab, listener, c = established(window=window)
    cost = Cost(lab)
    while c.socket.writable:
        c.socket.send(b"x" * 4096)
        lab.run()
    lab.wait(600)
    assert cost["packets_out"] <= 40
    assert c.socket.unacknowledged == 65536
    served(lab, listener)


def test_a_byte_at_a_time():
    """A peer that acknowledges each byte, with a window of one: as many segments as it sends itself, and no more."""
    lab, listener, c = established(window=1)
    c.socket.send(b"x" * 2000)
    lab.run()
    cost = Cost(lab)
    for number in range(1000):
        c.sends(ack=2 + number, window=1)
        c.receives()
    cost.one_for_one()
    served(lab, listener)


def test_windows_that_shrink_and_grow():
    lab, listener, c = established()
    c.socket.send(b"x" * 60_000)
    lab.run()
    c.receives()
    cost = Cost(lab)
    chance = random.Random(1)
    for _ in range(MANY):
        c.sends(ack=1, window=chance.choice((0, 1, 5, 1460, 65535)))
    c.receives()
    cost.one_for_one()
    served(lab, listener)


def test_slow_readers_hold_their_rings_and_nothing_else():
    """Programs that never read: the window closes, and what is sent into it is refused, counted, and answered once."""
    lab = Lab(rings=4096)
    listener = lab.listening(80, post=32)
    slow = [lab.accepted(80, listener=listener) for _ in range(20)]
    for c in slow:
        for _ in range(5):
            c.sends(data=b"x" * 1000)
        c.receives()
    cost = Cost(lab)
    for _ in range(50):
        for c in slow:
            c.sends(data=b"y" * 500, seq=4097)
    assert cost["drop_sequence"] == 20 * 50
    cost.one_for_one()
    assert all(c.socket.readable <= 4096 for c in slow)
    for c in slow:
        c.receives()
    assert slow[0].socket.recv(4096)


# ---- floods at a connection ----


def test_acks_of_nothing_new():
    lab, listener, c = established()
    cost = Cost(lab)
    shower(lab, [c.segment("A")] * MANY)
    assert cost["packets_out"] == 0
    c.socket.send(b"x" * 1460)
    lab.run()
    c.receives()
    cost = Cost(lab)
    shower(lab, [c.segment("A", ack=1)] * MANY)
    assert cost["packets_out"] <= 3 and cost["retransmits"] <= 2
    served(lab, listener)


@pytest.mark.parametrize(
    "wrong",
    [
        {"flags": "A", "ack": 1_000_000},
        {"flags": "A", "seq": 10_000_000},
        {"flags": "R", "seq": 500},
        {"flags": "S", "seq": 500},
        {"flags": "SA", "seq": 0},
        {"flags": "A", "ack": -2_000_000_000},
    ],
    ids=["ack of what was never sent", "far away", "reset", "syn", "syn-ack", "ancient ack"],
)
def test_guesses_are_answered_a_limited_number_of_times(wrong):
    """RFC 5961 section 7."""
    lab, listener, c = established()
    cost = Cost(lab)
    shower(lab, [c.segment(**wrong)] * 3000)
    assert cost["packets_out"] == 1
    assert cost.dropped >= 3000
    assert c.state == "ESTABLISHED"
    served(lab, listener)


def test_text_far_outside_the_window():
    lab, listener, c = established()
    cost = Cost(lab)
    shower(lab, [c.segment("A", seq=1_000_000 + n, data=b"x" * 100) for n in range(MANY)])
    assert cost["drop_sequence"] == MANY
    cost.one_for_one()
    served(lab, listener)


def test_single_bytes_out_of_order():
    """As many ranges as a TCB has room for; the rest is counted, and all of it may come again."""
    lab, listener, c = established()
    cost = Cost(lab)
    shower(lab, [c.segment("A", seq=3 + 2 * n, data=b"x") for n in range(MANY)])
    assert c.tcb["rcv"]["ranges"] == 8 and cost["drop_ranges"] == MANY - 8
    cost.one_for_one()
    c.sends(seq=1, data=b"y" * 1000)
    assert c.socket.readable == 1000 and c.tcb["rcv"]["ranges"] == 0
    served(lab, listener)


def test_overlapping_pieces_in_every_order():
    """Whatever overlaps: the stream is what came, byte for byte."""
    lab, listener, c = established()
    text = random.Random(5).randbytes(4000)
    chance = random.Random(6)
    cost = Cost(lab)
    pieces = [(a := chance.randrange(4000), chance.randrange(a + 1, min(4000, a + 700) + 1)) for _ in range(400)]
    shower(lab, [c.segment("A", seq=1 + a, data=text[a:b]) for a, b in pieces])
    cost.one_for_one()
    shower(lab, [c.segment("A", seq=1 + at, data=text[at : at + 500]) for at in range(0, 4000, 500)])
    assert c.socket.recv() == text
    served(lab, listener)


def test_selective_acknowledgments_of_everything():
    """More blocks than anybody would send: a bounded board, and no more sent again than was sent."""
    lab = Lab()
    listener = lab.listening(80)
    c = lab.connection(80, window=65535)
    c.sends("S", options=mss(536) + SACK_PERMITTED + NOP + NOP)
    c.expects("SA")
    c.sends("A")
    socket = lab.program.accept(listener)
    socket.send(b"x" * 5000)
    lab.run()
    sent = max(s.seq + len(s.payload) for s in c.receives() if s.payload)
    cost = Cost(lab)
    chance = random.Random(2)

    def blocks() -> bytes:
        edges = [chance.randrange(1, sent) for _ in range(4)]
        told = b"".join(struct.pack("!II", c.irs + a & 0xFFFFFFFF, c.irs + a + 1 & 0xFFFFFFFF) for a in edges)
        return NOP + NOP + option(5, told)

    shower(lab, [c.segment("A", ack=1, options=blocks()) for _ in range(MANY)])
    cost.one_for_one()
    assert c.state == "ESTABLISHED"
    served(lab, listener)


def test_urgent_pointers_without_end():
    lab, listener, c = established()
    cost = Cost(lab)
    shower(lab, [c.segment("AU", urgent=1 + n) for n in range(MANY)])
    assert cost["packets_out"] <= 4
    served(lab, listener)


# ---- options ----


def bombs(count: int):
    """40 bytes of options each: lengths that lie, kinds that nobody knows, all kinds at once, nothing but NOPs."""
    chance = random.Random(4)
    shapes = [
        lambda: chance.randbytes(40),
        lambda: bytes([chance.randrange(2, 256), 0]) * 20,
        lambda: bytes([chance.randrange(256), 255]) + chance.randbytes(38),
        lambda: bytes(option(chance.randrange(2, 36), chance.randbytes(chance.randrange(9))))[:40].ljust(40, b"\1"),
        lambda: NOP * 40,
        lambda: (option(5, chance.randbytes(32)) + NOP * 6)[:40],
        lambda: option(8, chance.randbytes(8)) * 4,
        lambda: option(2, b"\0\0") * 10,
        lambda: option(34, chance.randbytes(16)) + option(3, b"\xff") * 7 + NOP,
    ]
    for number in range(count):
        yield shapes[number % len(shapes)]()


def test_option_bombs_at_a_connection():
    lab, listener, c = established()
    c.socket.send(b"x" * 3000)
    lab.run()
    c.receives()
    cost = Cost(lab)
    shower(lab, [c.segment("A", ack=1, options=options) for options in bombs(MANY)])
    cost.one_for_one()
    assert c.state == "ESTABLISHED"
    served(lab, listener)


def test_option_bombs_on_syns():
    """Each is answered once, with options that are right (the lab reads them), and cookies take over in time."""
    lab = Lab(max_tcbs=256)
    listener = lab.listening(80, backlog=16, fastopen=16)
    cost = Cost(lab)
    syns = [
        Segment(source=PEER, destination=STACK, source_port=1024 + n, destination_port=80, seq=n, flags="S", options=o)
        for n, o in enumerate(bombs(MANY))
    ]
    shower(lab, syns)
    cost.one_for_one()
    assert cost["cookies_sent"] >= MANY - 100
    assert lab.engine.counters()["connections"] <= 64
    served(lab, listener)


# ---- floods at nobody ----


@pytest.mark.parametrize("flags", ["A", "S", "F", "R", "SA", "FA", "", "U"])
def test_segments_of_no_connection_leave_nothing(flags):
    lab = Lab(max_tcbs=64)
    listener = lab.listening(80)
    cost = Cost(lab)
    shower(
        lab,
        [
            Segment(source=PEER, destination=STACK, source_port=1024 + n % 50_000, destination_port=81 + n % 100, seq=n,
                    ack=n if "A" in flags else 0, flags=flags) for n in range(MANY)
        ],
    )  # fmt: skip
    cost.one_for_one()
    assert cost["drop_no_port"] == MANY and lab.engine.counters()["connections"] == 0
    served(lab, listener)


def test_connections_that_say_nothing_do_not_keep_others_out():
    """All TCBs are taken by peers that have closed: the oldest TIME-WAIT makes room."""
    lab = Lab(max_tcbs=40, sockets=64)
    listener = lab.listening(80, post=4)
    for _ in range(100):
        c = lab.connection(80)
        c.sends("S", options=mss(1460))
        c.expects("SA")
        c.sends("A")
        lab.program.accept(listener).close()
        lab.run()
        c.expects("FA")
        c.sends("FA")
        c.expects("A")
    assert lab.engine.counters()["connections"] < 40
    served(lab, listener)
