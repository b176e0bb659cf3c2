"""JSON with descriptors attached, one message a packet, over SOCK_SEQPACKET: how keeper, manager and replicas talk."""

import array
import json
import os
import socket
from typing import Any

LARGEST = 1 << 16  # bytes of JSON
MOST_DESCRIPTORS = 64  # in one message; the kernel allows 253


def send(sock: socket.socket, message: dict[str, Any], descriptors: list[int] | None = None) -> None:
    """Send one message. Raises OSError, BlockingIOError when `sock` does not block and is full."""
    data = json.dumps(message, separators=(",", ":")).encode()
    if descriptors:
        socket.send_fds(sock, [data], descriptors)
    else:
        sock.send(data)


def receive(sock: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next message with its descriptors (close-on-exec); None at end of file.

    Raises ValueError for what is not one whole JSON object; its descriptors are closed.
    """
    # not socket.recv_fds(): Python 3.11's ignores its flags
    room = socket.CMSG_SPACE(MOST_DESCRIPTORS * array.array("i").itemsize)
    data, ancillary, flags, _ = sock.recvmsg(LARGEST, room, socket.MSG_CMSG_CLOEXEC)
    descriptors = _descriptors(ancillary)
    if not data:
        return None
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise ValueError("message too long")
        message = json.loads(data)
        if not isinstance(message, dict):
            raise ValueError("message is not an object")
    except ValueError:
        close(descriptors)
        raise
    return message, descriptors


def close(descriptors: list[int]) -> None:
    """Close them all."""
    for descriptor in descriptors:
        os.close(descriptor)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """Those that came with a message."""
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)
