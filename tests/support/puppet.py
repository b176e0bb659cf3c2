"""A process whose sockets a test drives, call by call: on the stack or on the kernel, with the same script.

    client = stack.puppet()             # a Puppet: one process
    conn = client.socket()
    conn.connect((address, port))       # as socket.socket; errors are raised here as they were there
    waiting = conn.begin("recv", 100)   # a call that may block: a Future

Executed (`python puppet.py FD`) it is the process: requests come pickled through the socket pair FD, and each runs in a
thread of its own, so that one that blocks delays no other.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import random
import select
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neatstack.experiment.netns import Process, Side

CHUNK = 1 << 18
TIMEOUT = 60.0  # seconds for one call


def stream(seed: int, length: int):
    """`length` bytes that `seed` determines, in chunks."""
    numbers = random.Random(seed)
    for at in range(0, length, CHUNK):
        yield numbers.randbytes(min(CHUNK, length - at))


def digest(seed: int, length: int) -> str:
    value = hashlib.sha256()
    for chunk in stream(seed, length):
        value.update(chunk)
    return value.hexdigest()


class Puppet:
    """The test's end. Close it, or let the lab end the process."""

    def __init__(self, side: Side):
        ours, theirs = socket.socketpair()
        with theirs:
            self.process: Process = side.spawn(sys.executable, __file__, theirs.fileno(), pass_fds=[theirs.fileno()])
        self.link = Connection(ours.detach())
        self.numbers = itertools.count()
        self.lock = threading.Lock()
        self.waiting: dict[int, Future[Any]] = {}
        threading.Thread(target=self._read, daemon=True).start()

    def begin(self, what: str, *arguments: Any) -> Future[Any]:
        answer: Future[Any] = Future()
        with self.lock:
            number = next(self.numbers)
            self.waiting[number] = answer
            self.link.send((number, what, arguments))
        return answer

    def call(self, what: str, *arguments: Any, timeout: float = TIMEOUT) -> Any:
        return self.begin(what, *arguments).result(timeout)

    def socket(self, address: str = "") -> Remote:
        """A stream socket of the family of `address`."""
        return Remote(self, self.call("socket", address))

    def listen(self, address: str, port: int, backlog: int = 128) -> Remote:
        made = self.socket(address)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, port))
        made.listen(backlog)
        return made

    def connect(self, address: str, port: int) -> Remote:
        made = self.socket(address)
        made.connect((address, port))
        return made

    def _read(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                number, failed, value = self.link.recv()
                answer = self.waiting.pop(number)
                if failed:
                    answer.set_exception(value)
                else:
                    answer.set_result(value)
        for answer in self.waiting.values():
            answer.set_exception(RuntimeError(f"the process has ended: {self.process.output}"))


class Remote:
    """A socket of a puppet: every method of socket.socket, and send_stream and receive_stream."""

    def __init__(self, puppet: Puppet, number: int):
        self.puppet, self.number = puppet, number

    def begin(self, method: str, *arguments: Any) -> Future[Any]:
        return self.puppet.begin("method", self.number, method, *arguments)

    def accept(self, timeout: float = TIMEOUT) -> Remote:
        return Remote(self.puppet, self.puppet.call("accept", self.number, timeout=timeout))

    def __getattr__(self, method: str) -> Callable[..., Any]:
        return lambda *arguments: self.begin(method, *arguments).result(TIMEOUT)


class Sockets:
    """The process's end."""

    def __init__(self) -> None:
        self.numbers = itertools.count(1)
        self.sockets: dict[int, socket.socket] = {}

    def keep(self, made: socket.socket) -> int:
        number = next(self.numbers)
        self.sockets[number] = made
        return number

    def socket(self, address: str = "") -> int:
        return self.keep(socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM))

    def accept(self, number: int) -> int:
        return self.keep(self.sockets[number].accept()[0])

    def method(self, number: int, name: str, *arguments: Any) -> Any:
        if name == "send_stream":
            return self.send_stream(self.sockets[number], *arguments)
        if name == "receive_stream":
            return self.receive_stream(self.sockets[number], *arguments)
        return getattr(self.sockets[number], name)(*arguments)

    @staticmethod
    def send_stream(to: socket.socket, seed: int, length: int) -> int:
        for chunk in stream(seed, length):
            to.sendall(chunk)
        return length

    @staticmethod
    def receive_stream(source: socket.socket, length: int | None = None) -> tuple[int, str]:
        """Read `length` bytes, or to the end; how many came, and their hash."""
        value, total, room = hashlib.sha256(), 0, bytearray(CHUNK)
        while length is None or total < length:
            got = source.recv_into(room, 0 if length is None else min(CHUNK, length - total))
            if not got:
                break
            value.update(memoryview(room)[:got])
            total += got
        return total, value.hexdigest()

    def serve_echo_once(self, listener: int, times: int) -> int:
        """Accept `times` connections in turn, echo one message on each, close."""
        for _ in range(times):
            with self.sockets[listener].accept()[0] as made:
                made.sendall(made.recv(100))
        return times

    @staticmethod
    def connect_and_echo(address: str, port: int, times: int) -> int:
        """The other side of serve_echo_once; how many came back right."""
        right = 0
        for number in range(times):
            with socket.create_connection((address, port), 10) as made:
                message = b"%d" % number
                made.sendall(message)
                right += made.recv(100) == message and made.recv(1) == b""
        return right

    def wait_writable(self, number: int, seconds: float) -> bool:
        return bool(select.select([], [self.sockets[number]], [], seconds)[1])

    def descriptors(self) -> int:
        return len(os.listdir("/proc/self/fd"))


def main(descriptor: int) -> None:
    link, sockets, lock = Connection(descriptor), Sockets(), threading.Lock()

    def serve(number: int, what: str, arguments: tuple[Any, ...]) -> None:
        try:
            answer = (number, False, getattr(sockets, what)(*arguments))
        except Exception as error:
            answer = (number, True, error)
        with lock, contextlib.suppress(OSError):
            link.send(answer)

    with contextlib.suppress(EOFError):
        while True:
            threading.Thread(target=serve, args=link.recv(), daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]))
