"""What calls on both ends of a connection say: prints it as JSON, on the kernel or on a stack. No test itself.

shutdown(). The argument is an IPv4 address of the host.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from typing import Any

from tests.client.options_table import attempt

SOON = 0.03  # seconds until what was sent is there
READ, WRITE, BOTH = socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR
SHUT: dict[str, list[tuple[Any, ...]]] = {
    "shut for reading": [("shut", READ), ("look",), ("send", b"abc"), ("look",), ("recv", 2), ("recv", 9), ("recv", 9),
                         ("answer", b"de"), ("hear", 9), ("send", b"f"), ("end",), ("recv", 9), ("recv", 9)],
    "shut with text unread": [("send", b"abc"), ("shut", READ), ("recv", 2), ("send", b"d"), ("recv", 9), ("recv", 9)],
    "shut, and nothing read": [("shut", READ), ("fill",), ("answer", b"de"), ("hear", 9)],
    "shut, and closed": [("shut", READ), ("send", b"abc"), ("close",), ("hear", 9)],
    "shut, and reset": [("shut", READ), ("reset",), ("recv", 9), ("recv", 9)],
    "shut both ways": [("send", b"abc"), ("shut", BOTH), ("recv", 2), ("hear", 9), ("send", b"d"), ("look",),
                       ("send", b"e"), ("recv", 9), ("recv", 9), ("recv", 9), ("answer", b"f"), ("hear", 9)],
    "shut one after the other": [("shut", WRITE), ("send", b"a"), ("recv", 9), ("shut", READ), ("send", b"b"),
                                 ("look",), ("send", b"c"), ("recv", 9)],
    "shut after the end": [("end",), ("shut", BOTH), ("look",), ("recv", 9), ("answer", b"a")],
}  # fmt: skip


def connection(address: str) -> tuple[socket.socket, socket.socket]:
    with socket.create_server((address, 0)) as server:
        sender = socket.create_connection(server.getsockname())
        receiver = server.accept()[0]
    for each in sender, receiver:
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        each.setblocking(False)
    return sender, receiver


def ready(sock: socket.socket) -> int:
    poll = select.poll()
    poll.register(sock, select.POLLIN | select.POLLOUT | select.POLLRDHUP)
    return dict(poll.poll(0)).get(sock.fileno(), 0)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


def fill(sock: socket.socket) -> str:
    """Until nothing more is taken; what it says then."""
    for _ in range(5):
        while isinstance(said := attempt(lambda: sock.send(bytes(1_000_000))), int):
            pass
        time.sleep(SOON)
    return str(said)


def step(sender: socket.socket, receiver: socket.socket, what: str, *rest: Any) -> Any:
    works: dict[str, Any] = {
        "send": sender.send,
        "end": lambda: sender.shutdown(WRITE),
        "reset": lambda: reset(sender),
        "fill": lambda: fill(sender),
        "hear": lambda most: sender.recv(most).decode(),
        "shut": receiver.shutdown,
        "close": receiver.close,
        "recv": lambda most: receiver.recv(most).decode(),
        "answer": receiver.send,
        "look": lambda: [ready(sender), ready(receiver)],
    }
    said = attempt(lambda: works[what](*rest))
    time.sleep(SOON)
    return [what, said]


def play(address: str, script: list[tuple[Any, ...]]) -> list[Any]:
    sender, receiver = connection(address)
    told = [step(sender, receiver, *each) for each in script]
    sender.close()
    receiver.close()
    return told


def main(address: str) -> None:
    print(json.dumps({name: play(address, script) for name, script in SHUT.items()}))


if __name__ == "__main__":
    main(sys.argv[1])
