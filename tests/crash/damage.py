"""A stack one bit of whose memory is turned over while it serves; and the one that takes over what it leaves.

Each lives in a child process, for anything may happen to it. What outlives it is in shared memory: the region, the
channels, and with them how far every program has come.
"""

from __future__ import annotations

import faulthandler
import mmap
import os
import signal
import struct
from collections.abc import Callable
from dataclasses import dataclass

from neatstack.dataplane.engine import Died
from neatstack.dataplane.flip import flip_in, sizes
from tests.crash.scenarios import PORT
from tests.support.crash import CrashWire, MortalHost
from tests.support.layout import neat
from tests.support.program import Socket
from tests.support.wire import Wire

HOLDING = 81  # the port whose connections wait for a program
MORE = 9000  # bytes each way, more than a ring
FINE, WRONG, STALLED, DETECTED, REFUSED, LEAKED = range(6)  # exit statuses
SECONDS = 4  # of a child's life, much more than it needs; it hangs, and is killed as the watchdog would


class WrongByte(Exception):
    """A program was given what its peer has not sent."""


def mortal(function: Callable[[], int]) -> int:
    """What `function` returns, in a child process; or the negative number of the signal that has ended it."""
    pid = os.fork()
    if pid == 0:
        status = REFUSED
        try:
            faulthandler.disable()
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(SECONDS)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            status = function()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def stream(number: int, start: int, length: int) -> bytes:
    """Bytes that tell where in which stream they belong."""
    first, last = start // 4, (start + length) // 4 + 1
    words = b"".join(struct.pack(">BBH", 0xA5, number, n & 0xFFFF) for n in range(first, last))
    return words[start % 4 : start % 4 + length]


@dataclass
class End:
    """A program's work on one socket; how far it is stands in the socket's own lines."""

    socket: Socket
    number: int
    peer: int

    @property
    def sent(self) -> int:
        return self.socket.mine.tx_head

    @property
    def got(self) -> int:
        return self.socket.mine.rx_tail

    @property
    def lost(self) -> bool:
        return self.socket.reset or self.socket.state == neat.STATE_CLOSED

    def push(self, total: int) -> None:
        if not self.lost and self.sent < total:
            self.socket.send(stream(self.number, self.sent, min(total - self.sent, self.socket.writable)))

    def pull(self) -> None:
        start = self.got
        if self.socket.readable > self.socket.program.header.rx_size:
            raise WrongByte("more to read than there can be")
        data = self.socket.recv()
        if data != stream(self.peer, start, len(data)):
            raise WrongByte(f"at {start} of {len(data)}")


class CarelessWire(CrashWire):
    """Does not look whether connections are damaged."""

    def run_host(self, host: MortalHost, other: MortalHost) -> None:  # type: ignore[override]
        host.engine.run()


class Case:
    """Connections between two hosts, of which `b` is damaged; one waits, with data, for a program to accept it."""

    def __init__(self) -> None:
        self.wire = CarelessWire(rings=4096)
        self.shared = mmap.mmap(-1, 4096)
        a, b = self.wire.a, self.wire.b
        self.listener = b.program.listen(PORT, post=6)
        self.holding = b.program.listen(HOLDING, post=0)
        self.wire.run()
        self.pairs = [self.open(2 * n) for n in range(3)]
        self.transfer(self.pairs, 1500)
        self.held = End(a.program.connect(b.address, HOLDING), 100, 101)
        self.wire.until(lambda: self.held.socket.state == neat.STATE_OPEN)
        self.held.push(2000)
        self.wire.wait(1)
        for host in (a, b):
            host.told = host.engine.listeners()
        self.sizes = sizes(b.engine)

    def open(self, number: int) -> tuple[End, End]:
        client = self.wire.a.program.connect(self.wire.b.address, PORT)
        found: list[Socket] = []

        def done() -> bool:
            for server in self.accepted(self.listener):  # it may be one that a dead child has opened
                if server.replica.remote_port_be == client.replica.local_port_be:
                    found.append(server)
            return bool(found) and client.state == neat.STATE_OPEN

        Wire.until(self.wire, done, limit=20)
        return End(client, number, number + 1), End(found[0], number + 1, number)

    def accepted(self, listener: int) -> list[Socket]:
        """Connections that no program has taken yet. What is known of posted slots may be a dead child's."""
        program = self.wire.b.program
        new = [
            socket for socket in program.sockets
            if (socket.mine.role, socket.mine.listener) == (neat.ROLE_ACCEPT, listener) and socket.answered
            and socket.state in (neat.STATE_OPEN, neat.STATE_CLOSED) and not socket.flags & neat.FLAG_TAKEN
        ]  # fmt: skip
        for socket in new:
            socket.set_flags(socket.flags | neat.FLAG_TAKEN)
            program.post(listener)
        return new

    def transfer(self, pairs: list[tuple[End, End]], total: int) -> None:
        """Until everybody has sent so much in all, and everybody has it; but for those that are reset."""

        def done() -> bool:
            self.shared[:8] = struct.pack("<Q", self.wire.now)
            for one, other in pairs:
                for end in (one, other):
                    end.push(total)
                    end.pull()
                    if end.socket.eof and not end.socket.reset:
                        raise WrongByte("an end that is none")
            return all(x.lost or y.lost or (x.got == y.sent == y.got == x.sent == total) for x, y in pairs)

        self.wire.until(done, limit=60)

    # ---- in children ----

    def damaged(self, part: str, byte: int, bit: int) -> int:
        """The stack goes on for some time."""
        engine = self.wire.b.engine
        engine.die_at("finished", 2**31)  # so that it jumps where it would end itself
        flip_in(engine, part, byte, bit)
        try:
            self.transfer(self.pairs, 1500 + MORE)
            self.transfer([self.open(50)], MORE)
            self.accept_held()
        except WrongByte:
            return WRONG
        except Died:
            return DETECTED
        except AssertionError:
            return STALLED
        return FINE

    def accept_held(self) -> None:
        self.wire.b.program.post(self.holding, 1)
        self.wire.wait(2)
        self.shared[:8] = struct.pack("<Q", self.wire.now)
        for socket in self.accepted(self.holding):
            End(socket, 101, 100).pull()

    def adopted(self, how: str) -> int:
        """The next one takes over, and its neighbour's does, whose private memory has gone with the child."""
        wire, (now,) = self.wire, struct.unpack_from("<Q", self.shared)
        wire.now = max(wire.now, now) + 1_000_000
        wire.in_flight.clear()
        try:
            if how == "fresh":
                wire.b.region[:] = bytes(len(wire.b.region))
            wire.a.reborn(wire.now, wire.b)
            wire.b.reborn(wire.now, wire.a, how)
        except (Died, OSError, ValueError):
            return DETECTED
        try:
            wire.run()
            self.transfer(self.pairs, 1500 + 2 * MORE)
            self.accept_held()
            self.transfer([self.open(60)], MORE)
        except WrongByte:
            return WRONG
        except AssertionError:
            return STALLED
        return FINE if self.all_close() else LEAKED

    def all_close(self) -> bool:
        """Every program closes all that it has. Whether nothing is left."""
        for host in (self.wire.a, self.wire.b):
            for socket in host.program.sockets:
                posted = socket.mine.role == neat.ROLE_ACCEPT and socket.state == neat.STATE_POSTED
                if socket.mine.role != neat.ROLE_FREE and not posted:
                    socket.close()
            self.wire.run()
        self.wire.wait(300)
        hosts = (self.wire.a, self.wire.b)
        return not any(host.engine.connections() for host in hosts) and all(
            socket.state in (neat.STATE_FREE, neat.STATE_POSTED) for host in hosts for socket in host.program.sockets
        )


def try_bit(part: str, byte: int, bit: int) -> tuple[int, list[tuple[str, int]]]:
    """How the damaged stack ended, and how each that took over did, until one served: as the manager escalates."""
    case = Case()
    first = mortal(lambda: case.damaged(part, byte, bit))
    ends = []
    for how in ("suspect", "reset", "fresh"):
        ends.append((how, mortal(lambda how=how: case.adopted(how))))  # type: ignore[misc]
        if ends[-1][1] not in (DETECTED, REFUSED) and ends[-1][1] >= 0:
            break
    return first, ends
