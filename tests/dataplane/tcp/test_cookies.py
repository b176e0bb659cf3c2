"""SYN cookies (RFC 4987 section 3.6): no state for a SYN, and a connection all the same."""

import random
import struct

import pytest

from tests.support.lab import PEER, SECOND, STACK, Connection, Lab
from tests.support.packet import NOP, SACK_PERMITTED, Segment, mss, option, read_options, wscale

SECRET = bytes(range(16))
BACKLOG = 16
HALF_OPEN = 64  # as many as any listener may have
MINUTE = 64.0  # seconds, of a cookie's counter


def timestamp(value: int, echo: int = 0) -> bytes:
    return NOP + NOP + option(8, struct.pack("!II", value, echo))


def flood(lab: Lab, count: int, seed: int = 1) -> None:
    """SYNs that nobody will follow up."""
    chance = random.Random(seed)
    for _ in range(count):
        port, seq = chance.randrange(1024, 40000), chance.getrandbits(32)
        segment = Segment(source=PEER, destination=STACK, source_port=port, destination_port=80, seq=seq, flags="S")
        lab.inject(segment)
    lab.left.clear()


def under_pressure(**options: object) -> tuple[Lab, int]:
    lab = Lab(**{"secret": SECRET} | options)
    listener = lab.listening(80, backlog=BACKLOG)
    flood(lab, 100)
    assert lab.engine.counters()["cookies_sent"] > 0
    return lab, listener


def count(lab: Lab, what: str) -> int:
    return lab.engine.counters()[f"cookies_{what}"]


@pytest.mark.rfc("4987:3.6a")
def test_a_cookie_becomes_a_connection_with_the_acknowledgment():
    lab, listener = under_pressure()
    used = lab.engine.counters()["connections"]
    c = lab.connection(80)
    c.sends("S", options=mss(1460))
    c.expects("SA", seq=0, ack=1)
    assert lab.engine.counters()["connections"] == used and c.state == "CLOSED"
    c.sends("A", data=b"GET /")
    assert c.state == "ESTABLISHED"
    socket = lab.program.accept(listener)
    assert socket.recv() == b"GET /"
    socket.send(b"x" * 3000)
    lab.run()
    assert [len(s.payload) for s in c.receives() if s.payload] == [1460, 1460, 80]
    assert count(lab, "taken") == 1 and count(lab, "refused") == 0


@pytest.mark.parametrize(
    "told,used", [(None, 536), (40, 48), (535, 48), (536, 536), (1300, 1220), (1459, 1440), (1460, 1460), (65535, 1460)]
)
@pytest.mark.rfc("4987:3.6b")
def test_the_mss_is_rounded_down(told, used):
    """RFC 9293 section 3.7.1: never more than the peer has said (but see LEAST_MSS)."""
    lab, listener = under_pressure()
    c = lab.connection(80)
    c.sends("S", options=b"" if told is None else mss(told))
    assert c.expects("SA").mss == 1460
    c.sends("A")
    assert c.tcb["snd"]["mss"] == used


@pytest.mark.parametrize("shift", [None, 0, 7, 14])
@pytest.mark.parametrize("sack", [False, True])
@pytest.mark.rfc("4987:3.6e")
def test_options_come_back_in_the_timestamp(shift, sack):
    lab, listener = under_pressure()
    lab.wait(0.0123)
    c = lab.connection(80)
    offered = mss(1460) + timestamp(5000)
    offered += b"" if shift is None else NOP + wscale(shift)
    offered += SACK_PERMITTED + NOP + NOP if sack else b""
    c.sends("S", options=offered)
    answer = c.expects("SA")
    assert (answer.wscale is not None) == (shift is not None)
    found = read_options(answer.options)
    assert (4 in found) == sack
    stamp, echo = struct.unpack("!II", found[8])
    assert echo == 5000
    c.sends("A", options=timestamp(5001, stamp), window=300)
    tcb = c.tcb
    assert tcb["snd"]["wscale"] == (shift or 0) and tcb["snd"]["wnd"] == 300 << (shift or 0)
    assert tcb["snd"]["mss"] == 1448 and tcb["stamps"]["recent"] == 5001
    socket = lab.program.accept(listener)
    socket.send(b"later")
    lab.run()
    later = c.expects("A", data=b"later")
    now = struct.unpack("!II", read_options(later.options)[8])[0]
    assert 0 <= (now - stamp) & 0xFFFFFFFF <= 64  # never back, for the peer would drop it (RFC 7323 section 5)


@pytest.mark.rfc("4987:3.6e")
def test_without_timestamps_nothing_else_is_offered():
    lab, _ = under_pressure()
    c = lab.connection(80)
    c.sends("S", options=mss(1460) + NOP + wscale(7) + SACK_PERMITTED)
    assert read_options(c.expects("SA").options).keys() == {2}
    c.sends("A", window=500)
    assert c.tcb["snd"]["wscale"] == 0 and c.tcb["snd"]["wnd"] == 500


@pytest.mark.rfc("4987:3.6d")
def test_a_cookie_is_good_for_a_minute_or_two():
    for wait, good in ((0, True), (MINUTE, True), (2 * MINUTE, False)):
        lab, _ = under_pressure()
        c = lab.connection(80)
        c.sends("S", options=mss(1460))
        c.expects("SA")
        lab.wait(wait)
        flood(lab, 100, seed=2)  # still under pressure
        c.sends("A")
        assert (c.state == "ESTABLISHED") == good
        if not good:
            c.expects("R")
            assert count(lab, "refused") == 1


@pytest.mark.rfc("4987:3.6c")
def test_what_was_forged_is_refused():
    lab, _ = under_pressure()
    used = lab.engine.counters()["connections"]
    c = lab.connection(80)
    c.sends("S", options=mss(1460))
    c.expects("SA")
    chance = random.Random(7)
    forged = [3, -6, 1 + (1 << 24), *(chance.getrandbits(32) for _ in range(200))]
    for ack in forged:  # 8 numbers in a row are good: one for each MSS
        c.sends("A", seq=1, ack=ack)
    for seq in (0, 2, 1000):
        c.sends("A", seq=seq, ack=1)
    other = Connection(lab, 80, c.peer_port + 1)
    other.irs = c.irs
    other.sends("A", seq=1, ack=1)
    assert lab.engine.counters()["connections"] == used
    assert count(lab, "refused") == len(forged) + 4 and count(lab, "taken") == 0
    assert {s.flags for s in c.receives()} == {"R"}
    c.sends("A", seq=1, ack=1)
    assert c.state == "ESTABLISHED"


def test_without_pressure_no_cookie_is_looked_for():
    lab = Lab(secret=SECRET)
    lab.listening(80)
    c = lab.connection(80)
    c.sends("A", seq=1, ack=77)
    c.expects("R", seq=77)
    assert count(lab, "refused") == 0
    lab, _ = under_pressure()
    lab.until(300)
    lab.left.clear()
    c = lab.connection(80)
    c.sends("A", seq=1, ack=77)
    c.expects("R", seq=77)
    assert count(lab, "refused") == 0


def test_a_wrong_syn_ack_is_no_cookie():
    lab, _ = under_pressure()
    c = lab.connection(80)
    c.sends("S")
    c.expects("SA")
    c.sends("SA", seq=1, ack=1)
    c.expects("R")
    assert c.state == "CLOSED"


def test_the_accept_queue_stays_bounded():
    """As Linux: the ACK is forgotten, and the peer's text, when it comes again, may find room."""
    lab = Lab(secret=SECRET)
    listener = lab.listening(80, backlog=4, post=0)
    flood(lab, 100)
    peers = [lab.connection(80) for _ in range(12)]
    for c in peers:
        c.sends("S", options=mss(1460))
        c.expects("SA")
    for c in peers:
        c.sends("A", data=b"hello")
    established = [c for c in peers if c.state == "ESTABLISHED"]
    assert len(established) == 5
    late = next(c for c in peers if c not in established)
    late.expects_nothing()
    assert late.state == "CLOSED"
    lab.program.post(listener, 12)
    lab.run()
    while lab.program.accept(listener):
        lab.run()
    late.sends("A", data=b"hello", seq=1)
    assert late.state == "ESTABLISHED" and lab.program.accept(listener).recv() == b"hello"


def test_fin_with_the_cookie():
    lab, listener = under_pressure()
    c = lab.connection(80)
    c.sends("S")
    c.expects("SA")
    c.sends("FA", data=b"bye")
    c.expects("A", ack=5)
    socket = lab.program.accept(listener)
    assert socket.recv() == b"bye" and socket.eof


def test_any_replica_of_the_stack_takes_it():
    """A bucket may move between SYN and ACK: the secret is the stack's, the clock the machine's."""
    first, _ = under_pressure()
    second, listener = under_pressure()
    stranger, _ = under_pressure(secret=bytes(16)[:-1] + b"\1")
    c = first.connection(80)
    c.sends("S", options=mss(1460) + timestamp(9))
    answer = c.expects("SA")
    echo = struct.unpack("!II", read_options(answer.options)[8])[0]
    for lab, good in ((second, True), (stranger, False)):
        moved = Connection(lab, 80, c.peer_port)
        moved.irs = c.irs
        moved.sends("A", seq=1, ack=1, data=b"hi", options=timestamp(10, echo))
        assert (moved.state == "ESTABLISHED") == good
    assert second.program.accept(listener).recv() == b"hi"


def test_the_short_of_tcbs_are_kept_for_those_who_answer():
    """Half open connections of all listeners together use a quarter of what there is."""
    lab = Lab(secret=SECRET, max_tcbs=200)
    ports = range(80, 90)
    listeners = [lab.listening(port, backlog=BACKLOG, post=2) for port in ports]
    for number in range(1000):
        lab.inject(
            Segment(source=PEER, destination=STACK, source_port=2000 + number, destination_port=80 + number % 10,
                    seq=number, flags="S")
        )  # fmt: skip
    assert lab.engine.counters()["connections"] == 50
    lab.left.clear()
    for port, listener in zip(ports, listeners, strict=True):
        c = lab.connection(port)
        c.sends("S")
        c.expects("SA")
        c.sends("A", data=b"yes")
        assert lab.program.accept(listener).recv() == b"yes"


def test_a_time_wait_is_opened_anew_without_a_cookie():
    """Its next connection must begin beyond the numbers of the last, which a cookie cannot promise."""
    lab = Lab(secret=SECRET)
    c = lab.accepted(80)
    c.socket.close()
    lab.run()
    c.expects("FA")
    c.sends("FA")
    c.expects("A")
    assert c.state == "TIME_WAIT"
    flood(lab, 1000)
    sent = count(lab, "sent")
    c.sends("S", seq=100_000)
    assert c.expects("SA", ack=100_001).seq > 65536
    assert c.state == "SYN_RECEIVED" and count(lab, "sent") == sent > 0


@pytest.mark.rfc("4987:3.6a")
def test_a_flood_of_a_hundred_thousand_harms_nobody():
    """100,000 spoofed SYNs over 20 s, and a handshake with a request for every 500: all of these succeed."""
    lab = Lab(secret=SECRET, max_tcbs=512, sockets=512)
    listener = lab.listening(80, backlog=128, post=256)
    chance = random.Random(3)
    frames = [
        Segment(source=PEER, destination=STACK, source_port=chance.randrange(1024, 40000), destination_port=80,
                seq=chance.getrandbits(32), flags="S") for _ in range(2000)
    ]  # fmt: skip
    from tests.support.lab import PEER_MAC, STACK_MAC
    from tests.support.packet import build

    built = [build(frame, source_mac=PEER_MAC, destination_mac=STACK_MAC) for frame in frames]
    most, answered = 0, 0
    for round_ in range(200):
        for number in range(500):
            lab.engine.input(built[(500 * round_ + number) % len(built)])
            if number % 50 == 49:
                lab.engine.run()
        lab.engine.output()
        c = lab.connection(80)
        c.sends("S", options=mss(1460))
        c.expects("SA")
        c.sends("A", data=b"request")
        socket = lab.program.accept(listener)
        assert socket is not None, f"round {round_}"
        assert socket.recv() == b"request"
        socket.send(b"answer")
        lab.run()
        c.expects("A", data=b"answer")
        answered += 1
        c.sends("R", seq=c.nxt)
        socket.close()
        lab.program.post(listener, 1)
        lab.engine.now += SECOND // 10
        lab.run()
        lab.left.clear()
        most = max(most, lab.engine.counters()["connections"])
    assert answered == 200
    assert most <= 128 + 2
    assert count(lab, "sent") > 90_000
