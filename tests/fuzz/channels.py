"""A hostile program writes what it likes into its channel while another program works.

It has mapped the whole channel writable, so it may change any byte of it, the replica's lines included. It can harm
its own connections; it must not harm another program or the replica.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import random
from typing import Any

from tests.support.datagrams import DatagramSocket, Record, mapped
from tests.support.lab import PEER, STACK, Connection, Lab
from tests.support.layout import neat
from tests.support.program import Program, Socket, address_be

TEMPTING = (0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFF, 4096, 65536)


class Hostility:
    """rounds(): change something, run, and see that the other program's connection is whole."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.lab = Lab(max_tcbs=512, sockets=64, rings=8192)
        self.honest = self.lab.accepted(80)
        self.datagrams = self.lab.datagram_socket(7)
        self.listeners = [self.honest.listener, self.lab.listening(81, backlog=16, post=8)]
        self.channel = 2
        self.attach()

    def attach(self) -> None:
        self.bad = Program(self.lab.engine, self.channel, sockets=32, rx_size=8192, tx_size=8192)
        self.number = self.bad.listen(90 + self.channel, backlog=16, post=8)
        self.lab.run()
        self.port = 90 + self.channel
        self.peers: list[Connection] = []
        self.bound: list[DatagramSocket] = []

    def rounds(self, count: int) -> None:
        for n in range(count):
            if n % 10 == 0:
                self.traffic()
            for _ in range(self.random.randrange(1, 6)):
                self.random.choice(self.deeds)(self)
            self.bad.lines.commands_head &= 0xFFFFFFFF
            self.lab.wait(self.random.choice([0, 0, 0, 0.01, 0.5]))
            self.check_honest()
            if n % 200 == 199:
                self.die()

    def traffic(self) -> None:
        """Honest peers connect to the hostile program and talk to it."""
        c = self.lab.connection(self.port)
        c.sends("S", options=c.syn_options)
        c.receives()
        c.sends("A", seq=1)
        self.peers = [*self.peers[-8:], c]
        for c in self.peers:
            c.sends("A", data=self.random.randbytes(self.random.randrange(1, 3000)))
            for segment in c.receives():
                if segment.payload:
                    c.sends("A", ack=c.heard)

    def check_honest(self) -> None:
        lab, honest = self.lab, self.honest
        word = self.random.randbytes(self.random.randrange(1, 2000))
        honest.sends(data=word)
        assert honest.socket.recv() == word
        honest.socket.send(word)
        lab.run()
        assert b"".join(s.payload for s in honest.receives()) == word
        honest.sends(ack=honest.heard)
        assert honest.socket.unacknowledged == 0
        lab.inject_datagram(word[:1400], 7)
        assert self.datagrams.recv_all() == [word[:1400]]
        lab.datagrams.clear()
        self.datagrams.send(word[:1400], PEER, 7000)
        lab.run()
        assert [d.payload for d in lab.datagrams if d.destination_port == 7000] == [word[:1400]]
        lab.other_frames.clear()
        lab.program.events()
        lab.left = [s for s in lab.left if s.source_port == self.port]

    def die(self) -> None:
        """The manager sees the program's end: nothing of it stays behind."""
        self.lab.engine.drop_channel(self.channel)
        self.lab.engine.unlisten(self.number)
        for s in self.bound:
            with contextlib.suppress(ValueError):  # dropped with its program
                self.lab.engine.unbind(s.number)
        self.lab.run()
        for listener in self.listeners:  # it has connected to the honest program, too
            while (socket := self.lab.program.accept(listener)) is not None:
                socket.close()
                self.lab.run()
        self.lab.wait(130)
        self.lab.left.clear()
        assert self.lab.engine.counters()["connections"] == 1
        self.channel = 2 + self.channel % 50
        self.attach()

    # ---- deeds ----

    def some_socket(self) -> Socket:
        return self.random.choice(self.bad.sockets)

    def value(self, width: int) -> int:
        chosen = self.random.choice(TEMPTING) if self.random.random() < 0.5 else self.random.getrandbits(32)
        return chosen & ((1 << 8 * width) - 1)

    def anything(self, kind: Any) -> Any:
        """Of a field: a number, or an address."""
        if not issubclass(kind, ctypes.Structure):
            return self.value(ctypes.sizeof(kind))
        some = self.random.choice([PEER, STACK, "0.0.0.0", "::", "::1", "fe80::1", "ff02::1", "2001:db8::1"])
        return mapped(some) if self.random.random() < 0.5 else kind.from_buffer_copy(self.random.randbytes(16))

    def scribble_line(self) -> None:
        """Any field of the program's lines of a socket, then say so."""
        socket = self.some_socket()
        name, kind = self.random.choice(type(socket.mine)._fields_)
        if issubclass(kind, ctypes.Array):
            return
        setattr(socket.mine, name, self.anything(kind))
        self.put(neat.OP_LOOK, socket.number, self.channel)

    def scribble_replica(self) -> None:
        """The lines that are the replica's to write."""
        lines = self.random.choice([self.some_socket().replica, self.bad.replica])
        name, kind = self.random.choice(type(lines)._fields_)
        if not issubclass(kind, ctypes.Array):
            setattr(lines, name, self.anything(kind))

    def scribble_header(self) -> None:
        """It is read once, when the channel is attached."""
        name, kind = self.random.choice(type(self.bad.header)._fields_[:-1])
        if name not in ("entries", "sockets", "buffers_at", "rx_size", "tx_size"):  # this test reads them itself
            setattr(self.bad.header, name, self.value(ctypes.sizeof(kind)))

    def scribble_bytes(self) -> None:
        size = len(self.bad.memory)
        length = self.random.randrange(1, 256)
        at = self.random.randrange(512, size - length)
        self.bad.memory[at : at + length] = self.random.randbytes(length)

    def scribble_cursor(self) -> None:
        name = self.random.choice(["commands_head", "events_tail", "sleep_seq"])
        setattr(self.bad.lines, name, self.value(4))

    def nonsense_entry(self) -> None:
        """Commands for sockets, channels and operations that do not exist."""
        self.put(
            self.value(2) if self.random.random() < 0.3 else self.random.randrange(3), self.value(4), self.value(2)
        )

    def command_of_anothers_socket(self) -> None:
        self.put(self.random.choice([neat.OP_LOOK, neat.OP_DETACH]), self.honest.socket.number, 1)

    def steal_a_listener(self) -> None:
        """Post a slot for a listener that was granted to another program."""
        socket = self.some_socket()
        socket.mine.listener = self.honest.listener
        socket.mine.role = neat.ROLE_ACCEPT
        socket.mine.generation = (socket.mine.generation + 1) & 0xFFFFFFFF
        self.put(neat.OP_LOOK, socket.number, self.channel)

    def flood(self) -> None:
        for _ in range(self.random.randrange(200)):
            self.put(self.random.randrange(2), self.random.randrange(40), self.channel)

    def behave(self) -> None:
        """Something legal now and then, so that there is something to spoil."""
        free = [s for s in self.bad.sockets if s.is_free]
        if free:
            role = self.random.choice([neat.ROLE_ACCEPT, neat.ROLE_CONNECT])
            socket = self.random.choice(free)
            generation = socket.mine.generation
            ctypes.memset(ctypes.addressof(socket.mine), 0, ctypes.sizeof(socket.mine))
            socket.mine.listener = self.number
            socket.mine.remote_be, socket.mine.remote_port_be = address_be("10.0.0.1"), 0x5000
            socket.mine.role, socket.mine.generation = role, (generation + 1) & 0xFFFFFFFF
            self.put(neat.OP_LOOK, socket.number, self.channel)

    def use_datagrams(self) -> None:
        """A UDP socket of its own, what is sent to it, and records in its send ring that are anything."""
        if len(self.bound) < 8 and (free := [s for s in self.bad.sockets if s.is_free]):
            try:
                self.bound.append(DatagramSocket(self.bad, 1000 + len(self.bound), slot=self.random.choice(free)))
            except AssertionError:  # its command ring is full
                return
        for s in self.bound:
            self.lab.inject_datagram(self.random.randbytes(self.random.randrange(1400)), s.port)
            record = bytearray(self.random.randbytes(64))
            if self.random.random() < 0.8:
                sane = Record(length=self.random.choice([0, 1, 1400, 5000, self.value(4)]), segment=self.value(2) % 700)
                sane.remote = mapped(self.random.choice([PEER, "127.0.0.1", STACK, "10.0.0.77"]))
                sane.remote_port_be = 9
                record = bytearray(bytes(sane))
            s.raw(bytes(record), self.random.choice([64, 128, 1472, 5120, self.value(4)]))
            self.put(neat.OP_LOOK, s.slot.number, self.channel)

    def put(self, op: int, socket: int, channel: int) -> None:
        """An entry where the replica will look, whatever the cursors say."""
        head = self.bad.lines.commands_head
        slot = self.bad.command_ring[head % len(self.bad.command_ring)]
        slot.op, slot.socket, slot.channel = op, socket, channel
        self.bad.lines.commands_head = (head + 1) & 0xFFFFFFFF

    deeds = (
        scribble_line,
        scribble_line,
        scribble_line,
        scribble_replica,
        scribble_header,
        scribble_bytes,
        scribble_cursor,
        nonsense_entry,
        command_of_anothers_socket,
        steal_a_listener,
        flood,
        behave,
        behave,
        use_datagrams,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    hostility = Hostility(options.seed)
    hostility.rounds(options.rounds)
    print(f"{options.rounds} rounds; commands dropped: {hostility.lab.drops('command')}")


if __name__ == "__main__":
    main()
