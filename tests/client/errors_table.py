"""What the socket of a connection hears of ICMP errors: prints it as JSON, on the kernel or on a stack. No test itself.

The arguments are the IPv4 address and the port of a server that echoes, behind a router, to which a TTL of 1 does not
reach.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.client.options_table import attempt

RECVERR, TTL, ERRQUEUE, WAIT = 11, socket.IP_TTL, socket.MSG_ERRQUEUE, socket.MSG_DONTWAIT
SOON = 0.05  # seconds until the router has answered
SCRIPTS: dict[str, list[tuple[Any, ...]]] = {
    "not connected": [("queue",), ("hear", 1), ("queue",)],
    "opening": [("far", 1), ("connect",), ("poll",), ("error",), ("recv",), ("error",)],
    "opening, and it wants to hear": [("hear", 1), ("far", 1), ("connect",), ("poll",), ("queue",), ("poll",),
                                      ("error",), ("queue",), ("poll",)],
    "the error first": [("hear", 1), ("far", 1), ("connect",), ("error",), ("poll",), ("queue",), ("poll",)],
    "by recv": [("hear", 1), ("far", 1), ("connect",), ("recv",), ("queue", 0), ("recv",)],
    "little room": [("hear", 1), ("far", 1), ("connect",), ("queue", 20, 30), ("queue",)],
    "again": [("hear", 1), ("far", 1), ("connect",), ("connect",), ("queue",), ("connect",), ("connect",), ("queue",),
              ("queue",)],
    "and it waits": [("hear", 1), ("far", 1), ("block",), ("connect",), ("error",), ("queue",)],
    "open": [("connect",), ("far", 1), ("send",), ("far", 9), ("poll",), ("recv",), ("queue",), ("error",), ("error",),
             ("wait",), ("recv",)],
    "open, and it wants to hear": [("connect",), ("hear", 1), ("far", 1), ("send",), ("far", 9), ("poll",), ("queue",),
                                   ("poll",), ("error",), ("poll",), ("error",), ("wait",), ("recv",)],
    "open, by recv": [("connect",), ("hear", 1), ("far", 1), ("send",), ("far", 9), ("recv",), ("recv",), ("wait",),
                      ("recv",)],
    "open, by send": [("connect",), ("hear", 1), ("far", 1), ("send",), ("far", 9), ("send",), ("poll",), ("send",),
                      ("wait",)],
    "beside what waits": [("connect",), ("hear", 1), ("send",), ("far", 1), ("send",), ("far", 9), ("poll",), ("recv",),
                          ("recv",), ("recv",), ("wait",), ("recv",)],
    "too late": [("connect",), ("far", 1), ("send",), ("far", 9), ("hear", 1), ("poll",), ("wait",), ("recv",)],
    "it does not want to any more": [("connect",), ("hear", 1), ("hear", 0), ("far", 1), ("send",), ("far", 9),
                                     ("poll",), ("recv",), ("error",), ("error",)],
    "acknowledged since": [("connect",), ("far", 1), ("send",), ("far", 9), ("wait",), ("error",)],
    "edges": [("connect",), ("edge",), ("hear", 1), ("far", 1), ("send",), ("far", 9), ("edge",), ("edge",),
              ("error",)],
    "it waits": [("connect",), ("hear", 1), ("block",), ("send later",), ("far", 1), ("recv",), ("far", 9), ("recv",)],
}  # fmt: skip


class Play:
    def __init__(self, name: tuple[str, int]) -> None:
        self.name = name
        self.socket = socket.socket()
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.edges = select.epoll()
        self.edges.register(self.socket, select.EPOLLIN | select.EPOLLET)

    def queue(self, room: int = 200, control_room: int = 200) -> list[Any]:
        """The quoted text is told up to what differs from one connection to the next."""
        data, control, flags, name = self.socket.recvmsg(room, control_room, ERRQUEUE)
        told = []
        for level, kind, value in control:
            error = struct.unpack("IBBBxII", value[:16]) if len(value) >= 16 else None
            told.append([level, kind, error, len(value), value[16:20].hex(), any(value[20:24]), any(value[24:])])
        port = len(data) < 4 or struct.unpack("!2xH", data[:4])[0] == self.name[1]
        return [len(data), port, told, flags, bool(name) and name[0] == self.name[0] and name[1] == self.name[1]]

    def poll(self) -> int:
        poll = select.poll()
        poll.register(self.socket, select.POLLIN | select.POLLOUT | select.POLLRDHUP)
        return dict(poll.poll(0)).get(self.socket.fileno(), 0)

    def wait(self) -> int:
        """Until the echo is there."""
        return len(select.select([self.socket], [], [], 10)[0])

    def send_later(self) -> None:
        threading.Timer(SOON, lambda: self.socket.send(b"late", WAIT)).start()

    def step(self, what: str, *rest: Any) -> Any:
        sock = self.socket
        works: dict[str, Callable[..., Any]] = {
            "hear": lambda on: sock.setsockopt(0, RECVERR, on),
            "far": lambda hops: sock.setsockopt(0, TTL, hops),
            "block": lambda: sock.settimeout(10),
            "connect": lambda: sock.connect(self.name),
            "send": lambda: sock.send(b"text", WAIT),
            "send later": self.send_later,
            "recv": lambda: sock.recv(100).decode(),
            "error": lambda: sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR),
            "queue": self.queue,
            "poll": self.poll,
            "edge": lambda: [event for _, event in self.edges.poll(0)],
            "wait": self.wait,
        }
        said = attempt(lambda: works[what](*rest))
        if what in ("connect", "send"):
            time.sleep(SOON)
        return [what, said]


def play(name: tuple[str, int], script: list[tuple[Any, ...]]) -> list[Any]:
    one = Play(name)
    told = [one.step(*each) for each in script]
    one.edges.close()
    one.socket.close()
    return told


if __name__ == "__main__":
    server = sys.argv[1], int(sys.argv[2])
    with ThreadPoolExecutor(len(SCRIPTS)) as pool:
        told = pool.map(lambda script: play(server, script), SCRIPTS.values())
    print(json.dumps(dict(zip(SCRIPTS, told, strict=True))))
