"""JSON with descriptors attached, one message a packet, over SOCK_SEQPACKET: how keeper, manager and replicas talk."""

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
    data, descriptors, flags, _ = socket.recv_fds(sock, LARGEST, MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
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
    return message, list(descriptors)


def close(descriptors: list[int]) -> None:
    """Close them all."""
    for descriptor in descriptors:
        os.close(descriptor)
