"""A program's side of a channel in plain Python, following docs/architecture.md to the letter.

Where the socket library waits, this does nothing: tests run the engine between two calls.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
import socket as kernel
from dataclasses import dataclass, field
from typing import Any

from neatstack.dataplane.channel.create import channel_size, create_channel
from tests.support.layout import Aside, ChannelHeader, ChannelProgram, ChannelReplica, Datagram, Entry, TcpInfo, neat
from tests.support.layout import Socket as SocketLines
from tests.support.layout import address as address_of

_numbers = itertools.count(1)  # listener numbers: the manager's job


def address_be(text: str) -> ctypes.Structure:
    """An address as layout.h keeps it."""
    return address_of(text)


def port_be(port: int) -> int:
    return kernel.htons(port)


class Program:
    """One program with one channel to one engine.

    rx_size and tx_size are bytes of each socket's rings; sockets and they are powers of two. `doorbell` is an eventfd.
    `inherit` names the channel of the parent of a forked program. `replica` is the engine's number.
    """

    def __init__(
        self,
        engine,
        channel: int = 1,
        *,
        sockets: int = 64,
        rx_size: int = 65536,
        tx_size: int = 65536,
        doorbell: int = -1,
        inherit: int | None = None,
        replica: int = 0,
    ) -> None:
        self.engine = engine
        self.channel = channel
        descriptor = create_channel(replica, channel, sockets, rx_size, tx_size)
        self.memory = mmap.mmap(descriptor, channel_size(sockets, rx_size, tx_size))
        os.close(descriptor)
        self.header = ChannelHeader.from_buffer(self.memory)
        self.lines = ChannelProgram.from_buffer(self.memory, 128)
        self.replica = ChannelReplica.from_buffer(self.memory, 256)
        entries = Entry * self.header.entries
        self.command_ring = entries.from_buffer(self.memory, self.header.commands_at)
        self.event_ring = entries.from_buffer(self.memory, self.header.events_at)
        slots = (SocketLines * self.header.sockets).from_buffer(self.memory, self.header.sockets_at)
        self.sockets = [Socket(self, number, slots[number]) for number in range(self.header.sockets)]
        self.posted: dict[int, list[Socket]] = {}
        engine.add_channel(channel, self.memory, doorbell, inherit)

    # ---- rings ----

    def command(self, op: int, socket: int, channel: int | None = None) -> None:
        """Put an entry into the command ring, which must have room."""
        head = self.lines.commands_head
        assert (head - self.replica.commands_tail) & 0xFFFFFFFF < self.header.entries, (
            "command ring full: run the engine"
        )
        slot = self.command_ring[head % self.header.entries]
        slot.channel, slot.op, slot.socket = self.channel if channel is None else channel, op, socket
        self.lines.commands_head = (head + 1) & 0xFFFFFFFF

    def events(self) -> list[tuple[int, int, int]]:
        """Take all waiting events: (op, socket, channel)."""
        taken = []
        head = self.replica.events_head
        while self.lines.events_tail != head:
            entry = self.event_ring[self.lines.events_tail % self.header.entries]
            taken.append((entry.op, entry.socket, entry.channel))
            self.lines.events_tail = (self.lines.events_tail + 1) & 0xFFFFFFFF
        return taken

    def sleeps(self, asleep: bool = True) -> None:
        if (self.lines.sleep_seq & 1) != asleep:
            self.lines.sleep_seq += 1

    # ---- calls ----

    def free_slot(self) -> Socket:
        for socket in self.sockets:
            if socket.is_free:
                return socket
        raise AssertionError("no free slot in the channel")

    def listen(self, port: int, *, address: str = "0.0.0.0", backlog: int = 128, post: int = 8, **options: int) -> int:
        """What the manager does for bind and listen; `post` slots wait at once. Returns the listener's number.

        `options` are those of Engine.listen.
        """
        number = next(_numbers)
        self.engine.listen(number, address, port, backlog, **options)
        self.engine.grant(number, self.channel)
        self.posted[number] = []
        self.post(number, post)
        return number

    def post(self, listener: int, count: int = 1) -> list[Socket]:
        new = []
        for _ in range(count):
            socket = self.free_slot()
            socket.open(neat.ROLE_ACCEPT, listener=listener)
            new.append(socket)
        self.posted.setdefault(listener, []).extend(new)
        return new

    def accept(self, listener: int) -> Socket | None:
        """The next connection, or None (EAGAIN). A fresh slot is posted for the one taken."""
        for socket in self.posted[listener]:
            if socket.answered and socket.state in (neat.STATE_OPEN, neat.STATE_CLOSED):
                self.posted[listener].remove(socket)
                socket.set_flags(socket.flags | neat.FLAG_TAKEN)
                self.post(listener)
                return socket
        return None

    def withdraw(self, socket: Socket) -> None:
        """Ask a posted slot back."""
        socket.mine.role = neat.ROLE_WITHDRAW
        socket.look()

    def connect(self, address: str, port: int, *, local: str = "0.0.0.0", local_port: int = 0, **lines: Any) -> Socket:
        """Non-blocking: see `state` and `error` afterwards. `lines` are fields of neat_socket_program."""
        socket = self.free_slot()
        socket.open(
            neat.ROLE_CONNECT,
            remote_be=address_be(address),
            remote_port_be=port_be(port),
            local_be=address_be(local),
            local_port_be=port_be(local_port),
            **lines,
        )
        return socket


@dataclass(eq=False)
class Socket:
    """One slot. Reading attributes looks at shared memory; methods write the program's lines and send commands."""

    program: Program
    number: int
    lines: SocketLines
    closed: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        self.mine = self.lines.program
        self.replica = self.lines.replica

    # ---- what the replica says ----

    @property
    def is_free(self) -> bool:
        if self.closed and self.replica.state == neat.STATE_FREE:
            self.mine.role = neat.ROLE_FREE
            self.closed = False
        return self.mine.role == neat.ROLE_FREE and self.replica.state == neat.STATE_FREE

    @property
    def answered(self) -> bool:
        """The replica's lines speak of this use of the slot, not of the one before."""
        return self.replica.generation == self.mine.generation

    @property
    def state(self) -> int:
        return self.replica.state

    @property
    def error(self) -> int:
        return self.replica.error

    @property
    def flags(self) -> int:
        return self.mine.flags

    @property
    def eof(self) -> bool:
        return bool(self.replica.seen & neat.SEEN_EOF) and not self.readable

    @property
    def reset(self) -> bool:
        return bool(self.replica.seen & neat.SEEN_RESET)

    @property
    def fin_acked(self) -> bool:
        return bool(self.replica.seen & neat.SEEN_FIN_ACKED)

    @property
    def readable(self) -> int:
        """Bytes that recv() would return."""
        return (self.replica.rx_head - self.mine.rx_tail) & 0xFFFFFFFF

    @property
    def unacknowledged(self) -> int:
        return (self.mine.tx_head - self.replica.tx_tail) & 0xFFFFFFFF

    @property
    def writable(self) -> int:
        """Bytes that send() would take."""
        return self.program.header.tx_size - self.unacknowledged

    # ---- calls ----

    def open(self, role: int, **lines: int) -> None:
        """Take this free slot: write its lines, then its generation, then say so."""
        generation = self.mine.generation
        self.program.lines.slots_used = max(self.program.lines.slots_used, self.number + 1)
        ctypes.memset(ctypes.addressof(self.mine), 0, ctypes.sizeof(self.mine))
        for name, value in lines.items():
            setattr(self.mine, name, value)
        self.closed = False
        self.mine.role = role
        self.mine.generation = (generation + 1) & 0xFFFFFFFF
        self.look()

    def look(self) -> None:
        self.program.command(neat.OP_LOOK, self.number)

    def ask(self) -> None:
        """getsockopt(TCP_INFO): the replica is to write `info`."""
        self.mine.info_asked = (self.replica.info_answered + 1) & 0xFFFFFFFF
        self.look()

    @property
    def info(self) -> Any:
        """What the replica has answered last: a copy of struct neat_tcp_info."""
        at = self.program.header.asides_at + self.number * ctypes.sizeof(Aside)
        return TcpInfo.from_buffer_copy(self.program.memory, at)

    @property
    def times(self) -> Any:
        """struct neat_times, to read and to write."""
        at = self.program.header.asides_at + self.number * ctypes.sizeof(Aside)
        return Aside.from_buffer(self.program.memory, at).times

    @property
    def story(self) -> tuple[Any, bytes]:
        """Why it was never opened, if `soft_story` says so; and what was quoted."""
        at, _ = self._ring(sending=False)
        about = Datagram.from_buffer_copy(self.program.memory, at)
        at += ctypes.sizeof(about)
        return about, bytes(self.program.memory[at : at + about.length])

    def set(self, **lines: int) -> None:
        """setsockopt: fields of neat_socket_program."""
        for name, value in lines.items():
            setattr(self.mine, name, value)
        self.look()

    def set_flags(self, flags: int) -> None:
        self.set(flags=flags)

    def _ring(self, sending: bool) -> tuple[int, int]:
        """Offset in the channel, and size, of one of this socket's rings."""
        header = self.program.header
        at = header.buffers_at + self.number * (header.rx_size + header.tx_size)
        return (at + header.rx_size, header.tx_size) if sending else (at, header.rx_size)

    def send(self, data: bytes) -> int:
        """Copy into the send ring what fits; returns how much."""
        at, size = self._ring(sending=True)
        if not self.unacknowledged:
            self.mine.tx_base = self.mine.tx_head
        data = data[: self.writable]
        start = (self.mine.tx_head - self.mine.tx_base) % size
        first = data[: size - start]
        self.program.memory[at + start : at + start + len(first)] = first
        self.program.memory[at : at + len(data) - len(first)] = data[len(first) :]
        self.mine.tx_head = (self.mine.tx_head + len(data)) & 0xFFFFFFFF
        self.look()
        return len(data)

    def recv(self, most: int = 1 << 30) -> bytes:
        """Copy out of the receive ring; b"" when nothing waits."""
        at, size = self._ring(sending=False)
        length = min(most, self.readable)
        start = (self.mine.rx_tail - self.replica.rx_base) % size
        first = min(length, size - start)
        data = self.program.memory[at + start : at + start + first] + self.program.memory[at : at + length - first]
        self.mine.rx_tail = (self.mine.rx_tail + length) & 0xFFFFFFFF
        if length:
            self.look()
        return data

    def shutdown(self, how: int = neat.SHUT_WRITE) -> None:
        self.set(shut=self.mine.shut | how)

    def close(self) -> None:
        """The last descriptor of this program is gone; the slot may be used again when the replica says FREE."""
        self.closed = True
        self.program.command(neat.OP_DETACH, self.number)

    def abort(self) -> None:
        """close() with SO_LINGER 0."""
        self.shutdown(neat.SHUT_ABORT)
        self.close()
