"""Opening, closing and failing, as a program sees it, against the kernel."""

from __future__ import annotations

import errno
import hashlib
import socket
import struct
import sys
import time
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeoutError

import pytest

from neatstack.experiment.netns import Lab, Stack
from tests.peers.conftest import Ends
from tests.peers.endings import LINGER_LONG, LINGER_RESET, lingering, unread, unread_lingering
from tests.support.puppet import Puppet


def test_both_ends_know_each_other(ends: Ends) -> None:
    server, client = ends.connected()
    assert server.getsockname() == client.getpeername() == (ends.address, ends.port)
    assert client.getsockname() == server.getpeername()
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_echo(ends: Ends) -> None:
    server, client = ends.connected()
    for message in (b"a", b"b" * 1000, b"c" * 100_000):
        client.sendall(message)
        assert server.receive_stream(len(message))[0] == len(message)
        server.sendall(message[:50])
        assert client.recv(100) == message[:50]


def test_setting_nodelay_sends_what_is_corked(ends: Ends) -> None:
    """tcp(7): at once, before the 200 ms of the cork are over; what comes later is held again. So with MSG_MORE."""
    server, client = ends.connected()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    for _ in range(2):  # the second time the option does not change
        client.send(b"held")
        server.settimeout(0.02)
        with pytest.raises(TimeoutError):
            server.recv(4)
        server.settimeout(0.12)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert server.recv(4) == b"held"
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
    client.send(b"more", socket.MSG_MORE)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    assert server.recv(4) == b"more"


def test_half_close(ends: Ends) -> None:
    """The end that has sent its FIN still receives (RFC 9293, 3.6)."""
    server, client = ends.connected()
    client.sendall(b"request")
    client.shutdown(socket.SHUT_WR)
    assert server.recv(100) == b"request"
    assert server.recv(100) == b""
    server.send_stream(1, 300_000)
    assert client.receive_stream(300_000)[0] == 300_000
    with pytest.raises(BrokenPipeError):
        client.send(b"more")
    server.close()
    assert client.recv(100) == b""


def test_a_socket_whose_connection_has_ended_has_no_peer(ends: Ends) -> None:
    """Both ends have sent their FIN, and what came can still be read: as on Linux, which keeps TIME-WAIT without it."""
    server, client = ends.connected()
    client.shutdown(socket.SHUT_WR)
    assert server.recv(1) == b""
    assert client.getpeername() == (ends.address, ends.port)
    server.sendall(b"last")
    server.close()
    assert client.recv(1, socket.MSG_PEEK) == b"l"
    assert client.receive_stream() == (4, hashlib.sha256(b"last").hexdigest())
    for call in (lambda: client.getpeername(), lambda: client.shutdown(socket.SHUT_RDWR)):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.ENOTCONN
    assert client.getsockname()[1] != 0


def test_server_closes_first(ends: Ends) -> None:
    server, client = ends.connected()
    server.sendall(b"bye")
    server.close()
    assert client.receive_stream()[0] == 3
    client.close()


@pytest.mark.parametrize("how", [unread, unread_lingering, lingering])
def test_endings_that_reset(ends: Ends, how: Callable[[Ends], None]) -> None:
    how(ends)


@pytest.mark.parametrize("blocking", [True, False])
def test_close_waits_until_all_is_taken_if_it_shall(ends: Ends, blocking: bool) -> None:
    """SO_LINGER, as on Linux of a nonblocking socket, too."""
    server, client = ends.connected()
    client.settimeout(0.1)
    sent = 0
    with pytest.raises(TimeoutError):
        while True:
            sent += client.send(b"x" * 65536)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_LONG)
    client.setblocking(blocking)
    closing = client.begin("close")
    with pytest.raises(FutureTimeoutError):
        closing.result(0.2)
    assert server.receive_stream()[0] == sent
    closing.result(10)


def test_a_connect_that_was_given_up_is_under_way(stack: Stack) -> None:
    """SO_SNDTIMEO: the first says so, and who waits again for the same hears that it is not the first, as on Linux."""
    client = Puppet(stack.programs).socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 100_000))
    for expected in (errno.EINPROGRESS, errno.EALREADY):
        with pytest.raises(OSError) as caught:
            client.connect(("10.77.0.99", 9))
        assert caught.value.errno == expected


def test_send_after_reset(ends: Ends) -> None:
    server, client = ends.connected()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
    client.close()
    with pytest.raises(OSError) as caught:  # reset is reported once, then it is a broken pipe
        for _ in range(100):
            server.send(b"x")
            time.sleep(0.01)
    assert caught.value.errno in (errno.ECONNRESET, errno.EPIPE)


def test_refused(ends: Ends) -> None:
    with pytest.raises(ConnectionRefusedError):
        ends.client.connect(ends.address, ends.port)


def test_program_death_ends_its_connections(ends: Ends) -> None:
    server, client = ends.connected()
    ends.server.process.stop(grace=0.5)
    try:
        assert client.recv(100) == b""
    except ConnectionResetError:
        pass
    with pytest.raises(ConnectionRefusedError):
        ends.client.connect(ends.address, ends.port)


def test_backlog(ends: Ends) -> None:
    """Connections that come before accept() wait, with what they have sent."""
    listener = ends.listen()
    clients = [ends.client.connect(ends.address, ends.port) for _ in range(20)]
    for number, client in enumerate(clients):
        client.sendall(b"%d" % number)
    accepted = [listener.accept() for _ in clients]
    assert sorted(int(each.recv(10)) for each in accepted) == list(range(20))


def test_churn(ends: Ends) -> None:
    """Many connections, one after the other, on one port."""
    listener = ends.listen(1024)
    accepting = ends.server.begin("serve_echo_once", listener.number, 1000)
    assert ends.client.call("connect_and_echo", ends.address, ends.port, 1000) == 1000
    assert accepting.result(10) == 1000


def test_descriptors_are_not_leaked(ends: Ends) -> None:
    listener = ends.listen()
    ends.client.connect(ends.address, ends.port).close()  # the first one opens what all others use
    listener.accept().close()
    before = ends.server.call("descriptors"), ends.client.call("descriptors")
    for _ in range(20):
        client = ends.client.connect(ends.address, ends.port)
        server = listener.accept()
        client.close()
        server.close()
    assert (ends.server.call("descriptors"), ends.client.call("descriptors")) == before


def test_non_blocking_connect(ends: Ends) -> None:
    ends.listen()
    client = ends.client.socket()
    client.setblocking(False)
    assert client.connect_ex((ends.address, ends.port)) in (0, errno.EINPROGRESS)
    ends.client.call("wait_writable", client.number, 5.0)
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    with pytest.raises(BlockingIOError):
        client.recv(1)


def test_timeout(ends: Ends) -> None:
    server, client = ends.connected()
    client.settimeout(0.2)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        client.recv(1)
    assert 0.1 < time.monotonic() - started < 2
    server.sendall(b"x")
    assert client.recv(1) == b"x"


def test_keepalive_holds_and_gives_up(stack: Stack, port: int) -> None:
    """Probes keep an idle connection; when nobody answers them it ends with ETIMEDOUT (RFC 9293, 3.8.4)."""
    with stack.lab.scope():
        server, client = Puppet(stack.host), Puppet(stack.programs)
        ends = Ends(server, client, stack.host_address, port)
        far, near = ends.connected()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT):
            near.setsockopt(socket.IPPROTO_TCP, option, 1)
        time.sleep(2.5)
        far.sendall(b"x")
        assert near.recv(1) == b"x"
        waiting = near.begin("recv", 1)
        stack.host.ip("link", "set", stack.device, "down")
        try:
            with pytest.raises(TimeoutError) as caught:
                waiting.result(15)
            assert caught.value.errno == errno.ETIMEDOUT  # not that of result()
        finally:
            stack.host.ip("link", "set", stack.device, "up")


COME_AND_GO = """
import socket, sys
for number in range(20):
    listener = socket.create_server((sys.argv[1], 0))
    client = socket.create_connection(listener.getsockname())
    server = listener.accept()[0]
    server.send(b"x")
    assert client.recv(1) == b"x"
    for each in (client, server, listener):
        each.close()
"""


def test_listeners_come_and_go(lab: Lab) -> None:
    """More of them than the rings have room for, of which those of replicas that never run are not emptied."""
    with lab.scope():
        stack = lab.stack(replicas=1, config="sockets = 64\n", options=["--max-replicas", 4])
        stack.programs.run(sys.executable, "-c", COME_AND_GO, stack.address, timeout=20)
