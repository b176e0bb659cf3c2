"""What calls on both ends of a connection say: prints it as JSON, on the kernel or on a stack. No test itself.

shutdown(), splice(), SO_ZEROCOPY, what ends before accept(), and buffers that are nowhere. The argument is
an IPv4 address of the host.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.client.ends import SOON, Ends, connection
from tests.client.options_table import attempt

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
EARLY: dict[str, list[tuple[Any, ...]]] = {
    "reset before accept": [("early", b"abc"), ("recv", 2), ("recv", 9), ("recv", 9), ("answer", b"d"), ("name",)],
    "reset before accept, and sent to": [("early", b"abc"), ("answer", b"d"), ("answer", b"d"), ("recv", 9),
                                         ("recv", 9)],
    "reset before accept, without text": [("early", b""), ("recv", 9), ("recv", 9), ("answer", b"d"), ("answer", b"d")],
}  # fmt: skip
SPLICE: dict[str, list[tuple[Any, ...]]] = {
    "out": [("out", 9), ("send", b"abcd"), ("out", 3), ("out", 9), ("out", 9), ("drink", 9), ("recv", 9)],
    "out at the end": [("send", b"abcd"), ("end",), ("out", 9), ("out", 9), ("drink", 9)],
    "out after a reset": [("reset",), ("out", 9), ("out", 9)],
    "out before the urgent byte": [("send", b"abcd"), ("urge", b"ef"), ("out", 2), ("out", 9), ("out", 9), ("look",),
                                   ("drink", 9), ("recv", 9), ("out", 9)],
    "out of nothing but the urgent byte": [("urge", b"e"), ("out", 9), ("send", b"f"), ("out", 9), ("recv", 9)],
    "out, and the pipe is full": [("pour", bytes(65536)), ("send", b"abcd"), ("out", 9), ("drink", 65536), ("out", 9),
                                  ("drink", 9)],
    "out to nobody": [("send", b"abcd"), ("close pipe", 0), ("out", 9), ("recv", 9)],
    "out, and it waits": [("waits",), ("later", b"abcd"), ("out", 9, 0), ("drink", 9)],
    "out, and it waits for the pipe": [("waits",), ("pour", bytes(65536)), ("send", b"abcd"), ("drink later", 65536),
                                       ("out", 9, 0), ("drink", 9)],
    "in": [("in", 9), ("pour", b"abcd"), ("in", 3), ("in", 9), ("in", 9), ("hear", 9)],
    "in at the end": [("pour", b"abcd"), ("close pipe", 1), ("in", 9), ("in", 9), ("hear", 9)],
    "in after the end": [("pour", b"abcd"), ("shut", WRITE), ("in", 9), ("drink", 9)],
    "in, and it waits": [("waits",), ("pour later", b"abcd"), ("in", 9, 0), ("hear", 9)],
    "much": [("pour", b"x" * 60000), ("in", 50000), ("drink", 60000), ("hear", 60000)],
    "refused": [("in", 0), ("out", 0), ("in", 9, 1 << 20), ("out", 9, 1 << 20), ("wrong", "in"), ("wrong", "out"),
                ("wrong", "both"), ("wrong", "file"), ("wrong", "socket offset"), ("wrong", "pipe offset")],
}  # fmt: skip

COPY: dict[str, list[tuple[Any, ...]]] = {
    "zero copy": [("copies",), ("lend", 10), ("told",), ("copies", 1), ("told",), ("lend", 10), ("look",), ("told",),
                  ("look",), ("told",), ("send", b"a"), ("told",), ("lend", 5), ("lend", 50000), ("told",), ("lend", 0),
                  ("told",), ("copies", 2), ("copies", -1), ("copies", 0), ("lend", 10), ("told",)],
    "zero copy, and no room for it": [("copies", 1), ("lend", 10), ("told", 20), ("told",), ("lend", 1), ("told", 47),
                                      ("told",), ("lend", 1), ("hear errors",), ("hear errors",)],
    "zero copy edges": [("copies", 1), ("edge",), ("lend", 10), ("edge",), ("edge",), ("lend", 10), ("edge",),
                        ("told",), ("edge",), ("lend", 1), ("told",), ("edge",)],
    "zero copy inherited": [("inherited",)],
    "zero copy after the end": [("copies", 1), ("lend", 1), ("close",), ("lend", 1), ("lend", 1), ("told",), ("told",)],
}  # fmt: skip

KERNEL = (1 << 64) - 4096  # an address
NOWHERE = (0, 8, KERNEL)
NONBLOCK = 2  # SPLICE_F_NONBLOCK
ZEROCOPY, LEND, ERRQUEUE = 60, 0x4000000, 0x2000  # SO_ZEROCOPY, MSG_ZEROCOPY, MSG_ERRQUEUE
LIBC = ctypes.CDLL(None, use_errno=True)


class Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Message(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p), ("name_length", ctypes.c_uint), ("vector", ctypes.c_void_p),
        ("count", ctypes.c_size_t), ("control", ctypes.c_void_p), ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )  # fmt: skip


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


def splice(source: int, target: int, most: int, flags: int, offset_in: Any = None, offset_out: Any = None) -> int | str:
    return call("splice", source, offset_in, target, offset_out, ctypes.c_size_t(most), flags)


def wrong(sock: socket.socket, pipe: tuple[int, int], what: str) -> int | str:
    """splice() of what cannot be."""
    zero, fd = ctypes.byref(ctypes.c_int64(0)), sock.fileno()
    with open(os.devnull, "r+b") as file:
        match what:
            case "in":  # the end that writes
                return splice(pipe[1], fd, 9, 0)
            case "out":
                return splice(fd, pipe[0], 9, 0)
            case "both":
                return splice(fd, fd, 9, 0)
            case "file":
                return splice(fd, file.fileno(), 9, 0)
            case "socket offset":
                return splice(fd, pipe[1], 9, 0, offset_in=zero)
            case "pipe offset":
                return splice(fd, pipe[1], 9, 0, offset_out=zero)
    raise ValueError(what)


class Play(Ends):
    """Both ends do not wait; and a pipe."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.address = address
        for end in self.sender, self.receiver:
            end.setblocking(False)
        self.pipe = os.pipe2(os.O_NONBLOCK)
        self.edges.register(self.sender, select.EPOLLET)

    def close(self) -> None:
        super().close()
        for end in self.pipe:
            if end >= 0:
                os.close(end)

    def wait(self) -> None:
        self.receiver.setblocking(True)
        for end in self.pipe:
            os.set_blocking(end, True)

    def close_pipe(self, end: int) -> None:
        os.close(self.pipe[end])
        self.pipe = (-1, self.pipe[1]) if end == 0 else (self.pipe[0], -1)

    def copies(self, *value: int) -> int:
        for each in value:
            self.sender.setsockopt(socket.SOL_SOCKET, ZEROCOPY, each)
        return self.sender.getsockopt(socket.SOL_SOCKET, ZEROCOPY)

    def told(self, room: int = 200) -> list[Any]:
        data, control, flags, _ = self.sender.recvmsg(10, room, ERRQUEUE)
        return [data.decode(), [[level, kind, value.hex()] for level, kind, value in control], flags]

    def inherited(self) -> int:
        with socket.socket() as server, socket.socket() as client:
            server.setsockopt(socket.SOL_SOCKET, ZEROCOPY, 1)
            server.bind((self.address, 0))
            server.listen()
            client.connect(server.getsockname())
            with server.accept()[0] as accepted:
                return accepted.getsockopt(socket.SOL_SOCKET, ZEROCOPY)

    def early(self, data: bytes) -> int:
        """A connection that is reset before accept() returns it."""
        with socket.create_server((self.address, 0)) as server:
            self.sender = socket.create_connection(server.getsockname())
            self.sender.send(data)
            time.sleep(SOON)
            reset(self.sender)
            time.sleep(SOON)
            self.receiver = server.accept()[0]
        self.receiver.setblocking(False)
        return ready(self.receiver)

    def step(self, what: str, *rest: Any) -> Any:
        sender, receiver, pipe = self.sender, self.receiver, self.pipe
        works: dict[str, Callable[..., Any]] = {
            "send": sender.send,
            "urge": lambda data: sender.send(data, socket.MSG_OOB),
            "later": lambda data: self.later(lambda: sender.send(data)),
            "end": lambda: sender.shutdown(WRITE),
            "reset": lambda: reset(sender),
            "fill": lambda: fill(sender),
            "hear": lambda most: sender.recv(most).decode(),
            "shut": receiver.shutdown,
            "close": receiver.close,
            "recv": lambda most: receiver.recv(most).decode(),
            "answer": receiver.send,
            "look": lambda: [ready(sender), ready(receiver)],
            "waits": self.wait,
            "in": lambda most, flags=NONBLOCK: splice(pipe[0], receiver.fileno(), most, flags),
            "out": lambda most, flags=NONBLOCK: splice(receiver.fileno(), pipe[1], most, flags),
            "wrong": lambda what: wrong(receiver, pipe, what),
            "pour": lambda data: os.write(pipe[1], data),
            "pour later": lambda data: self.later(lambda: os.write(pipe[1], data)),
            "drink": lambda most: os.read(pipe[0], most).decode(),
            "drink later": lambda most: self.later(lambda: os.read(pipe[0], most)),
            "close pipe": self.close_pipe,
            "copies": self.copies,
            "lend": lambda count: sender.send(bytes(count), LEND),
            "told": self.told,
            "hear errors": lambda: sender.recv(10, ERRQUEUE).decode(),
            "edge": lambda: [event for _, event in self.edges.poll(0)],
            "inherited": self.inherited,
            "early": self.early,
            "name": receiver.getpeername,
        }
        said = attempt(lambda: works[what](*rest))
        time.sleep(SOON)
        return [what, said]


def play(address: str, script: list[tuple[Any, ...]]) -> list[Any]:
    one = Play(address)
    told = [one.step(*each) for each in script]
    one.close()
    return told


def call(name: str, *arguments: Any) -> int | str:
    function: Any = getattr(LIBC, name)
    function.restype = ctypes.c_ssize_t
    made: int = function(*arguments)
    return made if made >= 0 else errno.errorcode[ctypes.get_errno()]


def nowhere(address: str, kind: socket.SocketKind) -> dict[str, Any]:
    """What is sent from addresses without memory, and received there; then whether what was to be received is left."""
    told: dict[str, Any] = {}
    room = ctypes.create_string_buffer(100)
    here = ctypes.addressof(room)
    for at in NOWHERE:
        there = ctypes.c_void_p(at)
        sending: dict[str, Callable[[int], Any]] = {
            "write": lambda fd, there=there: call("write", fd, there, 4),
            "send": lambda fd, there=there: call("send", fd, there, 4, 0),
            "send more": lambda fd, there=there: call("send", fd, there, 4, socket.MSG_MORE),
        }
        receiving: dict[str, Callable[[int], Any]] = {
            "read": lambda fd, there=there: call("read", fd, there, 4),
            "peek": lambda fd, there=there: call("recv", fd, there, 4, socket.MSG_PEEK),
        }
        for bases in () if at == KERNEL else ((here, at), (at, here)):
            for length in (0, 2, 4):
                name = f"{['behind', 'before'][bases.index(here)]} {length}"
                vector = (Vector * 2)(*(Vector(base, 4 if base == here else length) for base in bases))
                message = Message(vector=ctypes.addressof(vector), count=2)
                sending[f"writev {name}"] = lambda fd, vector=vector: call("writev", fd, vector, 2)
                sending[f"sendmsg {name}"] = lambda fd, message=message: call("sendmsg", fd, ctypes.byref(message), 0)
                receiving[f"readv {name}"] = lambda fd, vector=vector: call("readv", fd, vector, 2)
        receiving["recvmsg"] = lambda fd, there=there: call("recvmsg", fd, there, 0)
        receiving["readv"] = lambda fd, there=there: call("readv", fd, there, 1)
        for what, work in sending.items():
            told[f"{at}, {what}"] = passed(address, kind, work, lambda fd: call("recv", fd, room, 100, 0))
        for what, work in receiving.items():
            if at != KERNEL or kind == socket.SOCK_STREAM:
                told[f"{at}, {what}"] = passed(address, kind, lambda fd: call("send", fd, room, 6, 0), work)
    return told


def passed(
    address: str, kind: socket.SocketKind, sends: Callable[[int], Any], receives: Callable[[int], Any]
) -> list[Any]:
    """What the sender says, the receiver, and the receiver when it tries again with a buffer of its own."""
    sender, receiver = connection(address) if kind == socket.SOCK_STREAM else datagrams(address)
    for end in sender, receiver:
        end.setblocking(False)
    told = [sends(sender.fileno())]
    time.sleep(0.002)
    select.select([receiver], [], [], 0 if "EFAULT" in told else 1)
    told += [receives(receiver.fileno()), call("recv", receiver.fileno(), ctypes.create_string_buffer(100), 100, 0)]
    sender.close()
    receiver.close()
    return told


def datagrams(address: str) -> tuple[socket.socket, socket.socket]:
    receiver, sender = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    receiver.bind((address, 0))
    sender.connect(receiver.getsockname())
    return sender, receiver


def main(address: str) -> None:
    told: dict[str, Any] = {name: play(address, script) for name, script in (SHUT | EARLY | SPLICE | COPY).items()}
    for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:
        told |= {f"{kind.name}: {name}": said for name, said in nowhere(address, kind).items()}
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1])
