"""The load of the experiment: connections that are always busy, and a log of every answer with its time.

    python -m neatstack.experiment.client ADDRESS PORT CONNECTIONS BASE PIPE LIFE SEED

Closed loop: each connection sends its next request when the answer is complete. Every byte is checked. A connection
lasts, or with a LIFE ends in order after a number of requests up to that, and another one follows. The log goes
to the pipe as 64-bit words: (CLOCK_MONOTONIC - BASE, ns) << 16 | kind << 13 | connection. OPENED is followed by a word
with the local port, WRONG by one with the number of bytes.
"""

import contextlib
import gc
import os
import random
import select
import socket
import struct
import sys
import time
from array import array

from neatstack.experiment import protocol
from neatstack.experiment.timeline import DROPPED, ENDED, LOST, OPENED, TIMEOUT, WRONG

CHUNK = 1 << 16  # bytes read at once
FLUSH = 5_000_000  # ns between two writes to the pipe
ANSWER_LIMIT = 5_000_000_000  # ns; a request without an answer for so long has failed
CONNECT_LIMIT = 5_000_000_000
SWEEP = 250_000_000  # ns between two looks for late answers
RETRY = 2_000_000  # ns until a refused connection is tried again
ABORT = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset


class Connection:
    """A place for connections: one after the other, as they are lost."""

    __slots__ = ("slot", "sock", "open", "number", "sequence", "expected", "got", "rest", "since", "left")

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.sock = socket.socket()
        self.number = slot
        self.reset()

    def reset(self) -> None:
        self.open = False
        self.sequence = -1
        self.expected = self.got = self.rest = b""
        self.since = 0  # ns: when the request was sent, or the connection begun
        self.left = -1  # requests until it ends in order; negative: it does not


class Client:
    """All connections, in one loop."""

    def __init__(
        self, address: str, port: int, connections: int, base: int, pipe: int, life: int = 0, seed: int = 0
    ) -> None:
        self.server, self.base, self.pipe = (address, port), base, pipe
        self.connections = [Connection(slot) for slot in range(connections)]
        self.known: dict[int, Connection] = {}
        self.again: list[tuple[int, Connection]] = []  # to be connected once more, and when
        self.poll = select.epoll()
        self.log = array("q")
        self.unsent = b""
        self.life, self.random = life, random.Random(seed)
        os.set_blocking(pipe, False)

    def run(self) -> None:
        clock, known, base, poll = time.monotonic_ns, self.known, self.base, self.poll.poll
        for place in self.connections:
            self.connect(place)
        flush = sweep = clock()
        while True:
            for descriptor, events in poll(0.005):
                connection = known.get(descriptor)
                if connection is None:
                    continue
                try:
                    if events != select.EPOLLIN or not connection.open:
                        self.other(connection, events)
                        continue
                    data = connection.sock.recv(CHUNK)
                    if data == connection.expected and not connection.got:
                        now = clock()
                        self.log.append((now - base) << 16 | connection.slot)
                        self.ask(connection, now)
                    else:
                        self.piece(connection, data)
                except BlockingIOError:
                    continue
                except OSError:
                    self.end(connection, LOST)
            now = clock()
            if now - flush > FLUSH:
                flush = now
                self.flush()
                self.reconnect(now)
            if now - sweep > SWEEP:
                sweep = now
                self.sweep(now)

    def ask(self, connection: Connection, now: int) -> None:
        """Send the next request, and work out its answer meanwhile; or end the connection, if its time has come."""
        if connection.left == 0:
            self.finish(connection, now)
            return
        connection.left -= 1
        connection.sequence += 1
        number, sequence = connection.number, connection.sequence
        data = protocol.request(number, sequence)
        connection.since = now
        connection.expected = protocol.answer(number, sequence)
        connection.got = b""
        try:
            sent = connection.sock.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            connection.rest = data[sent:]
            self.poll.modify(connection.sock.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def piece(self, connection: Connection, data: bytes) -> None:
        """Something came that is not a whole right answer: part of one, a wrong one, or the end."""
        if not data:
            self.end(connection, LOST)
            return
        connection.got += data
        got, expected = connection.got, connection.expected
        if len(got) < len(expected):
            return
        now = time.monotonic_ns()
        if got == expected:
            self.log.append((now - self.base) << 16 | connection.slot)
            self.ask(connection, now)
            return
        self.end(connection, DROPPED)

    def other(self, connection: Connection, events: int) -> None:
        """A connection begins, can take more, or has news beside data."""
        sock = connection.sock
        if not connection.open:
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error or events & (select.EPOLLERR | select.EPOLLHUP):
                self.begin_again(connection)
                return
            self.opened(connection)
            return
        if events & select.EPOLLOUT and connection.rest:
            connection.rest = connection.rest[sock.send(connection.rest) :]
            if not connection.rest:
                self.poll.modify(sock.fileno(), select.EPOLLIN)
        if events & ~select.EPOLLOUT:
            self.piece(connection, sock.recv(CHUNK))

    def connect(self, connection: Connection) -> None:
        connection.reset()
        if self.life:
            connection.left = self.random.randint(1, self.life)
        connection.sock = sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.since = time.monotonic_ns()
        sock.connect_ex(self.server)
        self.known[sock.fileno()] = connection
        self.poll.register(sock.fileno(), select.EPOLLOUT)

    def opened(self, connection: Connection) -> None:
        now = time.monotonic_ns()
        connection.open = True
        self.note(now, OPENED, connection, connection.sock.getsockname()[1])
        self.poll.modify(connection.sock.fileno(), select.EPOLLIN)
        self.ask(connection, now)

    def end(self, connection: Connection, kind: int) -> None:
        """It has ended, or we end it; another one is opened at once. What came of its last answer is checked."""
        if not connection.open:
            self.begin_again(connection)
            return
        now = time.monotonic_ns()
        if wrong := wrong_bytes(connection.got, connection.expected):
            self.note(now, WRONG, connection, wrong)
        self.note(now, kind, connection)
        self.forget(connection)
        self.connect(connection)

    def finish(self, connection: Connection, now: int) -> None:
        """Close it in order, with everything answered, and open another one."""
        self.note(now, ENDED, connection)
        self.forget(connection, abort=False)
        self.connect(connection)

    def begin_again(self, connection: Connection) -> None:
        self.forget(connection)
        self.again.append((time.monotonic_ns() + RETRY, connection))

    def forget(self, connection: Connection, abort: bool = True) -> None:
        self.known.pop(connection.sock.fileno(), None)
        with contextlib.suppress(OSError):
            if abort:
                connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        connection.sock.close()
        connection.number += len(self.connections)  # a number of its own for every connection
        connection.open = False

    def reconnect(self, now: int) -> None:
        if self.again:
            due = [connection for when, connection in self.again if when <= now]
            self.again = [(when, connection) for when, connection in self.again if when > now]
            for connection in due:
                self.connect(connection)

    def sweep(self, now: int) -> None:
        """End what has waited too long."""
        for connection in list(self.known.values()):
            if connection.open and now - connection.since > ANSWER_LIMIT:
                self.end(connection, TIMEOUT)
            elif not connection.open and now - connection.since > CONNECT_LIMIT:
                self.begin_again(connection)

    def note(self, now: int, kind: int, connection: Connection, value: int | None = None) -> None:
        self.log.append((now - self.base) << 16 | kind << 13 | connection.slot)
        if value is not None:
            self.log.append(value)

    def flush(self) -> None:
        """Hand on the log; what the reader has no room for waits, so that it never holds up the load."""
        self.unsent += self.log.tobytes()
        del self.log[:]
        try:
            self.unsent = self.unsent[os.write(self.pipe, self.unsent) :] if self.unsent else b""
        except BlockingIOError:
            pass
        except BrokenPipeError:
            sys.exit(0)  # nobody listens any more


def wrong_bytes(got: bytes, expected: bytes) -> int:
    """Bytes that are wrong in this (part of an) answer, or were in the request, as the server says in the status."""
    if expected.startswith(got):
        return 0
    if len(got) >= protocol.ANSWER.size and got[4 : len(expected)] == expected[4 : len(got)]:
        status = int.from_bytes(got[:4], "big")
        return status + len(got) - min(len(got), len(expected)) if status != protocol.BAD_HEADER else 1
    return protocol.differing(got, expected)


def main() -> None:
    gc.disable()  # no cycles are made; a collection would be a gap that nobody caused
    Client(sys.argv[1], *map(int, sys.argv[2:8])).run()


if __name__ == "__main__":
    main()
