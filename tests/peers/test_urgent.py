"""Urgent data and the options of listeners, against the kernel."""

from __future__ import annotations

import socket
import time

import pytest

from tests.peers.conftest import Ends

OOB = socket.MSG_OOB


def test_urgent_data_both_ways(ends: Ends) -> None:
    server, client = ends.connected()
    for sender, receiver in ((client, server), (server, client)):
        receiver.settimeout(5)
        sender.send(b"before")
        sender.send(b"?!", OOB)
        sender.send(b"after")
        assert receiver.recv(7, socket.MSG_WAITALL) == b"before?"
        end = time.monotonic() + 5
        while time.monotonic() < end:  # announced, and on its way
            try:
                assert receiver.recv(1, OOB) == b"!"
                break
            except BlockingIOError:
                time.sleep(0.001)
        assert receiver.recv(5, socket.MSG_WAITALL) == b"after"


def test_urgent_data_in_line(ends: Ends) -> None:
    server, client = ends.connected()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    server.settimeout(5)
    client.send(b"x" * 20_000, OOB)
    client.send(b"y" * 20_000)
    got = b""
    while len(got) < 40_000:
        got += server.recv(40_000)
    assert got == b"x" * 20_000 + b"y" * 20_000


def test_defer_accept(ends: Ends) -> None:
    listener = ends.listen()
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
    client = ends.client.connect(ends.address, ends.port)
    listener.settimeout(0.2)
    with pytest.raises(TimeoutError):
        listener.accept()
    client.send(b"hello")
    listener.settimeout(5)
    assert listener.accept().recv(5) == b"hello"


def test_maxseg_of_a_listener(ends: Ends) -> None:
    listener = ends.listen()
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 700)
    client = ends.client.connect(ends.address, ends.port)
    accepted = listener.accept()
    assert 600 <= client.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) <= 700
    client.send_stream(1, 100_000)
    assert accepted.receive_stream(100_000)[0] == 100_000
