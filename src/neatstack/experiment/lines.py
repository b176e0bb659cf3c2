"""Who writes which lines of shared memory: the memory of channels, looked at after every step of either side.

A program with the socket library, and engines as its replicas, take turns on the same memory: each step is the
program's or a replica's alone, so that what has changed was changed by it. A line, 64 bytes, that both change would
wander between two cores' caches for ever. What a side overwrites by the same bytes does not show.

    python -m neatstack.experiment.lines DESCRIPTOR SEED    # the program
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from neatstack.experiment.netns import LabError
from neatstack.experiment.tables import Columns, markdown

LINE, PAGE = 64, 4096  # bytes
STEPS, SEED = 4000, 1
REPLICAS, SOCKETS, RING = 2, 64, 4096
CHANNEL, TOKEN = 1, 7
ADDRESS, PORT, BACKLOG = "10.0.0.2", 7000, 64
MOST_OPEN = 20  # connections of the program, each of which has two sockets
LIMIT = 60.0  # seconds for the program to take a step
LIBRARY = Path(__file__).resolve().parents[1] / "client/libneat.so"
PROGRAM, REPLICA = "program", "replica"


@dataclass(frozen=True)
class Part:
    """A part of the channels, and how many of its lines have changed."""

    part: str
    writer: str  # as layout.h names it
    lines: int
    by_program: int
    by_replica: int
    by_both: int


COLUMNS = [column.name for column in fields(Part)]
TABLE: Columns = {
    "part of a channel": ("part", ""),
    "its writer": ("writer", ""),
    "lines": ("lines", ",d"),
    "changed by the program": ("by_program", ",d"),
    "by the replica": ("by_replica", ",d"),
    "by both": ("by_both", ",d"),
}
SHARED: Columns = {
    "memory that replicas write": ("memory", ""),
    "how many": ("count", "d"),
    "written also by": ("written", ""),
    "read by": ("read", ""),
}


@dataclass(frozen=True)
class Lines:
    """What was found: parts of the channels; and, as the kernel says, what replicas can write and who else maps it."""

    parts: list[Part] = field(default_factory=list)
    steps: int = 0
    shared: list[dict[str, Any]] = field(default_factory=list)
    between_replicas: int = 0  # memory that two replicas map and one can write

    @property
    def by_both(self) -> int:
        return sum(part.by_both for part in self.parts)

    def table(self) -> str:
        rows = [{name: getattr(part, name) for name in COLUMNS} for part in self.parts]
        text = markdown(TABLE, rows, [f"{self.steps:,} steps of a program and its {REPLICAS} replicas, in turns."])
        if self.shared:
            between = f"Memory that two replicas map and one of them can write: {self.between_replicas}."
            text += "\n" + markdown(SHARED, self.shared, [between])
        return text


# ---- the channels' memory ----


class Watch:
    """A channel's memory, compared with what it was."""

    def __init__(self, memory: Any) -> None:
        self.memory = memory
        self.before = bytearray(memory[:])
        self.changed: dict[str, set[int]] = {PROGRAM: set(), REPLICA: set()}

    def note(self, writer: str) -> None:
        """What has changed since the last time was changed by `writer`."""
        for page in range(0, len(self.before), PAGE):
            now = self.memory[page : page + PAGE]
            if now != self.before[page : page + PAGE]:
                for at in range(0, PAGE, LINE):
                    if now[at : at + LINE] != self.before[page + at : page + at + LINE]:
                        self.changed[writer].add((page + at) // LINE)
                self.before[page : page + PAGE] = now

    def places(self) -> Iterator[tuple[str, str, range]]:
        """Part, its writer, and lines: what layout.h says of a channel."""
        from neatstack.experiment.channel import SHAPE, SHAPE_AT, SOCKET_SIZE

        sockets, _, rx, tx, commands, events, socket_lines, buffers = SHAPE.unpack_from(self.memory, SHAPE_AT)
        yield "header", "manager", lines(0, 128)
        yield "cursors of the program", PROGRAM, lines(128, 128)
        yield "cursors of the replica", REPLICA, lines(256, 128)
        yield "commands", PROGRAM, lines(commands, events - commands)
        yield "events", REPLICA, lines(events, socket_lines - events)
        for number in range(sockets):
            at = socket_lines + number * SOCKET_SIZE
            yield "sockets, the program's lines", PROGRAM, lines(at, SOCKET_SIZE // 2)
            yield "sockets, the replica's lines", REPLICA, lines(at + SOCKET_SIZE // 2, SOCKET_SIZE // 2)
            at = buffers + number * (rx + tx)
            yield "receive rings", REPLICA, lines(at, rx)
            yield "send rings", PROGRAM, lines(at + rx, tx)


def lines(at: int, size: int) -> range:
    return range(at // LINE, (at + size) // LINE)


def parts_of(watches: list[Watch]) -> list[Part]:
    """What has changed in all channels, by part."""
    sums: dict[tuple[str, str], list[int]] = {}
    for watch in watches:
        by_program, by_replica = watch.changed[PROGRAM], watch.changed[REPLICA]
        for part, writer, place in watch.places():
            mine = set(place)
            counts = len(mine), len(mine & by_program), len(mine & by_replica), len(mine & by_program & by_replica)
            before = sums.setdefault((part, writer), [0, 0, 0, 0])
            sums[part, writer] = [one + other for one, other in zip(before, counts, strict=True)]
    return [Part(part, writer, *counts) for (part, writer), counts in sums.items()]


# ---- the stack's side ----


class Replicas:
    """Engines, and what a program asks of the manager, for one program."""

    def __init__(self, directory: str) -> None:
        from neatstack.control import pages
        from neatstack.dataplane.channel.create import create_channel
        from neatstack.dataplane.engine import Engine
        from neatstack.experiment.channel import mapped
        from neatstack.experiment.engines import stack_page

        self.listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listening.bind(f"{directory}/manager.sock")
        self.listening.listen(1)
        self.page = pages.memory("stack", PAGE)
        page = mapped(self.page)
        page[:] = stack_page(REPLICAS)[:]
        self.doorbell = pages.doorbell()
        self.pages = [pages.memory("replica", PAGE) for _ in range(REPLICAS)]
        self.doorbells = [pages.doorbell() for _ in range(REPLICAS)]
        self.channels = [create_channel(number, CHANNEL, SOCKETS, RING, RING) for number in range(REPLICAS)]
        self.watches = [Watch(mapped(channel)) for channel in self.channels]
        self.engines: list[Any] = []
        for number in range(REPLICAS):
            engine = Engine(replica=number, stack_page=page, replica_page=mapped(self.pages[number]), address=ADDRESS)
            engine.now = time.monotonic_ns()
            engine.add_channel(CHANNEL, mapped(self.channels[number]), self.doorbell)
            self.engines.append(engine)

    def close(self) -> None:
        self.listening.close()
        for descriptor in (self.page, self.doorbell, *self.pages, *self.doorbells, *self.channels):
            os.close(descriptor)

    def note(self, writer: str) -> None:
        for watch in self.watches:
            watch.note(writer)

    def run(self) -> None:
        """The replicas' step."""
        for engine in self.engines:
            engine.now = time.monotonic_ns()
            engine.run()
            engine.output()
        self.note(REPLICA)

    def answer(self, connection: socket.socket) -> bool:
        """Do what the program asks of the manager. False: it has closed the connection."""
        from neatstack.control.requests import REQUEST, Op, Reply, Request

        if not (data := connection.recv(REQUEST.size)):
            return False
        request, reply = Request.parse(data), Reply(replicas=REPLICAS)
        self.note(PROGRAM)
        if request.op == Op.HELLO:
            each = zip(self.channels, self.pages, self.doorbells, strict=True)
            reply.channel, reply.token = CHANNEL, TOKEN
            reply.descriptors = self.page, self.doorbell, *(one for three in each for one in three)
        elif request.op == Op.BIND:
            reply.binding, reply.port, reply.address = 1, request.port, request.address
        elif request.op == Op.LISTEN:
            for engine in self.engines:
                engine.listen(1, str(IPv4Address(0)), PORT, request.backlog)
                engine.grant(1, CHANNEL)
        self.note(REPLICA)
        socket.send_fds(connection, [reply.pack()], reply.descriptors)
        return True


def turns(steps: int = STEPS, seed: int = SEED) -> list[Part]:
    """Let both sides take so many steps. LabError: the program has ended, or does not answer."""
    if not LIBRARY.exists():
        raise LabError("the socket library is not built")
    with tempfile.TemporaryDirectory(prefix="neat-lines-") as directory, contextlib.ExitStack() as ending:
        replicas = Replicas(directory)
        ending.callback(replicas.close)
        ours, theirs = socket.socketpair()
        ending.callback(ours.close)
        environment = {**os.environ, "LD_PRELOAD": str(LIBRARY), "NEAT_STACK": directory}
        argv = [sys.executable, "-m", "neatstack.experiment.lines", str(theirs.fileno()), str(seed)]
        with theirs:
            program = subprocess.Popen(
                argv, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
            )
        ending.callback(program.wait)
        ending.callback(program.send_signal, signal.SIGKILL)
        poll = select.poll()
        poll.register(ours, select.POLLIN)
        poll.register(replicas.listening, select.POLLIN)
        asking: dict[int, socket.socket] = {}
        ending.callback(hang_up, asking)
        for _ in range(steps):
            ours.send(b".")
            while not step(poll, ours, replicas, asking):
                pass
            replicas.note(PROGRAM)
            replicas.run()
        return parts_of(replicas.watches)


def hang_up(asking: dict[int, socket.socket]) -> None:
    for connection in asking.values():
        connection.close()


def step(poll: select.poll, ours: socket.socket, replicas: Replicas, asking: dict[int, socket.socket]) -> bool:
    """Wait for the program, and answer its requests meanwhile. True: its step is over."""
    ready = [descriptor for descriptor, _ in poll.poll(LIMIT * 1000)]
    if not ready:
        raise LabError("the program on the channels does not answer")
    for descriptor in ready:
        if descriptor == replicas.listening.fileno():
            made = replicas.listening.accept()[0]
            asking[made.fileno()] = made
            poll.register(made, select.POLLIN)
        elif descriptor in asking and not replicas.answer(asking[descriptor]):
            poll.unregister(descriptor)
            asking.pop(descriptor).close()
    if ours.fileno() not in ready:
        return False
    if not ours.recv(1):
        raise LabError("the program on the channels has ended")
    return True


# ---- the kernel's word on a running stack ----


def shared_memory(ask: Callable[[], dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """What replicas can write and who else maps it, and how much of it two of them map. `ask`: `neat status`."""
    from neatstack.control.isolation import examine

    report = examine(ask)
    rows: dict[tuple[str, str, str], int] = {}
    for process in report["processes"]:
        for memory in process["memory"]:
            others = memory["shared_with"].items()
            written = sorted({kind_of(name) for name, rights in others if "w" in rights})
            read = sorted({kind_of(name) for name, rights in others if "w" not in rights})
            key = kind_of(memory["name"]), ", ".join(written), ", ".join(read)
            rows[key] = rows.get(key, 0) + 1
    named = [
        {"memory": memory, "count": count, "written": written or "nobody", "read": read or "nobody"}
        for (memory, written, read), count in sorted(rows.items())
    ]
    return named, len(report["shared_by_replicas"])


def kind_of(name: str) -> str:
    """A name without numbers: `replica 3` is a replica, `program 77 (nginx)` a program."""
    word = name.partition("(")[0].strip().removeprefix("neat-")
    return word.rstrip("0123456789- ")


# ---- the program ----


class Client:
    """A program whose sockets talk to each other; every step is one call or a few."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.listener = socket.create_server(("", PORT), backlog=BACKLOG)
        self.listener.setblocking(False)
        self.open: list[socket.socket] = []
        self.poll = select.epoll()

    def step(self) -> None:
        """One step; that a call would block, or a connection is gone, is no fault."""
        action = self.random.choice((self.connect, self.accept, *(self.send, self.receive) * 4, self.wait, self.leave))
        with contextlib.suppress(BlockingIOError, ConnectionError, OSError):
            action()

    def some(self) -> socket.socket:
        if not self.open:
            raise BlockingIOError
        return self.random.choice(self.open)

    def keep(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.open.append(sock)
        self.poll.register(sock, select.EPOLLIN | select.EPOLLOUT)

    def connect(self) -> None:
        if len(self.open) < 2 * MOST_OPEN:
            sock = socket.socket()
            self.keep(sock)
            sock.connect_ex((self.random.choice(("127.0.0.1", ADDRESS)), PORT))

    def accept(self) -> None:
        self.keep(self.listener.accept()[0])

    def send(self) -> None:
        self.some().send(self.random.randbytes(self.random.choice((1, 20, 100, 1000, RING))))

    def receive(self) -> None:
        sock = self.some()
        if not sock.recv(self.random.choice((10, 1000, 2 * RING))):
            self.close(sock)

    def wait(self) -> None:
        self.poll.poll(self.random.choice((0, 0.0001)))

    def leave(self) -> None:
        sock = self.some()
        how = self.random.randrange(4)
        if how == 0:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        elif how == 1:
            sock.shutdown(socket.SHUT_WR)
        else:
            if how == 2:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.close(sock)

    def close(self, sock: socket.socket) -> None:
        self.open.remove(sock)
        sock.close()


def main() -> None:
    link = socket.socket(fileno=int(sys.argv[1]))
    client: Client | None = None
    while link.recv(1):
        client = client or Client(int(sys.argv[2]))
        client.step()
        link.send(b".")


if __name__ == "__main__":
    main()
