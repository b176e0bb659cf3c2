"""What a socket waits for, and tells of what waits: prints it as JSON, on the kernel or on a stack. No test itself.

SO_RCVLOWAT, TCP_INQ, TCP_NOTSENT_LOWAT, MSG_FASTOPEN of nothing, SO_SELECT_ERR_QUEUE. The
argument is an IPv4 address of the host.
"""

from __future__ import annotations

import array
import fcntl
import json
import select
import socket
import struct
import sys
import time
from typing import Any

from tests.client.ends import SOON, Ends
from tests.client.options_table import SOL, TCP, attempt

FIONREAD, SIOCOUTQNSD = 0x541B, 0x894B
SO_RCVLOWAT, SO_RCVTIMEO, SO_SELECT_ERR_QUEUE, TCP_INQ, TCP_NOTSENT_LOWAT, IP_RECVERR = 18, 20, 45, 36, 25, 11
FASTOPEN_CONNECT = 30
OOB, PEEK, WAITALL, FASTOPEN = socket.MSG_OOB, socket.MSG_PEEK, socket.MSG_WAITALL, 0x20000000
SCRIPTS: dict[str, list[tuple[Any, ...]]] = {
    "low water": [("low", 10), ("send", 9), ("look",), ("recv", 5), ("send", 5), ("look",), ("send", 1), ("look",),
                  ("recv", 100), ("look",)],
    "then higher": [("send", 9), ("look",), ("low", 10), ("look",), ("low", 9), ("look",), ("low", 0), ("look",)],
    "the end": [("low", 10), ("send", 3), ("end",), ("look",), ("block", 100), ("block", 100)],
    "it waits": [("low", 10), ("send", 4), ("later", 7), ("block", 100)],
    "it waits for what it takes": [("low", 10), ("send", 4), ("block", 4), ("send", 4), ("later", 2), ("block", 6)],
    "until time is up": [("low", 10), ("send", 4), ("block", 100), ("block", 100)],
    "until the end": [("low", 10), ("send", 4), ("end later",), ("block", 100), ("block", 1)],
    "until the urgent byte": [("low", 10), ("send", 4), ("urge", 1), ("send", 20), ("look",), ("block", 100), ("look",),
                              ("block", 100)],
    "beside the urgent byte": [("low", 3), ("urge", 1), ("send", 2), ("look",), ("send", 1), ("look",)],
    "peeking": [("low", 10), ("send", 4), ("later", 8), ("block", 100, PEEK), ("look",), ("recv", 5, PEEK),
                ("recv", 100)],
    "all": [("low", 3), ("send", 4), ("later", 8), ("block", 12, WAITALL)],
    "polled": [("low", 10), ("send", 4), ("poll",), ("later", 7), ("poll",), ("select",), ("epoll",)],
    "edges": [("low", 10), ("edge",), ("send", 4), ("edge",), ("send", 6), ("edge",), ("edge",), ("send", 1),
              ("edge",)],
    "much": [("low", 20000), ("send", 5000), ("look",), ("send", 15000), ("look",)],
    "more than the buffer": [("buffer", 4000), ("low", 100000), ("asked",), ("send", 1000), ("look",)],
    "how much waits": [("inq", 1), ("send", 10), ("message", 4), ("message", 4), ("message", 4), ("send", 3),
                       ("message", 0), ("message", 1, PEEK), ("end",), ("message", 1), ("message", 10),
                       ("message", 10)],
    "how much waits, urgent": [("inq", 1), ("send", 3), ("urge", 1), ("send", 4), ("message", 2), ("message", 1, OOB),
                               ("message", 9), ("message", 9)],
    "how much waits, without room": [("inq", 1), ("send", 10), ("message", 4, 0, 8), ("inq", 0), ("message", 4)],
    "nothing waits": [("inq", 1), ("message", 4), ("end",), ("message", 4)],
    "unsent": [("unsent", 8192), ("writable",), ("fill",), ("writable",), ("drain",), ("writable",)],
    "unsent, and it blocks": [("unsent", 8192), ("drain later",), ("send all", 3_000_000)],
}  # fmt: skip


def looked(sock: socket.socket) -> list[Any]:
    waiting = array.array("i", [-1])
    fcntl.ioctl(sock, FIONREAD, waiting)
    return [polled(sock), bool(select.select([sock], [], [], 0)[0]), waiting[0]]


def polled(sock: socket.socket, events: int = select.POLLIN | select.POLLPRI, ms: int = 0) -> int:
    poll = select.poll()
    poll.register(sock, events)
    return dict(poll.poll(ms)).get(sock.fileno(), 0)


class Play(Ends):
    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.receiver.setsockopt(SOL, SO_RCVTIMEO, struct.pack("ll", 0, 200_000))
        self.edges.register(self.receiver, select.EPOLLIN | select.EPOLLET)

    def drain(self) -> None:
        while select.select([self.receiver], [], [], 0.2)[0] and self.receiver.recv(1 << 20, socket.MSG_DONTWAIT):
            pass

    def receive(self, most: int, flags: int = 0) -> int:
        return len(self.receiver.recv(most, flags))

    def message(self, most: int, flags: int = 0, room: int = 100) -> list[Any]:
        data, control, told, _ = self.receiver.recvmsg(most, room, flags | socket.MSG_DONTWAIT)
        return [len(data), [[kind, struct.unpack("i", value)[0]] for _, kind, value in control], told]

    def epoll(self) -> list[int]:
        with select.epoll() as epoll:
            epoll.register(self.receiver, select.EPOLLIN)
            return [event for _, event in epoll.poll(0.2)]

    def send(self, count: int, flags: int = 0) -> None:
        self.sender.sendall(bytes(count), flags)
        time.sleep(SOON)

    def end(self) -> None:
        self.sender.shutdown(socket.SHUT_WR)
        time.sleep(SOON)

    def fill(self) -> list[bool]:
        """Until nothing is taken; whether more than TCP_NOTSENT_LOWAT is then unsent."""
        self.sender.setblocking(False)
        for _ in range(20):
            while isinstance(attempt(lambda: self.sender.send(bytes(1_000_000))), int):
                pass
            time.sleep(SOON)
        unsent = array.array("i", [-1])
        fcntl.ioctl(self.sender, SIOCOUTQNSD, unsent)
        return [unsent[0] >= 8192]

    def step(self, what: str, *rest: Any) -> Any:
        sender, receiver = self.sender, self.receiver
        works: dict[str, Any] = {
            "low": lambda value: receiver.setsockopt(SOL, SO_RCVLOWAT, value),
            "asked": lambda: receiver.getsockopt(SOL, SO_RCVLOWAT),
            "buffer": lambda value: receiver.setsockopt(SOL, socket.SO_RCVBUF, value),
            "inq": lambda value: receiver.setsockopt(TCP, TCP_INQ, value),
            "unsent": lambda value: sender.setsockopt(TCP, TCP_NOTSENT_LOWAT, value),
            "send": self.send,
            "urge": lambda count: self.send(count, OOB),
            "end": self.end,
            "later": lambda count: self.later(lambda: sender.sendall(bytes(count))),
            "end later": lambda: self.later(self.end),
            "drain later": lambda: self.later(self.drain),
            "look": lambda: looked(receiver),
            "recv": lambda most, flags=0: self.receive(most, flags | socket.MSG_DONTWAIT),
            "block": self.receive,
            "message": self.message,
            "poll": lambda: polled(receiver, ms=200),
            "select": lambda: bool(select.select([receiver], [], [], 0.2)[0]),
            "epoll": self.epoll,
            "edge": lambda: [event for _, event in self.edges.poll(0)],
            "writable": lambda: polled(sender, select.POLLOUT, 100),
            "fill": self.fill,
            "drain": self.drain,
            "send all": lambda count: sender.sendall(bytes(count)),
        }
        return works[what](*rest)


def play(address: str, script: list[tuple[Any, ...]]) -> list[Any]:
    one = Play(address)
    told = [[*each[:2], attempt(lambda each=each: one.step(*each))] for each in script]
    one.close()
    return told


def empty_fast_open(address: str) -> list[Any]:
    """MSG_FASTOPEN with no text: to somebody, to nobody; waiting or not."""
    told = []
    for listening in (True, False):
        for blocking in (True, False):
            with socket.socket() as server, socket.socket() as client:
                server.bind((address, 0))
                if listening:
                    server.listen()
                client.setblocking(blocking)
                name = server.getsockname()
                told.append(attempt(lambda client=client, name=name: client.sendto(b"", FASTOPEN, name)))
                polled(client, select.POLLOUT, 200)
                told.append(client.getsockopt(SOL, socket.SO_ERROR))
    return told


def fast_open(address: str) -> list[Any]:
    """A nonblocking client before a cookie of the server is known, and after: MSG_FASTOPEN, TCP_FASTOPEN_CONNECT."""
    told = []
    with socket.socket() as server:
        server.bind(("0.0.0.0", 0))
        server.listen()
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 5)
        name = address, server.getsockname()[1]
        for sends in (False, True, False):
            with socket.socket() as client:
                client.setblocking(False)
                if sends:
                    told.append(attempt(lambda client=client: client.sendto(b"early", FASTOPEN, name)))
                else:
                    client.setsockopt(socket.IPPROTO_TCP, FASTOPEN_CONNECT, 1)
                    told.append(client.connect_ex(name))
                told.append(polled(client, select.POLLOUT, 1000))
                told.append(attempt(lambda client=client: client.recv(10)))
                told.append(attempt(lambda client=client: client.send(b"later")))
                served, _ = server.accept()
                with served:
                    told.append(len(served.recv(10, WAITALL if sends and told[-4] == 5 else 0)))
    return told


def errors(address: str) -> list[Any]:
    """SO_SELECT_ERR_QUEUE: whether an error is urgent, too."""
    told = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.bind((address, 0))
        name = nobody.getsockname()
    for urgent in (0, 1):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(SOL, SO_SELECT_ERR_QUEUE, urgent)
            sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
            sock.sendto(b"x", name)
            told.append([polled(sock, ms=200), [bool(each) for each in select.select([sock], [], [sock], 0)]])
    return told


def main(address: str) -> None:
    told = {name: play(address, script) for name, script in SCRIPTS.items()}
    told["fast open of nothing"] = empty_fast_open(address)
    told["fast open"] = fast_open("127.0.0.7")
    told["errors"] = errors(address)
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1])
