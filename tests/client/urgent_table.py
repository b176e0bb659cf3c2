"""Sends urgent data from one end of a connection to the other, and prints what the other end sees, as JSON."""

from __future__ import annotations

import array
import errno
import fcntl
import json
import select
import socket
import sys
import time
from typing import Any

FIONREAD, SIOCATMARK = 0x541B, 0x8905
OOB, PEEK, WAITALL, DONTWAIT = socket.MSG_OOB, socket.MSG_PEEK, socket.MSG_WAITALL, socket.MSG_DONTWAIT


def ask(sock: socket.socket, request: int) -> int:
    value = array.array("i", [-1])
    fcntl.ioctl(sock, request, value)
    return value[0]


def events(sock: socket.socket) -> list[int]:
    """What poll, select and epoll say, now."""
    poll = select.poll()
    poll.register(sock, select.POLLIN | select.POLLPRI)
    found = dict(poll.poll(0)).get(sock.fileno(), 0)
    ready, _, except_ = select.select([sock], [], [sock], 0)
    epoll = select.epoll()
    epoll.register(sock, select.EPOLLIN | select.EPOLLPRI)
    told = dict(epoll.poll(0)).get(sock.fileno(), 0)
    epoll.close()
    return [found, bool(ready), bool(except_), told]


def receive(sock: socket.socket, most: int, flags: int = 0) -> str:
    try:
        return sock.recv(most, flags | DONTWAIT).decode()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def look(sock: socket.socket) -> list[Any]:
    return [events(sock), ask(sock, FIONREAD), ask(sock, SIOCATMARK)]


SCRIPTS = {
    "stream": [
        ("send", b"abc"), ("urge", b"!"), ("send", b"def"), "look", (100, 0), "look", (1, OOB | PEEK), (1, OOB),
        (1, OOB), "look", (100, 0), "look", (1, OOB),
    ],
    "alone": [("urge", b"x"), "look", (1, OOB), "look", (10, 0), "look", (1, OOB)],
    "passed over": [("urge", b"x"), (10, 0), (1, OOB), ("send", b"y"), "look", (10, 0)],
    "two": [("urge", b"ab"), ("urge", b"cd"), "look", (100, 0), "look", (1, OOB), (100, 0), "look"],
    "two, the first taken": [("urge", b"ab"), (1, OOB), ("urge", b"cd"), "look", (100, 0), (1, OOB), (100, 0), "look"],
    "peek": [("send", b"ab"), ("urge", b"!"), ("send", b"cd"), (100, PEEK), (2, 0), (100, PEEK), "look", (100, 0)],
    "short reads": [("send", b"ab"), ("urge", b"!"), ("send", b"cd"), (1, 0), (1, 0), "look", (1, 0), (1, 0), (1, 0)],
    "all of it": [("send", b"ab"), ("urge", b"!"), ("send", b"cd"), (4, WAITALL), (2, WAITALL), "look"],
    "none": [(1, OOB), ("send", b"a"), (1, OOB), "look", (1, 0)],
    "end": [("urge", b"a"), "end", "look", (1, OOB), (10, 0), (1, OOB), "look"],
}  # fmt: skip


def play(address: str, script: list[Any], inline: int) -> list[Any]:
    told: list[Any] = []
    with socket.create_server((address, 0)) as server:
        sender = socket.create_connection(server.getsockname())
        receiver = server.accept()[0]
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, inline)
    sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for step in script:
        match step:
            case "look":
                told.append(look(receiver))
                continue
            case "end":
                sender.shutdown(socket.SHUT_WR)
            case ("send", data):
                sender.send(data)
            case ("urge", data):
                told.append(sender.send(data, OOB))
            case (most, flags):
                told.append(receive(receiver, most, flags))
                continue
        time.sleep(0.03)  # until it is there
    sender.close()
    receiver.close()
    return told


def main(address: str) -> None:
    played = {f"{name}, inline {inline}": play(address, script, inline)
              for name, script in SCRIPTS.items() for inline in (0, 1)}  # fmt: skip
    print(json.dumps(played))


if __name__ == "__main__":
    main(sys.argv[1])
