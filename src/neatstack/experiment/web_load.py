"""HTTP clients that check everything: new connections for each request, kept ones, and slow ones.

They are threads of this process whose sockets are made in a network namespace of the laboratory. A kept connection that
ends before the first byte of an answer, after it has carried others, is what RFC 9112, 9.3.1 expects: the request is
repeated once on a new connection, and counted apart. Everything else that is not the whole right answer is a failure.
"""

from __future__ import annotations

import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from neatstack.experiment.netns import Namespace

PATIENCE = 10.0  # seconds without a byte; then the request has failed
PAUSE = 0.002  # seconds between two requests of one client
CHUNK = 1 << 16
SLOW_CHUNK, SLOW_PAUSE = 1 << 15, 0.02  # bytes and seconds: 1.6 MB/s
TOLD = 20  # failures that are kept in words
WORKER = b"x-worker"  # header with the process that has answered, if the server says so


class RequestFailed(Exception):
    """The answer did not come, or is wrong."""


class ClosedIdle(Exception):
    """The server has closed a kept connection that no answer was under way on; in order, or with a reset."""

    def __init__(self, reset: bool) -> None:
        super().__init__("reset" if reset else "closed")
        self.reset = reset


@dataclass
class Tally:
    """What has come of the requests."""

    answered: int = 0
    connections: int = 0
    closed_idle: int = 0  # kept connections that ended between two answers
    reset_idle: int = 0  # of these, by a reset
    failed: int = 0
    slowest_ms: float = 0.0  # from a request to its whole answer, slow clients apart
    failures: list[str] = field(default_factory=list)

    def fail(self, what: str) -> None:
        self.failed += 1
        if len(self.failures) < TOLD:
            self.failures.append(what)

    @classmethod
    def total(cls, tallies: Sequence[Tally]) -> Tally:
        names = ("answered", "connections", "closed_idle", "reset_idle", "failed")
        made = cls(**{name: sum(getattr(tally, name) for tally in tallies) for name in names})
        made.slowest_ms = max((tally.slowest_ms for tally in tallies), default=0.0)
        made.failures = [what for tally in tallies for what in tally.failures][:TOLD]
        return made


class Connection:
    """One connection and what has been read of it."""

    def __init__(self, address: str, port: int, receive_buffer: int = 0) -> None:
        self.sock = socket.socket()
        self.sock.settimeout(PATIENCE)
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            self.sock.connect((address, port))
        except BaseException:
            self.sock.close()
            raise
        self.rest = b""
        self.answers = 0

    def close(self) -> None:
        self.sock.close()

    def ask(self, path: str, keep: bool) -> None:
        manner = "keep-alive" if keep else "close"
        request = f"GET /{path} HTTP/1.1\r\nHost: reload\r\nConnection: {manner}\r\n\r\n".encode()
        try:
            self.sock.sendall(request)
        except ConnectionError:
            if not self.answers:
                raise
            raise ClosedIdle(reset=True) from None

    def head(self) -> dict[bytes, bytes]:
        """The header fields of the answer, which must be a 200."""
        while b"\r\n\r\n" not in self.rest:
            first = not self.rest and self.answers > 0
            try:
                data = self.sock.recv(CHUNK)
            except ConnectionError:
                if first:
                    raise ClosedIdle(reset=True) from None
                raise
            if not data:
                if first:
                    raise ClosedIdle(reset=False)
                raise RequestFailed(f"closed after {len(self.rest)} bytes of the header")
            self.rest += data
        text, _, self.rest = self.rest.partition(b"\r\n\r\n")
        status, *lines = text.split(b"\r\n")
        if not status.startswith(b"HTTP/1.1 200 "):
            raise RequestFailed(f"status line {status!r}")
        pairs = (line.partition(b": ") for line in lines)
        return {name.lower(): value for name, _, value in pairs}

    def body(self, length: int, chunk: int = CHUNK, pause: float = 0.0) -> bytes:
        parts, missing = [self.rest[:length]], length - len(self.rest)
        self.rest = self.rest[length:]
        while missing > 0:
            data = self.sock.recv(min(chunk, missing))
            if not data:
                raise RequestFailed(f"closed {missing} bytes before the end")
            parts.append(data)
            missing -= len(data)
            if pause:
                time.sleep(pause)
        self.answers += 1
        return b"".join(parts)

    def at_end(self) -> None:
        """Nothing but the end may follow."""
        if self.rest or self.sock.recv(1):
            raise RequestFailed("bytes after the end of the answer")


class Gate(Protocol):
    """What clients look at between two requests. A threading.Event."""

    def is_set(self) -> bool: ...
    def wait(self, timeout: float | None = None) -> bool: ...


@dataclass
class Site:
    """A server, and the contents of its files."""

    address: str
    port: int
    files: Mapping[str, bytes]


class Client(threading.Thread, ABC):
    """One client: a request after the other, until the end."""

    def __init__(self, number: int, place: Namespace, site: Site, going: Gate, ended: Gate) -> None:
        super().__init__(name=f"{type(self).__name__}-{number}", daemon=True)
        self.place, self.site, self.going, self.ended = place, site, going, ended
        self.tally = Tally()
        self.worker = 0  # the process that has answered last
        self.resting = False  # it stands before the gate
        self.paths = [name for name in site.files if name != "large"]
        self.turn = number

    def run(self) -> None:
        with self.place.entered():
            while not self.ended.is_set():
                if not self.going.is_set():
                    self.resting = True
                    self.going.wait()
                    self.resting = False
                    continue
                self.attempt()
                time.sleep(PAUSE)
            self.finish()

    def attempt(self) -> None:
        began = time.monotonic()
        try:
            self.request()
            self.tally.answered += 1
        except (OSError, RequestFailed) as error:
            after = (time.monotonic() - began) * 1000
            self.tally.fail(f"{self.name}: {type(error).__name__}: {error} (after {after:.0f} ms)")
            self.finish()
        self.took((time.monotonic() - began) * 1000)

    def took(self, ms: float) -> None:
        self.tally.slowest_ms = max(self.tally.slowest_ms, ms)

    @abstractmethod
    def request(self) -> None:
        """One request; the whole answer must be right. Raises OSError or RequestFailed."""

    def finish(self) -> None:
        """Close what is open."""

    def open(self, receive_buffer: int = 0) -> Connection:
        made = Connection(self.site.address, self.site.port, receive_buffer)
        self.tally.connections += 1
        return made

    def path(self) -> str:
        self.turn += 1
        return self.paths[self.turn % len(self.paths)]

    def check(self, path: str, fields: Mapping[bytes, bytes], body: bytes) -> None:
        if body != self.site.files[path]:
            raise RequestFailed(f"/{path}: {len(body)} bytes that are not the file's")
        self.worker = int(fields.get(WORKER, 0))

    def length(self, path: str, fields: Mapping[bytes, bytes]) -> int:
        told = fields.get(b"content-length", b"")
        if told != str(len(self.site.files[path])).encode():
            raise RequestFailed(f"/{path}: length {told!r}")
        return int(told)


class Fresh(Client):
    """A connection for each request."""

    def request(self) -> None:
        path, connection = self.path(), self.open()
        try:
            connection.ask(path, keep=False)
            fields = connection.head()
            self.check(path, fields, connection.body(self.length(path, fields)))
            connection.at_end()
        finally:
            connection.close()


class Slow(Client):
    """Takes a large file bit by bit, so that the answer of an old worker lasts beyond a reload."""

    def request(self) -> None:
        connection = self.open(receive_buffer=SLOW_CHUNK)
        try:
            connection.ask("large", keep=False)
            fields = connection.head()
            body = connection.body(self.length("large", fields), SLOW_CHUNK, SLOW_PAUSE)
            self.check("large", fields, body)
            connection.at_end()
        finally:
            connection.close()

    def took(self, ms: float) -> None:
        """It is slow on purpose."""


class Kept(Client):
    """Many requests on a connection, as many as the server likes."""

    connection: Connection | None = None

    def request(self) -> None:
        path = self.path()
        try:
            self.ask(path)
        except ClosedIdle as closed:
            self.tally.closed_idle += 1
            self.tally.reset_idle += closed.reset
            self.finish()
            self.ask(path)  # its first request: what goes wrong now is a failure

    def ask(self, path: str) -> None:
        if self.connection is None:
            self.connection = self.open()
        self.connection.ask(path, keep=True)
        fields = self.connection.head()
        self.check(path, fields, self.connection.body(self.length(path, fields)))
        if fields.get(b"connection") == b"close":
            self.connection.at_end()
            self.finish()

    def finish(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class WebLoad:
    """All clients, at work while the block lasts."""

    def __init__(self, place: Namespace, site: Site, fresh: int, kept: int, slow: int) -> None:
        self.going, self.ended = threading.Event(), threading.Event()
        kinds = [Fresh] * fresh + [Kept] * kept + [Slow] * slow
        self.clients: list[Client] = [
            kind(number, place, site, self.going, self.ended) for number, kind in enumerate(kinds)
        ]

    def __enter__(self) -> WebLoad:
        self.going.set()
        for client in self.clients:
            client.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self.going.set()
        for client in self.clients:
            client.join(2 * PATIENCE)

    def pause(self, limit: float = 2 * PATIENCE) -> bool:
        """Let every request be answered and send no more; kept connections stay. False: some are still not answered."""
        self.going.clear()
        end = time.monotonic() + limit
        while not all(client.resting for client in self.clients):
            if time.monotonic() > end:
                return False
            time.sleep(0.005)
        return True

    def resume(self) -> None:
        self.going.set()

    def workers(self) -> set[int]:
        """The processes that have given the clients' last answers."""
        return {client.worker for client in self.clients}

    def tally(self) -> Tally:
        return Tally.total([client.tally for client in self.clients])
