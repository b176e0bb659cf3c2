"""TCP Fast Open (RFC 7413) against the kernel: cookies of the one at the other, text on SYNs, both ways."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from neatstack.experiment.netns import Namespace
from tests.conftest import Pair
from tests.peers.conftest import Ends

TIMES = 12  # each replica of ours learns a cookie for itself
SYN_DATA = 32  # TCPI_OPT_SYN_DATA


@pytest.fixture(autouse=True)
def allowed(pair: Pair) -> None:
    """Both sides of it, in the kernels that take part."""
    for side in (pair.server, pair.client):
        if isinstance(side, Namespace):
            with side.entered():
                Path("/proc/sys/net/ipv4/tcp_fastopen").write_text("3")


def had_text(sock: object) -> bool:
    """Whether the kernel says that text on the SYN was taken."""
    info: bytes = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)  # type: ignore[attr-defined]
    return bool(info[5] & SYN_DATA)


@pytest.mark.parametrize("deferred", [False, True], ids=["MSG_FASTOPEN", "TCP_FASTOPEN_CONNECT"])
def test_text_on_the_syn(ends: Ends, pair: Pair, deferred: bool) -> None:
    listener = ends.listen()
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)
    listener.settimeout(5)
    taken = 0
    for number in range(TIMES):
        client = ends.client.socket()
        request = b"request %d" % number
        if deferred:
            client.setsockopt(socket.IPPROTO_TCP, 30, 1)  # TCP_FASTOPEN_CONNECT
            client.connect((ends.address, ends.port))
            assert client.send(request) == len(request)
        else:
            assert client.sendto(request, socket.MSG_FASTOPEN, (ends.address, ends.port)) == len(request)
        server = listener.accept()
        server.settimeout(5)
        assert server.recv(100) == request
        server.send(b"answer")
        client.settimeout(5)
        assert client.recv(100) == b"answer"
        for side, sock in ((pair.server, server), (pair.client, client)):
            if isinstance(side, Namespace):
                taken += had_text(sock)
        client.close()
        server.close()
    if any(isinstance(side, Namespace) for side in (pair.server, pair.client)):
        assert taken >= TIMES - 4


def test_a_large_first_send(ends: Ends) -> None:
    listener = ends.listen()
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)
    for _ in range(3):
        client = ends.client.socket()
        sending = client.begin("sendto", b"x" * 100_000, socket.MSG_FASTOPEN, (ends.address, ends.port))
        server = listener.accept()
        assert server.receive_stream(100_000)[0] == sending.result() == 100_000
        client.close()
        server.close()
