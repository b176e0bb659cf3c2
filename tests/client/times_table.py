"""When it was sent, acknowledged, received: prints it as JSON, on the kernel or on a stack. No test itself.

SO_TIMESTAMPING, SO_TIMESTAMP, SO_TIMESTAMPNS, MSG_ERRQUEUE.
The argument is an IPv4 address of the host. Times are told as whether they are about now.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.client.ends import SOON, Ends
from tests.client.options_table import SOL, attempt
from tests.client.stream_table import ready

TIMESTAMP, TIMESTAMPNS, TIMESTAMPING, INQ, ERRQUEUE = 29, 35, 37, 36, socket.MSG_ERRQUEUE
HARDWARE, SOFT, RECEIVED, REPORT, ID, SCHED, ACKED, CMSG, ONLY = 1, 2, 8, 16, 128, 256, 512, 1024, 2048
BIND, ID_TCP = 1 << 15, 1 << 16
ALL = SOFT | SCHED | ACKED
SCRIPTS: dict[str, list[tuple[Any, ...]]] = {
    "nothing": [("send", 10), ("told",), ("message",), ("look",)],
    "as asked": [("asked",), ("ask", ALL | REPORT), ("asked",), ("ask", 0), ("asked",), ("ask", 1 << 22), ("asked",),
                 ("ask", ID_TCP), ("ask", 1 << 12), ("ask", 1 << 12 | ONLY), ("ask", ID | REPORT), ("asked",)],
    "all": [("ask", ALL | REPORT | ONLY), ("send", 10), ("look",), *[("told",)] * 4, ("look",)],
    "and numbers": [("send", 7), ("ask", ALL | REPORT | ONLY | ID), ("send", 10), ("send", 20), *[("told",)] * 7],
    "numbered from what is sent": [("send", 7), ("ask", SOFT | REPORT | ONLY | ID | ID_TCP), ("send", 10), ("told",)],
    "the number stays": [("ask", SOFT | REPORT | ONLY | ID), ("send", 10), ("ask", ACKED | REPORT | ONLY | ID),
                         ("send", 5), *[("told",)] * 3],
    "and begins anew": [("ask", SOFT | REPORT | ONLY | ID), ("send", 10), ("told",), ("ask", 0),
                        ("ask", SOFT | REPORT | ONLY | ID), ("send", 5), ("told",)],
    "one each": [("ask", SOFT | REPORT | ONLY), ("send", 10), ("told",), ("told",), ("ask", ACKED | REPORT | ONLY),
                 ("send", 10), ("told",), ("told",), ("ask", SCHED | REPORT | ONLY), ("send", 10), ("told",),
                 ("told",)],
    "not reported": [("ask", SOFT | ONLY), ("send", 10), ("told",), ("look",)],
    "by hardware": [("ask", HARDWARE | 64 | ONLY), ("send", 10), ("told",)],
    "with the packet": [("ask", ACKED | REPORT), ("send", 10), ("told", 0), ("ask", SOFT | REPORT), ("send", 10),
                        ("told", 0)],
    "little room": [("ask", SOFT | REPORT | ONLY), ("send", 10), ("told", 10, 20), ("told",)],
    "by ancillary data": [("ask", REPORT | ONLY | ID), ("send", 10, SOFT), ("told",), ("send", 10, ACKED | SCHED),
                          *[("told",)] * 3, ("send", 10), ("told",), ("send", 10, ID), ("send", 10, REPORT)],
    "ancillary data alone": [("send", 10, SOFT), ("told", 0), ("told",)],
    "ancillary data says no": [("ask", SOFT | REPORT | ONLY), ("send", 10, 0), ("told",), ("send", 10, ACKED),
                               ("told",), ("told",)],
    "by recv": [("ask", SOFT | REPORT | ONLY), ("send", 10), ("hear",), ("hear",)],
    "recv waits": [("ask", SOFT | REPORT | ONLY), ("send", 10), ("answer later",), ("block",), ("told",), ("told",)],
    "edges": [("edge",), ("ask", SOFT | REPORT | ONLY), ("send", 10), ("edge",), ("edge",), ("send", 10), ("edge",),
              ("told",), ("told",), ("edge",)],
    "received": [("want", TIMESTAMPING, RECEIVED | REPORT), ("send", 10), ("message",), ("want", TIMESTAMPING, REPORT),
                 ("want", TIMESTAMPING, 0), ("send", 10), ("message",)],
    "received, microseconds": [("want", TIMESTAMP, 1), ("send", 10), ("message", 4), ("message", 4), ("send", 1),
                               ("message",)],
    "received, nanoseconds": [("want", TIMESTAMPNS, 1), ("send", 10), ("message",), ("want", TIMESTAMP, 1),
                              ("send", 10), ("message",), ("wanted", TIMESTAMP), ("wanted", TIMESTAMPNS),
                              ("want", TIMESTAMPNS, 0), ("wanted", TIMESTAMP), ("send", 10), ("message",)],
    "received, all": [("want", TIMESTAMPNS, 1), ("want", TIMESTAMPING, RECEIVED | REPORT), ("inq",), ("send", 10),
                      ("message", 4), ("message", 4, 80)],
    "and told with it": [("ask", SOFT | REPORT | ONLY), ("mark", TIMESTAMPNS), ("send", 10), ("told",)],
    "the end": [("want", TIMESTAMPING, RECEIVED | REPORT), ("end",), ("message",)],
}  # fmt: skip
ALONE: dict[str, list[tuple[Any, ...]]] = {
    "the frame": [("ask", SOFT | SCHED | REPORT), ("send", 10), ("frame",), ("frame", 30), ("frame",)],
    "the frame by ancillary data": [("send", 10, SOFT), ("frame",)],
    "not sent": [("ask", SOFT | REPORT | ONLY | ID), ("send", 5), ("send", 70000), ("send", 6), ("told",), ("told",)],
}
OF_DATAGRAMS = (
    "received",
    "received, microseconds",
    "received, nanoseconds",
    "nothing",
    "as asked",
    "all",
    "and numbers",
    "one each",
    "not reported",
    "little room",
    "by ancillary data",
    "ancillary data says no",
    "by recv",
    "recv waits",
    "edges",
    "and told with it",
)


def about_now(kind: int, value: bytes) -> Any:
    """The first time of the kinds that have one, and how much more there is."""
    if kind not in (TIMESTAMP, TIMESTAMPNS, TIMESTAMPING):
        return value.hex()
    if len(value) < 16:
        return len(value)
    seconds, parts = struct.unpack("qq", value[:16])
    return [abs(seconds + parts / (1e6 if kind == TIMESTAMP else 1e9) - time.time()) < 5, any(value[16:]), len(value)]


class Play(Ends):
    def __init__(self, address: str, kind: socket.SocketKind) -> None:
        super().__init__(address)
        if kind == socket.SOCK_DGRAM:
            self.sender.close()
            self.receiver.close()
            self.sender, self.receiver = (socket.socket(socket.AF_INET, kind) for _ in range(2))
            for end in self.sender, self.receiver:
                end.bind((address, 0))
            self.sender.connect(self.receiver.getsockname())
            self.receiver.connect(self.sender.getsockname())
        for end in self.sender, self.receiver:
            end.setblocking(False)
        self.edges.register(self.sender, select.EPOLLIN | select.EPOLLET)

    def told(self, room: int = 100, control_room: int = 500) -> list[Any]:
        data, control, flags, name = self.sender.recvmsg(room, control_room, ERRQUEUE)
        return [len(data), [[level, kind, about_now(kind, value)] for level, kind, value in control], flags, bool(name)]

    def frame(self, room: int = 100) -> list[Any]:
        data, _, flags, _ = self.sender.recvmsg(room, 500, ERRQUEUE)
        ports = struct.pack("!HH", self.sender.getsockname()[1], self.receiver.getsockname()[1])
        return [len(data), data[:18].hex(), data[22:24].hex(), data[26:34].hex(), data[34:38] == ports,
                data[38:40].hex(), data[42:].hex(), flags]  # fmt: skip

    def message(self, most: int = 100, control_room: int = 500) -> list[Any]:
        data, control, flags, _ = self.receiver.recvmsg(most, control_room)
        return [len(data), [[level, kind, about_now(kind, value)] for level, kind, value in control], flags]

    def block(self) -> int:
        self.sender.setblocking(True)
        heard = len(self.sender.recv(100))
        self.sender.setblocking(False)
        return heard

    def send(self, count: int, *wanted: int) -> int:
        return self.sender.sendmsg([bytes(count)], [(SOL, TIMESTAMPING, struct.pack("I", each)) for each in wanted])

    def step(self, what: str, *rest: Any) -> Any:
        sender, receiver = self.sender, self.receiver
        works: dict[str, Callable[..., Any]] = {
            "ask": lambda value: sender.setsockopt(SOL, TIMESTAMPING, value),
            "asked": lambda: [sender.getsockopt(SOL, TIMESTAMPING), sender.getsockopt(SOL, TIMESTAMPING, 20).hex()],
            "want": lambda name, value: receiver.setsockopt(SOL, name, value),
            "wanted": lambda name: receiver.getsockopt(SOL, name),
            "mark": lambda name: sender.setsockopt(SOL, name, 1),
            "inq": lambda: receiver.setsockopt(socket.IPPROTO_TCP, INQ, 1),
            "send": self.send,
            "end": lambda: sender.shutdown(socket.SHUT_WR),
            "told": self.told,
            "frame": self.frame,
            "hear": lambda: len(sender.recv(10, ERRQUEUE)),
            "message": self.message,
            "answer later": lambda: self.later(lambda: receiver.send(b"answer")),
            "block": self.block,
            "look": lambda: [ready(sender), ready(receiver)],
            "edge": lambda: [event for _, event in self.edges.poll(0)],
        }
        said = attempt(lambda: works[what](*rest))
        if what in ("send", "end", "want"):  # Linux begins to look at its clock a little later
            time.sleep(2 * SOON)
        return [what, said]


def play(address: str, kind: socket.SocketKind, script: list[tuple[Any, ...]]) -> list[Any]:
    one = Play(address, kind)
    told = [one.step(*each) for each in script]
    one.close()
    return told


if __name__ == "__main__":
    work = {f"stream, {name}": (socket.SOCK_STREAM, script) for name, script in SCRIPTS.items()}
    work |= {f"datagrams, {name}": (socket.SOCK_DGRAM, (SCRIPTS | ALONE)[name]) for name in [*OF_DATAGRAMS, *ALONE]}
    with ThreadPoolExecutor(len(work)) as pool:
        told = pool.map(lambda each: play(sys.argv[1], *each), work.values())
        print(json.dumps(dict(zip(work, told, strict=True))))
