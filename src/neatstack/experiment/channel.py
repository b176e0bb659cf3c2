"""The program's side of a channel in plain Python, as far as a server of small messages needs it.

The offsets are those of layout.h, which is no part of an installed package; a test compares them. Nothing waits here:
whoever uses it lets the engine run between two calls.
"""

from __future__ import annotations

import mmap
import os
import struct

from neatstack.dataplane.channel.create import create_channel

SHAPE = struct.Struct("=4I4Q")  # sockets, entries, rx_size, tx_size, commands_at, events_at, sockets_at, buffers_at
SHAPE_AT = 24  # in struct neat_channel_header
ENTRY = struct.Struct("=2HI")  # struct neat_entry
COMMANDS_HEAD, SLOTS_USED = 128, 140  # struct neat_channel_program
SOCKET_SIZE = 256
# struct neat_socket: the program's lines, then the replica's
GENERATION, ROLE, FLAGS, TX_HEAD, TX_BASE, RX_TAIL, LISTENER = 4, 8, 10, 12, 16, 20, 24
STATE, RX_HEAD, RX_BASE, TX_TAIL = 132, 140, 144, 148
OP_LOOK, ROLE_ACCEPT, STATE_OPEN, FLAG_TAKEN = 0, 2, 3, 16  # NEAT_...


def mapped(descriptor: int) -> mmap.mmap:
    """The memory of a descriptor, mapped anew: no page of it is there yet."""
    return mmap.mmap(descriptor, os.fstat(descriptor).st_size)


class Program:
    """A program that accepts connections of one listener, one for each of its slots."""

    def __init__(self, channel: int, sockets: int, ring: int, replica: int = 0) -> None:
        self.channel = channel
        self.fd = create_channel(replica, channel, sockets, ring, ring)
        self.memory = mapped(self.fd)
        self.sockets, self.entries, *sizes = SHAPE.unpack_from(self.memory, SHAPE_AT)
        self.rx_size, self.tx_size, self.commands_at, _, self.sockets_at, self.buffers_at = sizes
        self.words = memoryview(self.memory).cast("I")
        self.words[SLOTS_USED // 4] = sockets

    def close(self) -> None:
        """Let go of the descriptor; the memory lasts as long as somebody maps it."""
        os.close(self.fd)

    def post(self, number: int, listener: int) -> None:
        """Let slot `number` be given a connection."""
        at = self.at(number)
        self.memory[at + ROLE] = ROLE_ACCEPT
        self.words[(at + LISTENER) // 4] = listener
        self.words[(at + GENERATION) // 4] += 1
        self.look(number)

    def take(self, number: int) -> bool:
        """accept(). False: the slot was given no connection."""
        at = self.at(number)
        if self.memory[at + STATE] != STATE_OPEN:
            return False
        self.memory[at + FLAGS] |= FLAG_TAKEN
        self.look(number)
        return True

    def recv(self, number: int) -> bytes:
        """All that waits in the receive ring."""
        at, buffer, size = self.at(number), self.buffers_at + number * (self.rx_size + self.tx_size), self.rx_size
        head, tail = self.words[(at + RX_HEAD) // 4], self.words[(at + RX_TAIL) // 4]
        data = self.ring(buffer, size, tail - self.words[(at + RX_BASE) // 4], head - tail & 0xFFFFFFFF)
        self.words[(at + RX_TAIL) // 4] = head
        return data

    def ring(self, buffer: int, size: int, start: int, length: int) -> bytes:
        """Bytes of a ring, which may go on at its beginning."""
        start &= size - 1
        first = min(length, size - start)
        return self.memory[buffer + start : buffer + start + first] + self.memory[buffer : buffer + length - first]

    def send(self, number: int, data: bytes) -> None:
        """Put a message that fits into the send ring, which must be empty: so it lies at the beginning."""
        at, buffer = self.at(number), self.buffers_at + number * (self.rx_size + self.tx_size) + self.rx_size
        head = self.words[(at + TX_HEAD) // 4]
        if head != self.words[(at + TX_TAIL) // 4]:
            raise ValueError(f"slot {number} has sent something that is not acknowledged")
        self.memory[buffer : buffer + len(data)] = data
        self.words[(at + TX_BASE) // 4] = head
        self.words[(at + TX_HEAD) // 4] = head + len(data) & 0xFFFFFFFF
        self.look(number)

    def look(self, number: int) -> None:
        """Tell the replica that there is something to see."""
        head = self.words[COMMANDS_HEAD // 4]
        entry = self.commands_at + (head & self.entries - 1) * ENTRY.size
        ENTRY.pack_into(self.memory, entry, self.channel, OP_LOOK, number)
        self.words[COMMANDS_HEAD // 4] = head + 1 & 0xFFFFFFFF

    def at(self, number: int) -> int:
        """Where the lines of a slot are."""
        return self.sockets_at + number * SOCKET_SIZE
