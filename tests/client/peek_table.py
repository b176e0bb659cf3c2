"""SO_PEEK_OFF: what is seen of what waits, then read. Prints it as JSON, on the kernel or on a stack. No test itself.

The argument is an IPv4 address of the host.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import time
from typing import Any

from tests.client.ends import SOON, Ends
from tests.client.options_table import SOL, attempt
from tests.client.stream_table import datagrams

SO_PEEK_OFF, SO_RCVTIMEO = 42, 20
PEEK, WAITALL, OOB, TRUNC = socket.MSG_PEEK, socket.MSG_WAITALL, socket.MSG_OOB, socket.MSG_TRUNC
BOTH: dict[str, list[tuple[Any, ...]]] = {
    "not set": [("asked",), ("send", b"abcdef"), ("peek", 2), ("peek", 2), ("asked",)],
    "from the start": [("off", 0), ("send", b"abcdef"), ("peek", 2), ("peek", 2), ("asked",), ("peek", 9), ("asked",),
                       ("peek", 9), ("recv", 9), ("asked",)],
    "read between": [("off", 0), ("send", b"abcdef"), ("peek", 4), ("recv", 2), ("asked",), ("peek", 9), ("recv", 9),
                     ("asked",), ("send", b"gh"), ("peek", 9)],
    "set": [("send", b"abcdef"), ("off", 3), ("peek", 2), ("off", 1), ("peek", 2), ("off", -1), ("peek", 2),
            ("off", -5), ("peek", 2), ("asked",)],
    "beyond": [("off", 9), ("send", b"abcdef"), ("peek", 9), ("send", b"ghijkl"), ("peek", 9), ("peek", 9),
               ("off", 2**31 - 1), ("peek", 9), ("asked",), ("recv", 99), ("asked",)],
    "it waits": [("off", 3), ("send", b"abc"), ("later", b"def"), ("peek", 9), ("asked",)],
    "thrown away": [("off", 0), ("send", b"abcdef"), ("peek", 2, TRUNC), ("asked",), ("recv", 3, TRUNC), ("asked",)],
}  # fmt: skip
STREAM: dict[str, list[tuple[Any, ...]]] = {
    "all of it": [("off", 1), ("send", b"abc"), ("later", b"def"), ("peek", 5, WAITALL), ("asked",), ("recv", 9)],
    "the end": [("off", 2), ("send", b"abc"), ("end",), ("peek", 9), ("peek", 9), ("recv", 9), ("peek", 9)],
    "urgent": [("off", 0), ("send", b"abc"), ("urge", b"d"), ("send", b"ef"), ("peek", 9), ("recv", 1, OOB)],
}
DATAGRAM: dict[str, list[tuple[Any, ...]]] = {
    "several": [("off", 0), ("send", b"abc"), ("send", b"defg"), ("send", b"hi"), ("peek", 2), ("peek", 9),
                ("peek", 2), ("peek", 2), ("peek", 9), ("peek", 9), ("asked",), ("recv", 9), ("asked",), ("recv", 2),
                ("asked",), ("peek", 9)],
    "empty": [("off", 0), ("send", b""), ("send", b"abc"), ("peek", 9), ("peek", 9), ("recv", 9), ("peek", 9),
              ("asked",)],
    "cut": [("off", 1), ("send", b"abcd"), ("message", 2), ("off", 1), ("message", 3), ("off", 1), ("message", 4),
            ("off", 0), ("message", 3), ("off", 1), ("message", 2, TRUNC), ("asked",)],
}  # fmt: skip


class Datagrams(Ends):
    def __init__(self, address: str) -> None:
        self.sender, self.receiver = datagrams(address)
        self.timers = []

    def close(self) -> None:
        for timer in self.timers:
            timer.join()
        self.sender.close()
        self.receiver.close()


def read(sock: socket.socket, most: int, flags: int) -> Any:
    """With MSG_TRUNC a stream leaves the buffer as it was."""
    data = sock.recv(most, flags)
    return len(data) if flags & TRUNC else data.hex()


def step(ends: Ends, what: str, *rest: Any) -> Any:
    sender, receiver = ends.sender, ends.receiver
    works = {
        "asked": lambda: receiver.getsockopt(SOL, SO_PEEK_OFF),
        "off": lambda value: receiver.setsockopt(SOL, SO_PEEK_OFF, value),
        "send": sender.send,
        "later": lambda data: ends.later(lambda: sender.send(data)),
        "urge": lambda data: sender.send(data, OOB),
        "end": lambda: sender.shutdown(socket.SHUT_WR),
        "peek": lambda most, flags=0: read(receiver, most, PEEK | flags),
        "recv": lambda most, flags=0: read(receiver, most, flags),
        "message": lambda most, flags=0: receiver.recvmsg(most, 0, PEEK | flags)[2],
    }
    said = attempt(lambda: works[what](*rest))
    if what in ("send", "urge", "end"):
        time.sleep(SOON)
    return [what, said]


def play(ends: Ends, script: list[tuple[Any, ...]]) -> list[Any]:
    ends.receiver.setsockopt(SOL, SO_RCVTIMEO, struct.pack("ll", 0, 100_000))
    told = [step(ends, *each) for each in script]
    ends.close()
    return told


def inherited(address: str) -> int:
    with socket.create_server((address, 0)) as server:
        server.setsockopt(SOL, SO_PEEK_OFF, 3)
        with socket.create_connection(server.getsockname()), server.accept()[0] as accepted:
            return accepted.getsockopt(SOL, SO_PEEK_OFF)


def main(address: str) -> None:
    told: dict[str, Any] = {f"stream: {name}": play(Ends(address), script) for name, script in (BOTH | STREAM).items()}
    told |= {f"datagram: {name}": play(Datagrams(address), script) for name, script in (BOTH | DATAGRAM).items()}
    told["inherited"] = inherited(address)
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1])
