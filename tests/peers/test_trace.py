"""What tshark's expert says of the traffic between the stack and the kernel: nothing, unless something was lost.

Each test does something to connections while `neat capture` runs, and lets tshark look for malformed packets, wrong
checksums, gaps, and data beyond a window.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from neatstack.experiment.netns import Lab, Stack
from tests.peers.conftest import Ends
from tests.peers.endings import lingering, unread
from tests.support.puppet import Puppet, digest
from tests.support.trace import WINDOW_ENDS, capturing, check_trace, ended, fields

CLOSING = "This frame initiates the connection closing", "This frame undergoes the connection closing"
RESET = "Connection reset (RST)"
# A machine with other work may make either end send again what was only late.
LATE = (
    "A new tcp session is started with the same ports as an earlier session",  # they are chosen by chance (RFC 6056)
    "This frame is a (suspected) spurious retransmission",
    "This frame is a (suspected) retransmission",
    "Duplicate ACK",
    "D-SACK Sequence",
)
LOSSY = (
    "Previous segment(s) not captured (common at capture start)",
    "This frame is a (suspected) out-of-order segment",
    "This frame is a (suspected) fast retransmission",
)


@pytest.fixture(params=["stack", "kernel"])
def server_on(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def traced(stack: Stack, port: int, server_on: str, tmp_path: Path) -> Iterator[Traced]:
    with stack.lab.scope():
        yield Traced(stack, port, server_on, tmp_path / "trace.pcapng")


class Traced:
    """Both ends, and a trace of what happens inside `with traced.look():`."""

    def __init__(self, stack: Stack, port: int, server_on: str, path: Path) -> None:
        sides = (stack.programs, stack.host) if server_on == "stack" else (stack.host, stack.programs)
        self.stack, self.port, self.path = stack, port, path
        self.ends = Ends(Puppet(sides[0]), Puppet(sides[1]), sides[0].address, port)

    @contextmanager
    def look(self, *accepted: str) -> Iterator[Ends]:
        options = "-w", self.path, "--buffer", 64, f"tcp port {self.port}"
        with capturing(self.stack, *options) as process:
            yield self.ends
            time.sleep(0.1)
            _, said = ended(process)
        assert "missed" not in said
        check_trace(self.path, (*CLOSING, *LATE, *accepted))

    def count(self, only: str) -> int:
        return len(fields(self.path, "frame.number", only=only))


def test_transfers(traced: Traced) -> None:
    with traced.look(*WINDOW_ENDS) as ends:
        server, client = ends.connected()
        sending = [server.begin("send_stream", 1, 3_000_000), client.begin("send_stream", 2, 3_000_000)]
        for seed, end in ((1, client), (2, server)):
            assert end.receive_stream(3_000_000) == (3_000_000, digest(seed, 3_000_000))
        for sent in sending:
            sent.result(10)
        client.close()
        assert server.recv(1) == b""
        server.close()
    assert traced.count("tcp.flags.fin == 1") >= 2


def test_a_closed_window(traced: Traced) -> None:
    """Nobody reads for a time; then both ways go on."""
    with traced.look(*WINDOW_ENDS) as ends:
        server, client = ends.connected()
        sending = [server.begin("send_stream", 1, 4_000_000), client.begin("send_stream", 2, 4_000_000)]
        time.sleep(0.7)
        for seed, end in ((1, client), (2, server)):
            assert end.receive_stream(4_000_000) == (4_000_000, digest(seed, 4_000_000))
        for sent in sending:
            sent.result(10)
    assert traced.count("tcp.analysis.window_full or tcp.window_size == 0") > 0


def first(ends: Ends) -> None:
    server, client = ends.connected()
    server.sendall(b"bye")
    server.close()
    assert client.receive_stream()[0] == 3
    client.close()


def half(ends: Ends) -> None:
    server, client = ends.connected()
    client.shutdown(socket.SHUT_WR)
    server.send_stream(1, 50_000)
    assert client.receive_stream(50_000)[0] == 50_000
    server.close()
    assert client.recv(1) == b""


def together(ends: Ends) -> None:
    for _ in range(5):
        server, client = ends.connected()
        closing = [server.begin("close"), client.begin("close")]
        for each in closing:
            each.result(5)


def many(ends: Ends) -> None:
    listener = ends.listen()
    serving = ends.server.begin("serve_echo_once", listener.number, 100)
    assert ends.client.call("connect_and_echo", ends.address, ends.port, 100) == 100
    serving.result(10)


def test_closes(traced: Traced) -> None:
    with traced.look() as ends:
        for close in (first, half, together, many):
            close(ends)
        time.sleep(0.1)
    opened = traced.count("tcp.flags.syn == 1 && tcp.flags.ack == 0")
    assert traced.count("tcp.flags.fin == 1") >= 2 * opened
    assert traced.count("tcp.flags.reset == 1") == 0


def refused(ends: Ends) -> None:
    with pytest.raises(OSError) as caught:
        ends.client.connect(ends.address, ends.port)
    assert caught.value.errno == errno.ECONNREFUSED


def late(ends: Ends) -> None:
    """Data for a socket that was closed."""
    server, client = ends.connected()
    server.close()
    assert client.recv(1) == b""
    client.sendall(b"x")
    with pytest.raises(OSError):
        for _ in range(100):
            client.sendall(b"x")
            time.sleep(0.01)


def test_resets(traced: Traced) -> None:
    with traced.look(RESET) as ends:
        for reset in (unread, lingering, refused, late):
            reset(ends)
    assert traced.count("tcp.flags.reset == 1") >= 4


def test_losses(lab: Lab, port: int, server_on: str, tmp_path: Path) -> None:
    """A bad link between the capture and the kernel: what is lost is sent again, and all else is as it should be."""
    config = "[faults]\nseed = 3\ndrop = 0.05\nreorder = 0.02\nduplicate = 0.02\n"
    with lab.scope():
        traced = Traced(lab.stack(replicas=1, config=config), port, server_on, tmp_path / "trace.pcapng")
        with traced.look(*WINDOW_ENDS, *LOSSY) as ends:
            server, client = ends.connected()
            sending = [server.begin("send_stream", 1, 1_500_000), client.begin("send_stream", 2, 1_500_000)]
            for seed, end in ((1, client), (2, server)):
                assert end.receive_stream(1_500_000) == (1_500_000, digest(seed, 1_500_000))
            for sent in sending:
                sent.result(10)
        assert traced.count("tcp.analysis.retransmission or tcp.analysis.lost_segment") > 0
