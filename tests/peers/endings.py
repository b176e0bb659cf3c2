"""Ways in which a connection ends with a reset, for whoever looks at what they do."""

from __future__ import annotations

import socket
import struct

import pytest

from tests.peers.conftest import Ends

LINGER_RESET = struct.pack("ii", 1, 0)


LINGER_LONG = struct.pack("ii", 1, 30)


def unread(ends: Ends, linger: bytes = b"") -> None:
    """Closed with something unread: RFC 2525, 2.17."""
    server, client = ends.connected()
    if linger:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    client.sendall(b"never read")
    assert server.recv(1) == b"n"
    server.close()
    with pytest.raises(ConnectionResetError):
        client.recv(100)


def unread_lingering(ends: Ends) -> None:
    """That is so also of who would wait for what it has sent."""
    unread(ends, LINGER_LONG)


def lingering(ends: Ends) -> None:
    """Closed with SO_LINGER 0."""
    server, client = ends.connected()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
    client.close()
    with pytest.raises(ConnectionResetError):
        server.recv(100)
    server.close()
