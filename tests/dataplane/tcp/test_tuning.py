"""The receive window follows what the program reads, unless SO_RCVBUF says how large it shall be."""

from __future__ import annotations

import pytest

from tests.support.crash import CrashWire
from tests.support.program import Socket
from tests.support.wire import Faults, Wire

RING, FIRST = 1 << 20, 65536
STEP = 1 << 7  # of scaled windows


def joined(delay: float, kind: type[Wire] = Wire) -> tuple[Wire, Socket, Socket]:
    wire = kind(Faults(delay=delay), rings=RING)
    client, server = wire.connect()
    assert client.send(b"x" * RING) == RING
    return wire, client, server


def read_all(wire: Wire, server: Socket, got: int = 0) -> None:
    """What follows the `got` bytes that were read before."""

    def done() -> bool:
        nonlocal got
        got += len(server.recv())
        return got == RING

    wire.until(done)


def on_its_way(client: Socket) -> int:
    """Bytes of text that the peer has not acknowledged."""
    return client.replica.tx_sent - client.replica.tx_tail


@pytest.mark.parametrize("delay", [0.0001, 0.05])
def test_it_grows_for_who_reads_at_once(delay: float) -> None:
    wire, client, server = joined(delay)
    got = most = 0

    def done() -> bool:
        nonlocal got, most
        got += len(server.recv())
        client.send(b"x" * client.writable)
        most = max(most, on_its_way(client))
        return got >= 8 * RING

    assert server.replica.rx_limit == FIRST
    wire.until(done)
    assert server.replica.rx_limit == RING
    assert most > RING // 2 or delay < 0.05, "nor does the window bound what is on its way"


def test_it_grows_for_who_reads_before_there_is_much_to_tell_of() -> None:
    """Such a program does not tell that it has read: the replica looks for itself when it acknowledges something."""
    wire, client, server = joined(0.05)

    def done() -> bool:
        server.mine.rx_tail = server.replica.rx_head
        client.send(b"x" * client.writable)
        return server.replica.rx_head >= 4 * RING

    wire.until(done)
    assert server.replica.rx_limit == RING


def test_it_does_not_for_who_does_not_read() -> None:
    wire, client, server = joined(0.05)
    wire.wait(5)
    assert FIRST - STEP < server.readable <= FIRST
    assert client.replica.tx_tail == server.readable


def test_nor_for_who_reads_slowly() -> None:
    """A kilobyte in each round trip."""
    wire, client, server = joined(0.05)
    for _ in range(200):
        wire.wait(0.1)
        server.recv(1000)
    assert server.replica.rx_limit == FIRST
    assert server.readable <= FIRST


def test_a_closed_window_opens_when_all_is_read() -> None:
    wire, client, server = joined(0.05)
    wire.wait(5)
    read_all(wire, server)


@pytest.mark.parametrize("limit", [8192, FIRST, 2 * FIRST])
def test_so_rcvbuf_stands(limit: int) -> None:
    wire, client, server = joined(0.001)
    server.set(receive_buffer=limit)
    read_all(wire, server)
    assert server.replica.rx_limit == limit


def test_a_successor_offers_no_more_than_before() -> None:
    """Who does not read has no larger buffer for that its replica has died."""
    wire, client, server = joined(0.05, CrashWire)
    wire.die("b", "sealed", 20)
    wire.wait(5)
    assert wire.deaths == 1
    assert server.replica.rx_limit == FIRST
    assert FIRST - STEP < server.readable <= FIRST
    read_all(wire, server)
    assert server.replica.rx_limit > FIRST


@pytest.mark.parametrize(("lie", "most"), [(0, RING), (1, 1 << 12), (1 << 31, RING)])
def test_a_successor_believes_the_lines_within_bounds(lie: int, most: int) -> None:
    wire, client, server = joined(0.05, CrashWire)
    wire.wait(1)
    server.replica.rx_limit = lie
    wire.die("b", "taken")
    got = len(server.recv(30_000))
    wire.wait(1)
    assert wire.deaths == 1
    assert server.replica.rx_limit <= most
    read_all(wire, server, got)
