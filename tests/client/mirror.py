"""A stack without a network: the side of the manager and the replicas, where connections lead back into the stack.

Programs run on it with the socket library as they would on a real stack; what one sends to a port, the one that
listens there receives. No TCP, no interfaces, no privileges: so a test of the library fails only for faults of the
library.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import select
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neatstack.dataplane.channel.create import channel_size, create_channel
from tests.client.mirror_datagrams import Datagrams, mapped, v4
from tests.support.layout import (
    STRUCTURES,
    Aside,
    ChannelHeader,
    ChannelProgram,
    ChannelReplica,
    Entry,
    ReplicaPage,
    Socket,
    StackPage,
    TcpInfo,
    neat,
)

LIBRARY = Path(__file__).parents[2] / "src/neatstack/client/libneat.so"
ADDRESS = "10.66.0.2"
Request, Reply = STRUCTURES["neat_request"], STRUCTURES["neat_reply"]
SOCKETS, RING = 256, 16384
MASK = 0xFFFFFFFF


def be32(address: str) -> int:
    return int(struct.unpack("=I", socket.inet_aton(address))[0])


def be16(port: int) -> int:
    return socket.htons(port)


class Channel:
    """One program's channel with one replica, mapped."""

    def __init__(self, replica: int, number: int):
        self.replica, self.number = replica, number
        self.memfd = create_channel(replica, number, SOCKETS, RING, RING)
        self.memory = mmap.mmap(self.memfd, channel_size(SOCKETS, RING, RING))
        self.header = ChannelHeader.from_buffer(self.memory)
        self.program = ChannelProgram.from_buffer(self.memory, 128)
        self.lines = ChannelReplica.from_buffer(self.memory, 256)
        self.commands = (Entry * self.header.entries).from_buffer(self.memory, self.header.commands_at)
        self.events = (Entry * self.header.entries).from_buffer(self.memory, self.header.events_at)
        self.sockets = (Socket * SOCKETS).from_buffer(self.memory, self.header.sockets_at)
        self.seen_generation = [0] * SOCKETS
        self.ends: list[End | None] = [None] * SOCKETS
        self.posted: set[int] = set()


@dataclass(eq=False)
class End:
    """One end of a connection: `slot` of a channel, or held (no slot yet)."""

    local: tuple[int, int]
    remote: tuple[int, int]
    listener: int = 0
    channel: Channel | None = None
    slot: int = 0
    holders: set[int] = field(default_factory=set)
    peer: End | None = None
    taken: bool = False
    held: bytearray = field(default_factory=bytearray)
    eof: bool = False
    error: int = 0
    closed: bool = False
    read: int = 0  # the program's rx_tail, as it was last told
    urgent: int = 0  # the sender's tx_urgent, as it was last told
    leaving: bool = False  # nobody holds it any more, and the peer does not have all of it yet

    @property
    def program(self) -> Any:
        assert self.channel
        return self.channel.sockets[self.slot].program

    @property
    def lines(self) -> Any:
        assert self.channel
        return self.channel.sockets[self.slot].replica


@dataclass
class Listener:
    number: int
    address: int
    port: int
    holders: set[int]
    sockets: int = 1  # that share it by SO_REUSEPORT
    listening: bool = False
    waiting: deque[End] = field(default_factory=deque)


class Mirror:
    """The stack. `environment` leads a program to it."""

    def __init__(self, replicas: int = 2):
        self.replicas = replicas
        self.limit = 0  # bytes of each ring that may be used, as a replica tunes it; room is then what it was told of
        self.window = 0  # bytes, of congestion and of the peer, as it is told
        self.still = False  # nothing is carried
        self.directory = tempfile.TemporaryDirectory(prefix="neat-mirror-")
        self.server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.server.bind(f"{self.directory.name}/manager.sock")
        self.server.listen(64)
        self.page_fd, self.page = self._page(StackPage)
        self.page.magic, self.page.version = neat.MAGIC, neat.LAYOUT_VERSION
        self.page.address_be, self.page.replicas, self.page.active = be32(ADDRESS), replicas, (1 << replicas) - 1
        self.page.mtu, self.page.tcp_backlog_max, self.page.generation = 1500, 4096, 1
        self.page.ttl = self.page.hop_limit = 64
        self.page.fastopen = neat.FASTOPEN_CLIENT | neat.FASTOPEN_SERVER
        self.page.ttl = self.page.hop_limit = 64
        self.page.hash_key[:] = (3, 5, 7)
        self.page.table[:] = [bucket % replicas for bucket in range(neat.BUCKETS)]
        self.replica_pages = [self._page(ReplicaPage) for _ in range(replicas)]
        for _, page in self.replica_pages:
            page.incarnation = 1
        self.bells = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(replicas)]
        self.channels: dict[int, list[Channel]] = {}
        self.doorbells: dict[int, int] = {}
        self.rung: dict[tuple[int, int], int] = {}
        self.inherited: dict[int, list[int]] = {}
        self.owner: dict[socket.socket, int] = {}
        self.alive: dict[int, socket.socket] = {}
        self.listeners: dict[int, Listener] = {}
        self.numbers, self.bindings, self.ports = 0, 0, 40000
        self.requests: list[int] = []
        self.no_port: Callable[[int], bool] = lambda replica: False  # it refuses this connect()
        self.connects: list[int] = []  # replicas that were asked
        self.close_takes = 0.0  # seconds until CLOSE is carried out
        self.datagrams = Datagrams(self)
        self.stopping = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    @staticmethod
    def _page(kind: Any) -> tuple[int, Any]:
        fd = os.memfd_create("page")
        os.ftruncate(fd, mmap.PAGESIZE)
        return fd, kind.from_buffer(mmap.mmap(fd, mmap.PAGESIZE))

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "LD_PRELOAD": str(LIBRARY), "NEAT_STACK": self.directory.name}

    def spawn(self, *argv: object, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(a) for a in argv],
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )

    def python(self, script: str, *arguments: object) -> subprocess.Popen[str]:
        return self.spawn(sys.executable, "-c", script, *arguments)

    def close(self) -> None:
        self.stopping = True
        self.thread.join()
        self.server.close()
        for fd in (self.page_fd, *self.bells, *(fd for fd, _ in self.replica_pages), *self.doorbells.values()):
            os.close(fd)
        for channels in self.channels.values():
            for channel in channels:
                os.close(channel.memfd)
        self.directory.cleanup()

    # ---- the manager ----

    def _run(self) -> None:
        poll = select.poll()
        sockets: dict[int, socket.socket] = {}
        for fd in (self.server.fileno(), *self.bells):
            poll.register(fd, select.POLLIN)
        while not self.stopping:
            busy = self._work()
            if not busy:
                self._sleep(1)
            for fd, _ in poll.poll(0 if busy else 2):
                if fd == self.server.fileno():
                    made, _ = self.server.accept()
                    sockets[made.fileno()] = made
                    poll.register(made, select.POLLIN)
                elif fd in self.bells:
                    os.eventfd_read(fd)
                elif not self._serve(sockets[fd]):
                    poll.unregister(fd)
                    sockets.pop(fd).close()
            if not busy:
                self._sleep(0)

    def _sleep(self, parity: int) -> None:
        for _, page in self.replica_pages:
            if page.sleep_seq & 1 != parity:
                page.sleep_seq += 1
        if parity:
            self._work()

    def _open(self, inherit: int | None) -> int:
        self.numbers += 1
        self.channels[self.numbers] = [Channel(r, self.numbers) for r in range(self.replicas)]
        self.doorbells[self.numbers] = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        if inherit is not None:
            for end in self._ends():
                if inherit in end.holders:
                    end.holders.add(self.numbers)
            for listener in self.listeners.values():
                if inherit in listener.holders:
                    listener.holders.add(self.numbers)
            self.datagrams.inherit(inherit, self.numbers)
        return self.numbers

    def _serve(self, conn: socket.socket) -> bool:
        try:
            data = conn.recv(ctypes.sizeof(Request))
        except ConnectionResetError:  # it has not read every reply
            data = b""
        if not data:
            number = self.owner.pop(conn, 0)
            if number and self.alive.get(number) is conn:
                self._drop(number)
            return False
        request = Request.from_buffer_copy(data)
        self.requests.append(request.op)
        reply, fds = Reply(magic=neat.MAGIC, replicas=self.replicas), []
        if request.op in (neat.REQUEST_HELLO, neat.REQUEST_FORK):
            fork = request.op == neat.REQUEST_FORK
            number = self._open(request.channel if fork else None)
            reply.channel, reply.token = number, number * 1000
            fds = [self.doorbells[number]] if fork else [self.page_fd, self.doorbells[number]]
            for r, channel in enumerate(self.channels[number]):
                fds += [channel.memfd] if fork else [channel.memfd, self.replica_pages[r][0], self.bells[r]]
            if not fork:
                self.owner[conn] = number
                self.alive[number] = conn
        elif request.op == neat.REQUEST_CLAIM:
            reply.error = 0 if request.token == request.channel * 1000 else errno.EPERM
            self.owner[conn] = request.channel
            self.alive[request.channel] = conn
        elif request.op == neat.REQUEST_BIND and request.flags & neat.BIND_DATAGRAM:
            self.datagrams.bind(request, reply)
        elif request.op == neat.REQUEST_BIND:
            self._bind(request, reply)
        elif request.op == neat.REQUEST_LISTEN:
            self.listeners[request.binding].listening = True
        elif request.op == neat.REQUEST_CLOSE and request.binding in self.datagrams.bound:
            self.datagrams.close(request.binding, request.channel)
        elif request.op == neat.REQUEST_CLOSE:
            time.sleep(self.close_takes)
            listener = self.listeners[request.binding]
            listener.sockets -= 1
            if listener.sockets <= 0:
                listener.holders.discard(request.channel)
        with contextlib.suppress(BrokenPipeError):  # it did not wait for the reply, and is gone
            socket.send_fds(conn, [bytes(reply)], fds)
        return True

    def _bind(self, request: Any, reply: Any) -> None:
        port = request.port_be
        if not port:
            self.ports += 1
            port = be16(self.ports)
        there = next((li for li in self.listeners.values() if li.port == port and li.holders), None)
        if there is not None and request.flags & neat.BIND_REUSEPORT:
            there.sockets += 1
            reply.binding, reply.port_be = there.number, port
            return
        if there is not None:
            reply.error = errno.EADDRINUSE
            return
        self.bindings += 1
        self.listeners[self.bindings] = Listener(self.bindings, v4(request.address_be), port, {request.channel})
        reply.binding, reply.port_be = self.bindings, port

    def _drop(self, number: int) -> None:
        self.datagrams.drop(number)
        for listener in self.listeners.values():
            listener.holders.discard(number)
        for end in self._ends():
            if number in end.holders:
                end.holders.discard(number)
                if not end.holders:
                    self._shut(end, errno.ECONNRESET)
        for channel in self.channels[number]:
            channel.posted.clear()

    # ---- the replicas ----

    def _ends(self) -> list[End]:
        return [end for channels in self.channels.values() for ch in channels for end in ch.ends if end]

    def _work(self) -> bool:
        busy = False
        for number, channels in list(self.channels.items()):
            for channel in channels:
                while channel.lines.commands_tail != channel.program.commands_head:
                    entry = channel.commands[channel.lines.commands_tail & (channel.header.entries - 1)]
                    where, op, slot = entry.channel, entry.op, entry.socket
                    channel.lines.commands_tail = channel.lines.commands_tail + 1 & MASK
                    self._command(number, self.channels[where][channel.replica], op, slot)
                    busy = True
        for end in self._ends():
            busy |= self._move(end)
        return self.datagrams.work() or busy

    def _tell(self, end: End) -> None:
        for number in end.holders:
            assert end.channel
            self._event(number, end.channel, end.slot)

    def _event(self, number: int, where: Channel, slot: int) -> None:
        own = self.channels[number][where.replica]
        entry = own.events[own.lines.events_head & (own.header.entries - 1)]
        entry.channel, entry.op, entry.socket = where.number, neat.OP_LOOK, slot
        own.lines.events_head = own.lines.events_head + 1 & MASK
        sleep = own.program.sleep_seq
        if sleep & 1 and self.rung.get((number, own.replica)) != sleep:
            self.rung[number, own.replica] = sleep
            os.eventfd_write(self.doorbells[number], 1)

    def _command(self, number: int, channel: Channel, op: int, slot: int) -> None:
        end = channel.ends[slot]
        program = channel.sockets[slot].program
        if end is None and program.role == neat.ROLE_DATAGRAM:
            self.datagrams.command(channel, op, slot)
            return
        if end is None:
            if op == neat.OP_LOOK and program.role == neat.ROLE_WITHDRAW:
                channel.posted.discard(slot)
                self._free(channel, slot)
            elif op == neat.OP_LOOK and program.generation != channel.seen_generation[slot]:
                channel.seen_generation[slot] = program.generation
                (self._connect if program.role == neat.ROLE_CONNECT else self._post)(channel, slot)
            elif op == neat.OP_DETACH:
                self._free(channel, slot)
            return
        end.read = program.rx_tail
        if program.info_asked != end.lines.info_answered:
            self._inform(end)
        if program.flags & neat.FLAG_TAKEN:
            end.taken = True
        if op == neat.OP_DETACH:
            end.holders.discard(number)
            unread = end.lines.rx_head != program.rx_tail
            if not end.holders and (unread or not end.peer or program.shut & neat.SHUT_ABORT):
                self._shut(end, errno.ECONNRESET)
            elif not end.holders:
                end.leaving = True
        elif program.role == neat.ROLE_WITHDRAW and not end.taken:
            self._requeue(end)
        elif program.shut & neat.SHUT_ABORT:
            self._shut(end, errno.ECONNRESET)

    @staticmethod
    def _inform(end: End) -> None:
        """Something of which a test can tell whether the library has asked."""
        assert end.channel
        at = end.channel.header.asides_at + end.slot * ctypes.sizeof(Aside)
        info = TcpInfo.from_buffer(end.channel.memory, at)
        info.tcp_state, info.segs_in = end.lines.tcp_state, end.program.info_asked
        end.lines.info_answered = end.program.info_asked

    def _free(self, channel: Channel, slot: int) -> None:
        channel.ends[slot] = None
        lines = channel.sockets[slot].replica
        lines.generation, lines.seen, lines.error = channel.sockets[slot].program.generation, 0, 0
        lines.state = neat.STATE_FREE

    def _connect(self, channel: Channel, slot: int) -> None:
        program = channel.sockets[slot].program
        self.ports += 1
        local = (v4(program.local_be) or be32(ADDRESS), program.local_port_be or be16(self.ports))
        end = End(local, (v4(program.remote_be), program.remote_port_be), 0, channel, slot, {channel.number})
        channel.ends[slot] = end
        self._rewind(end.lines)
        found = [
            li for li in self.listeners.values()
            if li.port == program.remote_port_be and li.holders and li.listening
        ]  # fmt: skip
        self.connects.append(channel.replica)
        if self.no_port(channel.replica):
            end.error, end.closed = errno.EADDRNOTAVAIL, True
        elif not found:
            end.error, end.closed = errno.ECONNREFUSED, True
        else:
            end.peer = End(end.remote, end.local, found[0].number, peer=end)
            self._offer(found[0], end.peer)
        self._lines(end)
        self._tell(end)

    def _post(self, channel: Channel, slot: int) -> None:
        lines = channel.sockets[slot].replica
        listener = self.listeners[channel.sockets[slot].program.listener]
        self._rewind(lines)
        lines.state = neat.STATE_POSTED
        lines.generation = channel.sockets[slot].program.generation
        channel.posted.add(slot)
        for end in listener.waiting:
            if self._replica(end) == channel.replica:
                listener.waiting.remove(end)
                self._offer(listener, end)
                break

    @staticmethod
    def _replica(end: End) -> int:
        return end.peer.channel.replica if end.peer and end.peer.channel else 0

    @staticmethod
    def _rewind(lines: Any) -> None:
        """A slot is used anew."""
        lines.rx_head = lines.rx_base = lines.tx_tail = lines.tx_sent = 0
        lines.remote_port_be = lines.seen = lines.error = 0

    def _offer(self, listener: Listener, end: End) -> None:
        for number in sorted(listener.holders):
            channel = self.channels[number][self._replica(end)]
            for slot in sorted(channel.posted):
                if channel.sockets[slot].program.listener == listener.number:
                    channel.posted.discard(slot)
                    end.channel, end.slot, end.holders = channel, slot, {number}
                    channel.ends[slot] = end
                    self._lines(end)
                    at = self._ring(end, True)
                    channel.memory[at : at + len(end.held)] = bytes(end.held)
                    end.lines.rx_head = len(end.held)
                    self._tell(end)
                    return
        listener.waiting.append(end)

    def _requeue(self, end: End) -> None:
        """Nothing of it was read: what has come lies at the start of its ring."""
        assert end.channel
        at = self._ring(end, True)
        end.held[:] = end.channel.memory[at : at + end.lines.rx_head]
        self._free(end.channel, end.slot)
        end.channel, end.holders = None, set()
        self._offer(self.listeners[end.listener], end)

    def _lines(self, end: End) -> None:
        if not end.channel:
            return
        lines = end.lines
        lines.local_be, lines.local_port_be = mapped(end.local[0]), end.local[1]
        lines.remote_be, lines.remote_port_be = mapped(end.remote[0]), end.remote[1]
        lines.seen = end.eof * neat.SEEN_EOF | bool(end.error) * neat.SEEN_RESET | lines.seen & neat.SEEN_URGENT
        lines.error, lines.mss, lines.tcp_state = end.error, 1460, 7 if end.closed else 1
        lines.rx_limit = lines.send_most = self.limit
        lines.cwnd = lines.peer_window = self.window
        lines.state = neat.STATE_CLOSED if end.closed else neat.STATE_OPEN
        lines.generation = end.channel.sockets[end.slot].program.generation

    def _shut(self, end: End, error: int) -> None:
        """Nobody holds the end any more, or it is aborted."""
        peer = end.peer
        if end.channel and end.holders:
            end.error, end.closed = error, True
            self._lines(end)
            self._tell(end)
        elif end.channel:
            self._free(end.channel, end.slot)
        end.peer = None
        if peer and not peer.closed:
            if error:
                peer.error, peer.closed = error, True
            peer.eof = peer.eof or not error
            peer.peer = None
            if peer.leaving and peer.channel:
                self._free(peer.channel, peer.slot)
                return
            self._lines(peer)
            if peer.channel:
                self._tell(peer)

    def _move(self, end: End) -> bool:
        """Carry what this end has sent to its peer."""
        peer = end.peer
        if self.still or not peer or not peer.channel or not end.channel or end.closed:
            return False
        program, lines = end.program, end.lines
        read = peer.read if self.limit else peer.program.rx_tail
        room = (self.limit or RING) - (peer.lines.rx_head - read & MASK)
        count = min(program.tx_head - lines.tx_tail & MASK, room)
        last = end.leaving or program.shut & neat.SHUT_WRITE
        fin = bool(last) and program.tx_head == (lines.tx_tail + count & MASK) and not peer.eof
        if program.flags & neat.FLAG_URGENT and program.tx_urgent != peer.urgent:
            peer.urgent = program.tx_urgent
            peer.lines.rx_urgent = program.tx_urgent - 1 & MASK
            peer.lines.seen |= neat.SEEN_URGENT
            self._tell(peer)
        source, target = self._ring(end, False), self._ring(peer, True)
        for _ in range(3):  # where either ring wraps
            start, to = lines.tx_tail - program.tx_base & RING - 1, peer.lines.rx_head - peer.lines.rx_base & RING - 1
            piece = min(count, RING - start, RING - to)
            memory = end.channel.memory[source + start : source + start + piece]
            peer.channel.memory[target + to : target + to + piece] = memory
            peer.lines.rx_head = peer.lines.rx_head + piece & MASK
            lines.tx_tail = lines.tx_sent = lines.tx_tail + piece & MASK
            count -= piece
            if piece:
                self._tell(end)
                self._tell(peer)
        if fin:
            peer.eof = True
            self._lines(peer)
            self._tell(peer)
        if end.leaving and peer.eof:
            self._shut(end, 0)
        return fin

    @staticmethod
    def _ring(end: End, receive: bool) -> int:
        assert end.channel
        return int(end.channel.header.buffers_at + end.slot * 2 * RING + (0 if receive else RING))
