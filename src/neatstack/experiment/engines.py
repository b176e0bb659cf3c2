"""Engines of N replicas, side by side in one process, that serve requests: what the instruction counter looks at.

    python -m neatstack.experiment.engines REPLICAS REQUESTS CONNECTIONS AT_ONCE

Each has a state region, a channel and a device of its own, and all read one stack page that divides the flows among
them, as in a stack. Every replica serves its share of the same requests, on its share of the same connections, which
are kept alive; AT_ONCE of its connections have a request at the same time, whatever N is. Between the preparation and
the requests stands a call of sched_yield(2), where the counter begins.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from neatstack.control.pages import NEIGHBOUR_SIZE, NEIGHBOURS, StackPage
from neatstack.experiment import frames
from neatstack.experiment.channel import Program, mapped
from neatstack.experiment.frames import ACKED, PSH, SYN

ADDRESS, PORT, LISTENER, CHANNEL = "10.0.0.2", 80, 1, 1
MAC = bytes.fromhex("020000000002")
PEER, PEER_MAC = "10.0.0.1", bytes.fromhex("020000000001")
KEYS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)  # of the flow hash; a stack draws its own
FIRST_PORT, ISS = 10000, 1000
RING = 4096  # bytes
START = 1_000_000_000_000  # ns: the engines' clock
BETWEEN = 10_000  # ns from one request of all to the next: 100,000 a second, whoever serves them
REQUEST = b"GET /file HTTP/1.1\r\nHost: bench\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\nServer: bench\r\n\r\ntwenty bytes, no more"[:-1]


@dataclass
class Connection:
    """The peer's end of a connection, and the program's slot. Sequence numbers are the next ones."""

    port: int
    slot: int = -1
    seq: int = ISS + 1
    heard: int = 0


class Replica:
    """One engine, the program on it, and its connections' far ends."""

    def __init__(self, number: int, page: mmap.mmap, ports: list[int], between: int) -> None:
        from neatstack.dataplane.engine import Engine

        self.engine: Any = Engine(
            replica=number, stack_page=page, neighbours=bytearray(NEIGHBOURS * NEIGHBOUR_SIZE), address=ADDRESS, mac=MAC
        )
        self.between = between  # ns from one of its requests to the next
        self.now = self.engine.now = START
        self.engine.neighbour(PEER, PEER_MAC)
        self.program = Program(CHANNEL, 1 << (len(ports) - 1).bit_length(), RING, number)
        self.engine.add_channel(CHANNEL, mapped(self.program.fd))
        self.engine.listen(LISTENER, "0.0.0.0", PORT, len(ports))
        self.engine.grant(LISTENER, CHANNEL)
        self.connections = [Connection(port) for port in ports]
        for connection in self.connections:
            self.open(connection)

    def frame(self, connection: Connection, flags: int, data: bytes = b"", options: bytes = b"") -> bytes:
        flow = PEER, connection.port, ADDRESS, PORT
        seq = connection.seq - (flags & SYN > 0)
        return bytes(frames.frame((PEER_MAC, MAC), flow, flags, seq, connection.heard, data, options))

    def open(self, connection: Connection) -> None:
        """The handshake, and accept()."""
        slot = connection.slot = self.connections.index(connection)
        self.program.post(slot, LISTENER)
        self.engine.run()
        self.engine.input(self.frame(connection, SYN, options=frames.mss(1460) + frames.window_scale(7)), True)
        self.engine.run()
        ((answer, _),) = self.engine.output()
        connection.heard = frames.sequence(answer) + 1
        self.engine.input(self.frame(connection, ACKED), True)
        self.engine.run()
        if not self.program.take(slot):
            raise ValueError("a connection was not accepted")
        self.engine.run()

    def exchange(self, connections: list[Connection]) -> None:
        """A request and its answer on each, all in the same batch."""
        self.now += self.between * len(connections)
        self.engine.now = self.now
        for connection in connections:
            self.engine.input(self.frame(connection, ACKED | PSH, REQUEST), True)
            connection.seq += len(REQUEST)
        self.engine.run()
        for connection in connections:
            if self.program.recv(connection.slot) != REQUEST:
                raise ValueError("a request did not come as it was sent")
            self.program.send(connection.slot, ANSWER)
        self.engine.run()
        answers = [answer for answer, _ in self.engine.output() if frames.payload(answer)]  # the rest: ACKs
        if [frames.payload(answer) for answer in answers] != [ANSWER] * len(connections):
            raise ValueError("an answer did not come as it was sent")
        by_port = {int.from_bytes(answer[36:38], "big"): answer for answer in answers}
        for connection in connections:
            connection.heard = frames.sequence(by_port[connection.port]) + len(ANSWER)

    def turns(self, requests: int, at_once: int) -> Iterator[None]:
        """Serve so many requests, going round the connections."""
        at = 0
        while requests:
            count = min(at_once, requests, len(self.connections) - at)
            self.exchange(self.connections[at : at + count])
            at = (at + count) % len(self.connections)
            requests -= count
            yield


def stack_page(replicas: int) -> mmap.mmap:
    """The page of a stack of so many replicas."""
    from neatstack.dataplane.driver.steer import even_table

    memory = mmap.mmap(-1, mmap.PAGESIZE)
    StackPage(
        address=IPv4Address(ADDRESS), netmask=IPv4Address("255.255.255.0"), gateway=None, mtu=1500, replicas=replicas,
        active=(1 << replicas) - 1, mac=MAC, link_queue=replicas, backlog_max=4096, keys=KEYS,
        table=even_table(list(range(replicas))),
    ).write(memory)  # fmt: skip
    return memory


def shares(replicas: int, connections: int) -> list[list[int]]:
    """The peer's ports of each replica's connections: the first ones whose flow is steered to it."""
    from neatstack.dataplane.driver.steer import bucket, even_table

    table, each = even_table(list(range(replicas))), connections // replicas
    found: list[list[int]] = [[] for _ in range(replicas)]
    port = FIRST_PORT
    while any(len(ports) < each for ports in found):
        mine = found[table[bucket(KEYS, PEER, port, ADDRESS, PORT)]]
        if len(mine) < each:
            mine.append(port)
        port += 1
    return found


def serve(replicas: int, requests: int, connections: int, at_once: int) -> None:
    """All of it. The replicas take turns, a batch each."""
    page = stack_page(replicas)
    members = [
        Replica(number, page, ports, BETWEEN * replicas) for number, ports in enumerate(shares(replicas, connections))
    ]
    os.sched_yield()
    waiting = [member.turns(requests // replicas, at_once) for member in members]
    while waiting:
        waiting = [turns for turns in waiting if next(turns, waiting) is not waiting]


if __name__ == "__main__":
    serve(*map(int, sys.argv[1:5]))
