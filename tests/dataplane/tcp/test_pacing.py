"""SO_MAX_PACING_RATE: no more leaves than the rate allows, two segments at a time at least."""

from itertools import pairwise

import pytest

from tests.support.lab import Connection, Lab
from tests.support.layout import neat
from tests.support.wire import Faults, Wire

MSS = 1460


def paced(rate: int) -> Connection:
    c = Lab(rings=1 << 18).accepted()
    c.socket.set(pacing_rate=rate)
    return c


@pytest.mark.parametrize("rate", [50_000, 100_000, 1_000_000, 10_000_000])
def test_so_much_leaves_in_a_second(rate: int) -> None:
    """The first flight, which nothing else holds back."""
    c = paced(rate)
    c.socket.send(bytes(10 * MSS))
    c.lab.run()
    c.lab.wait(0.9)
    sent = c.receives()
    assert sum(len(s.payload) for s in sent if s.seq > 0) >= 10 * MSS
    most = max(2 * MSS, rate // 1000 // MSS * MSS)
    first, *later = sorted({s.at for s in sent})
    at_once = [sum(len(s.payload) for s in sent if s.at == at) for at in (first, *later)]
    assert max(at_once) <= most
    for (one, size), (other, _) in pairwise(zip((first, *later), at_once, strict=True)):
        assert other - one >= size / rate - 0.0021  # the clock of timers ticks by milliseconds


def test_without_it_all_leaves_at_once() -> None:
    c = paced(0)
    c.socket.send(bytes(10 * MSS))
    c.lab.run()
    assert len(c.receives()) == 10


def test_it_may_change_while_text_waits() -> None:
    c = paced(1000)
    c.socket.send(bytes(10 * MSS))
    c.lab.run()
    assert len(c.receives()) == 2
    c.socket.set(pacing_rate=0)
    c.lab.run()
    assert len(c.receives()) == 8


def test_a_slow_one_is_no_closed_window() -> None:
    """Longer between two segments than any timer of the connection waits: no probe, nothing sent again."""
    c = paced(1000)
    c.socket.send(bytes(4 * MSS))
    c.lab.run()
    assert [len(s.payload) for s in c.receives()] == [MSS, MSS]
    c.sends(ack=1 + 2 * MSS)
    c.lab.wait(2.8)
    c.expects_nothing()
    c.lab.wait(0.2)
    assert [(s.seq, len(s.payload)) for s in c.receives()] == [(1 + 2 * MSS, MSS), (1 + 3 * MSS, MSS)]


def test_a_cork_holds_while_the_rate_is_waited_for() -> None:
    c = paced(100_000)
    c.socket.set(flags=c.socket.flags | neat.FLAG_CORK)
    c.socket.send(bytes(4 * MSS + 100))
    c.lab.run()
    c.lab.wait(0.1)
    assert [len(s.payload) for s in c.receives()] == [MSS] * 4
    c.sends(ack=1 + 4 * MSS)
    c.lab.wait(0.19)
    c.expects_nothing()
    c.lab.wait(0.02)
    assert c.expects("A").payload == bytes(100)


def test_a_window_that_closes_while_the_rate_is_waited_for_is_probed_in_time() -> None:
    c = paced(10_000)
    c.socket.send(bytes(4 * MSS))
    c.lab.run()
    assert len(c.receives()) == 2
    c.sends(ack=1 + MSS, window=0)
    c.sends(ack=1 + 2 * MSS, window=0)
    c.lab.wait(0.21)
    assert c.expects("A", seq=1 + 2 * MSS).payload == bytes(1)


def test_the_last_piece_brings_the_end() -> None:
    c = paced(100_000)
    c.socket.send(bytes(5 * MSS))
    c.socket.shutdown()
    c.lab.run()
    c.lab.wait(0.5)
    sent = [s for s in c.receives() if s.payload or "F" in s.flags]
    assert [len(s.payload) for s in sent[:5]] == [MSS] * 5
    assert ["F" in s.flags for s in sent[:5]] == [False] * 4 + [True]


def test_losses_are_repaired_at_the_rate() -> None:
    """Both ends ours, over a link that loses: it takes as long as the rate says, and all arrives."""
    wire = Wire(Faults(delay=0.01, loss=0.02), seed=3, rings=1 << 18)
    client, server = wire.connect()
    client.set(pacing_rate=100_000)
    server.set(receive_buffer=1 << 18)
    began, total = wire.time, 200_000
    assert client.send(bytes(total)) == total
    wire.until(lambda: server.readable == total)
    assert wire.time - began >= total / 100_000 * 0.95


@pytest.mark.parametrize("rate", [400_000, 3_000_000])
def test_timers_that_are_late_do_not_make_it_slower(rate: int) -> None:
    """They fire by ticks of a millisecond, which would add up."""
    wire = Wire(Faults(delay=0.001), rings=1 << 18)
    client, server = wire.connect()
    client.set(pacing_rate=rate)
    server.set(receive_buffer=1 << 18)
    began, total = wire.time, 200_000
    assert client.send(bytes(total)) == total
    wire.until(lambda: server.readable == total)
    assert total / rate * 0.95 <= wire.time - began <= total / rate * 1.05 + 0.002


def test_nothing_is_saved_up_while_there_is_nothing_to_send() -> None:
    c = paced(1_000_000)
    c.lab.wait(1)
    for _ in range(2):
        c.socket.send(bytes(4 * MSS))
        c.lab.run()
        assert len(c.receives()) == 2
        c.lab.wait(0.1)
        assert len(c.receives()) == 2
        c.sends(ack=c.heard)
