"""Bytes arrive intact: through slow readers, through a faulty link, over many connections."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from neatstack.experiment.netns import Lab, Stack
from tests.conftest import Pair
from tests.peers.conftest import Ends
from tests.support.puppet import Puppet, digest

ECHO = Path(__file__).parents[1] / "programs"
FAULTS = "[faults]\nseed = 1\ndrop = 0.01\nreorder = 0.02\nduplicate = 0.01\n"
MEGABYTE = 1_000_000


def exchange(ends: Ends, length: int, timeout: float) -> None:
    """`length` bytes each way at the same time, checked by hash."""
    server, client = ends.connected()
    sending = [server.begin("send_stream", 1, length), client.begin("send_stream", 2, length)]
    receiving = [client.begin("receive_stream", length), server.begin("receive_stream", length)]
    for sent in sending:
        assert sent.result(timeout) == length
    for seed, received in enumerate(receiving, 1):
        assert received.result(timeout) == (length, digest(seed, length))
    server.close()
    assert client.recv(1) == b""


def test_both_ways(ends: Ends) -> None:
    exchange(ends, 20 * MEGABYTE, 60)


@pytest.mark.parametrize("reader", ["server", "client"])
def test_slow_reader(ends: Ends, reader: str) -> None:
    """The window closes while nobody reads; the sender waits, and nothing is lost (RFC 9293, 3.8.6.1)."""
    server, client = ends.connected()
    slow, sender = (server, client) if reader == "server" else (client, server)
    length = 20 * MEGABYTE
    sending = sender.begin("send_stream", 3, length)
    time.sleep(1.5)
    assert not sending.done()
    assert slow.receive_stream(length) == (length, digest(3, length))
    assert sending.result(10) == length


def test_reader_that_takes_little_by_little(ends: Ends) -> None:
    """Silly-window avoidance must not stall (RFC 9293, 3.8.6.2)."""
    server, client = ends.connected()
    sending = client.begin("send_stream", 4, 4 * MEGABYTE)
    taken = 0
    for _ in range(200):
        taken += len(server.recv(1000))
    rest, _ = server.receive_stream(4 * MEGABYTE - taken)
    assert taken + rest == sending.result(10) == 4 * MEGABYTE


def test_many_connections(pair: Pair) -> None:
    """1,000 at a time, of random sizes."""
    pair.serve("python3", ECHO / "echo_server.py", "0.0.0.0", pair.port)
    client = ["sh", "-c", 'ulimit -n 4096; exec python3 "$@"', "sh", ECHO / "echo_client.py"]
    told = pair.client.run(*client, pair.address, pair.port, 1000, 60_000, 7, timeout=90)
    assert int(told) > 20 * MEGABYTE


@pytest.fixture(scope="module")
def faulty(lab: Lab) -> Stack:
    return lab.stack(replicas=2, config=FAULTS)


@pytest.mark.heavy
@pytest.mark.parametrize("server_on", ["stack", "kernel"])
def test_faulty_link(faulty: Stack, port: int, server_on: str) -> None:
    """100 MB each way through a link that drops 1 %, reorders 2 % and duplicates 1 %, each way."""
    sides = (faulty.programs, faulty.host) if server_on == "stack" else (faulty.host, faulty.programs)
    with faulty.lab.scope():
        ends = Ends(Puppet(sides[0]), Puppet(sides[1]), sides[0].address, port)
        exchange(ends, 100 * MEGABYTE, 240)


@pytest.mark.heavy
def test_many_connections_over_a_faulty_link(faulty: Stack, port: int) -> None:
    with faulty.lab.scope():
        pair = Pair(faulty.programs, faulty.host, port, faulty.host)
        pair.serve("python3", ECHO / "echo_server.py", "0.0.0.0", port)
        told = pair.client.run("python3", ECHO / "echo_client.py", pair.address, port, 200, 30_000, 8, timeout=120)
        assert int(told) > MEGABYTE
