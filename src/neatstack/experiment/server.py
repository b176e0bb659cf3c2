"""The server of the experiment: answers on one port, checks every byte that comes. Runs on a stack, or on the kernel.

    python -m neatstack.experiment.server PORT

What it finds wrong it says in the status of the next answer that it gives.
"""

import gc
import select
import socket
import sys

from neatstack.experiment import protocol

CHUNK = 1 << 16  # bytes read at once
BACKLOG = 4096


class Connection:
    """One connection: what is expected of it, what has come of that, and what is still to be sent."""

    __slots__ = ("sock", "number", "sequence", "expected", "got", "rest")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.number = self.sequence = -1
        self.expected: bytes | None = None  # unknown until the first request is here
        self.got = b""
        self.rest = b""

    def advance(self) -> None:
        """The next request is due."""
        self.sequence += 1
        self.expected = protocol.request(self.number, self.sequence)
        self.got = b""


class Server:
    def __init__(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        self.listener = listener
        self.unreported = 0  # wrong bytes that no answer has told yet
        self.connections: dict[int, Connection] = {}
        self.poll = select.epoll()
        self.poll.register(listener.fileno(), select.EPOLLIN)

    def run(self) -> None:
        known, entrance = self.connections, self.listener.fileno()
        while True:
            for descriptor, events in self.poll.poll():
                if descriptor == entrance:
                    self.accept()
                    continue
                connection = known.get(descriptor)
                if connection is None:
                    continue
                try:
                    if events & select.EPOLLOUT:
                        self.flush(connection)
                    if events & ~select.EPOLLOUT:
                        self.receive(connection)
                except BlockingIOError:
                    continue
                except OSError:
                    self.close(connection)

    def accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except BlockingIOError:
                return
            except OSError:
                continue  # it was reset before it was taken
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections[sock.fileno()] = Connection(sock)
            self.poll.register(sock.fileno(), select.EPOLLIN)

    def receive(self, connection: Connection) -> None:
        data = connection.sock.recv(CHUNK)
        if connection.got or data != connection.expected:  # in pieces, wrong, the first one, or the end
            if not data:
                self.close(connection)
                return
            data = connection.got = connection.got + data
            if connection.expected is None and not self.introduce(connection):
                return
            assert connection.expected is not None
            if len(data) < len(connection.expected):
                return
        wrong = self.unreported
        self.unreported = 0
        if data != connection.expected:
            wrong += protocol.differing(data, connection.expected)
        self.send(connection, protocol.answer(connection.number, connection.sequence, wrong))
        connection.advance()

    def introduce(self, connection: Connection) -> bool:
        """Learn from the first request who it is. False: not yet all here, or it makes no sense."""
        if len(connection.got) < protocol.HEADER.size:
            return False
        told = protocol.first(connection.got)
        if told is None:
            connection.sock.send(protocol.ANSWER.pack(protocol.BAD_HEADER, 0, 0))
            self.close(connection)
            return False
        connection.number, connection.sequence = told
        connection.expected = protocol.request(*told)
        return True

    def send(self, connection: Connection, data: bytes) -> None:
        try:
            sent = connection.sock.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            connection.rest = data[sent:]
            self.poll.modify(connection.sock.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def flush(self, connection: Connection) -> None:
        connection.rest = connection.rest[connection.sock.send(connection.rest) :]
        if not connection.rest:
            self.poll.modify(connection.sock.fileno(), select.EPOLLIN)

    def close(self, connection: Connection) -> None:
        """It has ended; what came of an unfinished request is checked too."""
        if connection.expected:
            self.unreported += protocol.differing(connection.got, connection.expected)
        self.connections.pop(connection.sock.fileno(), None)
        connection.sock.close()


def main() -> None:
    gc.disable()  # no cycles are made; a collection would be a gap that nobody caused
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("", int(sys.argv[1])))
    listener.listen(BACKLOG)
    Server(listener).run()


if __name__ == "__main__":
    main()
