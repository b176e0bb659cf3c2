"""Lives of connections, each passing through some of TCP's states. A crash on the way must not show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.crash import CrashWire
from tests.support.layout import neat
from tests.support.wire import Faults

PORT = 80


def pattern(stream: int, length: int) -> bytes:
    """Bytes that tell where in which stream they belong."""
    return b"".join((n * 4 + stream).to_bytes(4, "big") for n in range((length + 3) // 4))[:length]


class End:
    """A program's work on one socket: it sends, reads all that comes, and closes."""

    def __init__(self, wire: CrashWire, socket: Any, stream: int) -> None:
        self.wire, self.socket, self.stream = wire, socket, stream
        self.sent = self.got = b""
        self.left = b""

    def send(self, length: int) -> None:
        """Have so many more bytes sent, as the ring takes them."""
        whole = pattern(self.stream, len(self.sent) + len(self.left) + length)
        self.left = whole[len(self.sent) :]

    def work(self) -> None:
        if self.left:
            count = self.socket.send(self.left[: self.socket.writable])
            self.sent += self.left[:count]
            self.left = self.left[count:]
        self.got += self.socket.recv()


class Scenario:
    """A wire with a listener on b, and helpers that let both programs act until something is so."""

    def __init__(self, wire: CrashWire) -> None:
        self.wire = wire
        self.listener = wire.b.program.listen(PORT, post=2, address=wire.everywhere)
        wire.run()
        self.ends: list[End] = []

    def until(self, condition: Callable[[], Any]) -> None:
        def act() -> Any:
            for end in self.ends:
                end.work()
            return condition()

        self.wire.until(act, limit=300)

    def open(self) -> tuple[End, End]:
        """A connection from a to b, accepted."""
        client = self.wire.a.program.connect(self.wire.b.addresses[-1], PORT)
        servers: list[Any] = []

        def done() -> bool:
            if not servers and (server := self.wire.b.program.accept(self.listener)):
                servers.append(server)
            return bool(servers) and client.state == neat.STATE_OPEN

        self.until(done)
        pair = End(self.wire, client, 1), End(self.wire, servers[0], 2)
        self.ends += pair
        return pair

    def exchange(self, client: End, server: End, there: int, back: int) -> None:
        client.send(there)
        server.send(back)
        self.until(
            lambda: (
                len(server.got) == len(client.sent) + len(client.left) == len(server.got)
                and len(client.got) == len(server.sent) + len(server.left)
                and not client.left
                and not server.left
            )
        )
        assert server.got == client.sent
        assert client.got == server.sent

    def gone(self) -> None:
        """All slots are free again, and no connection is left."""
        for end in self.ends:
            assert end.socket.error == 0, end.socket
        self.wire.wait(200)
        for end in self.ends:
            assert end.socket.is_free, end.socket
        for host in (self.wire.a, self.wire.b):
            assert host.engine.connections() == []


def orderly(wire: CrashWire) -> None:
    """ESTABLISHED, then FIN-WAIT-1, FIN-WAIT-2, TIME-WAIT at a; CLOSE-WAIT, LAST-ACK at b."""
    s = Scenario(wire)
    client, server = s.open()
    s.exchange(client, server, 5000, 3000)
    client.socket.shutdown()
    s.until(lambda: server.socket.eof)
    server.send(2000)
    s.until(lambda: len(client.got) == 5000)
    server.socket.shutdown()
    s.until(lambda: client.socket.eof)
    assert client.got == server.sent
    client.socket.close()
    server.socket.close()
    s.gone()


def closed_at_once(wire: CrashWire) -> None:
    """close() with data on its way, by both in turn: the rest is still delivered."""
    s = Scenario(wire)
    client, server = s.open()
    s.exchange(client, server, 10, 10)
    server.send(8000)
    s.until(lambda: not server.left)
    server.socket.close()
    s.ends.remove(server)
    s.until(lambda: client.socket.eof)
    assert client.got == server.sent
    client.socket.close()
    s.ends.append(server)
    s.ends[0].work = s.ends[-1].work = lambda: None  # type: ignore[method-assign]
    s.gone()


def simultaneous(wire: CrashWire) -> None:
    """Both close in the same moment: CLOSING."""
    s = Scenario(wire)
    client, server = s.open()
    s.exchange(client, server, 100, 100)
    client.socket.shutdown()
    server.socket.shutdown()
    s.until(lambda: client.socket.eof and server.socket.eof and client.socket.fin_acked and server.socket.fin_acked)
    client.socket.close()
    server.socket.close()
    s.gone()


def aborted(wire: CrashWire) -> None:
    """SO_LINGER 0: the other end sees a reset, and nothing else."""
    s = Scenario(wire)
    client, server = s.open()
    s.exchange(client, server, 100, 100)
    client.socket.abort()
    s.ends.remove(client)
    s.until(lambda: server.socket.state == neat.STATE_CLOSED)
    assert server.socket.reset
    server.socket.close()
    wire.wait(200)
    assert client.socket.is_free and server.socket.is_free
    assert wire.a.engine.connections() == wire.b.engine.connections() == []


def unread(wire: CrashWire) -> None:
    """close() with data unread: the other end sees a reset."""
    s = Scenario(wire)
    client, server = s.open()
    client.socket.send(b"nobody reads this")
    wire.until(lambda: server.socket.readable)
    server.socket.close()
    s.ends.clear()
    wire.until(lambda: client.socket.state == neat.STATE_CLOSED)
    assert client.socket.reset
    client.socket.close()
    wire.wait(200)
    assert client.socket.is_free and server.socket.is_free


def refused(wire: CrashWire) -> None:
    """Nobody listens: SYN-SENT ends."""
    client = wire.a.program.connect(wire.b.address, PORT + 1)
    wire.until(lambda: client.state == neat.STATE_CLOSED)
    assert client.error
    client.close()
    wire.wait(5)
    assert client.is_free


def speaking(wire: CrashWire, count: int, size: int) -> list[Any]:
    """So many connections that have said something."""
    clients = [wire.a.program.connect(wire.b.address, PORT) for _ in range(count)]
    wire.until(lambda: all(client.state == neat.STATE_OPEN for client in clients))
    for n, client in enumerate(clients):
        client.send(pattern(n, size))
    wire.wait(1)
    return clients


def held(wire: CrashWire) -> None:
    """More connections than posted slots: they wait, with data, until the program posts again."""
    s = Scenario(wire)
    clients = speaking(wire, 4, 600)
    served: dict[bytes, Any] = {}

    for _ in range(20):
        if server := wire.b.program.accept(s.listener):
            served[server] = b""
        for server in served:
            served[server] += server.recv()
        wire.wait(0.1)
    assert sorted(served.values()) == sorted(pattern(n, 600) for n in range(4))
    for end in (*clients, *served):
        end.shutdown()
    wire.wait(5)
    for end in (*clients, *served):
        end.close()
    wire.wait(200)
    assert all(end.is_free and end.error == 0 for end in (*clients, *served))


def reset_early(wire: CrashWire) -> None:
    """Reset before accept(), in posted slots and without: accept() returns them with what they had received."""
    s = Scenario(wire)
    clients = speaking(wire, 3, 60)
    for client in clients:
        client.abort()
    wire.wait(1)
    served: list[Any] = []
    for _ in range(4):
        if server := wire.b.program.accept(s.listener):
            served.append(server)
        wire.wait(0.1)
    assert sorted(server.recv() for server in served) == sorted(pattern(n, 60) for n in range(3))
    assert all(server.reset for server in served)
    for server in served:
        server.close()
    wire.wait(1)
    assert all(end.is_free for end in (*clients, *served))
    assert wire.b.engine.listeners()[0]["waiting"] == 0


def small_window(wire: CrashWire) -> None:
    """The reader stops, the window closes and is probed, and opens again."""
    s = Scenario(wire)
    client, server = s.open()
    server.socket.set(receive_buffer=2048)
    wire.wait(0.1)
    client.send(20000)
    client.work()
    wire.wait(10)
    s.until(lambda: len(server.got) == 20000)
    assert server.got == client.sent
    client.socket.close()
    s.ends.remove(client)
    s.until(lambda: server.socket.eof)
    server.socket.close()
    wire.wait(200)
    assert wire.a.engine.connections() == wire.b.engine.connections() == []


def lossy(wire: CrashWire) -> None:
    """Retransmission, fast and by timeout, and reassembly."""
    s = Scenario(wire)
    client, server = s.open()
    wire.faults = Faults(delay=0.01, loss=0.1, reorder=0.1, duplicate=0.05)
    s.exchange(client, server, 20000, 10000)
    wire.faults = Faults()
    client.socket.shutdown()
    server.socket.shutdown()
    s.until(lambda: client.socket.eof and server.socket.eof)
    client.socket.close()
    server.socket.close()
    s.gone()


ALL = [orderly, closed_at_once, simultaneous, aborted, unread, refused, held, reset_early, small_window, lossy]
