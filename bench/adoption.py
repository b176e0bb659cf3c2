"""How long it takes an engine to take over many connections: python -m bench.adoption [CONNECTIONS]

One engine, with a device in memory, gets them by real handshakes, and two programs accept them. Then another maps the
same memory anew, as the next process would, is told of channels and listener, and adopts.
"""

from __future__ import annotations

import gc
import os
import struct
import sys
import time
from collections.abc import Iterator

from neatstack.dataplane.channel.region import region_size
from neatstack.dataplane.engine import Engine
from neatstack.experiment import frames
from neatstack.experiment.channel import Program, mapped
from neatstack.experiment.frames import ACK, ACKED, SYN
from neatstack.experiment.netns import LabError

CONNECTIONS = 100_000
SOCKETS, RING = 65536, 4096  # of each program
CHANNELS = (1, 2)
TIMES = 3
STACK, PORT, LISTENER = "10.0.0.2", 80, 1
STACK_MAC, PEER_MAC = bytes.fromhex("020000000002"), bytes.fromhex("020000000001")
PEERS = [f"10.0.0.{number}" for number in range(10, 210)]
EACH = 1000  # connections of a peer
AT_ONCE = 1000  # handshakes


class Memory:
    """What outlives an engine: the region, and the channels."""

    def __init__(self, connections: int) -> None:
        self.max_tcbs = connections + 1
        self.region = os.memfd_create("region")
        os.ftruncate(self.region, region_size(self.max_tcbs))
        sockets = min(SOCKETS, 1 << (-(-connections // len(CHANNELS)) - 1).bit_length())
        self.programs = [Program(channel, sockets, RING) for channel in CHANNELS]

    def engine(self, incarnation: int) -> Engine:
        """An engine that knows all that the manager tells."""
        engine = Engine(
            address=STACK, mac=STACK_MAC, max_tcbs=self.max_tcbs, region=mapped(self.region), keep=incarnation > 1,
            incarnation=incarnation,
        )  # fmt: skip
        engine.now = time.monotonic_ns()
        for program in self.programs:
            engine.add_channel(program.channel, mapped(program.fd))
        engine.listen(LISTENER, "0.0.0.0", PORT, 1 << 20)
        for program in self.programs:
            engine.grant(LISTENER, program.channel)
        return engine

    def close(self) -> None:
        os.close(self.region)
        for program in self.programs:
            program.close()


# ---- handshakes ----


def frame(flags: int, options: bytes = b"") -> bytearray:
    flow = PEERS[0], 1024, STACK, PORT
    return frames.frame((PEER_MAC, STACK_MAC), flow, flags, 999 + (flags == ACKED), options=options)


def peers(connections: int) -> Iterator[tuple[bytes, int]]:
    """Address and port of each."""
    for number in range(connections):
        yield bytes(map(int, PEERS[number // EACH].split("."))), 1024 + number % EACH


def fill(memory: Memory, engine: Engine, connections: int) -> None:
    """Open and accept that many connections."""
    for peer in PEERS:
        engine.neighbour(peer, PEER_MAC)
    for number in range(-(-connections // len(CHANNELS))):
        for program in memory.programs:
            program.post(number, LISTENER)
    engine.run()
    syn, ack = frame(SYN, frames.mss(1460) + frames.window_scale(7)), frame(ACKED)
    everybody = list(peers(connections))
    for at in range(0, connections, AT_ONCE):
        for address, port in everybody[at : at + AT_ONCE]:
            frames.patch_source(syn, address, port)
            engine.input(bytes(syn), True)
        engine.run()
        for answer, _ in engine.output():
            frames.patch_source(ack, answer[30:34], int.from_bytes(answer[36:38], "big"))
            struct.pack_into("!I", ack, ACK, frames.sequence(answer) + 1 & 0xFFFFFFFF)
            engine.input(bytes(ack), True)
        engine.run()
    accepted = sum(program.take(number) for program in memory.programs for number in range(program.sockets))
    engine.run()
    established = sum(each["state"] == "ESTABLISHED" for each in engine.connections())
    if not accepted == established == connections:
        raise LabError(f"{accepted} of {connections} connections were accepted, {established} are established")


# ---- measuring ----


def adoptions(connections: int = CONNECTIONS, times: int = TIMES) -> list[float]:
    """Milliseconds from mapping the memory to having adopted everything, of so many engines after each other."""
    memory = Memory(connections)
    try:
        fill(memory, memory.engine(1), connections)
        return [once(memory, incarnation, connections) for incarnation in range(2, 2 + times)]
    finally:
        memory.close()


def once(memory: Memory, incarnation: int, connections: int) -> float:
    gc.collect()
    began = time.perf_counter()
    engine = memory.engine(incarnation)
    told = time.perf_counter()
    result = engine.adopt()
    ended = time.perf_counter()
    if result["kept"] != connections or result["lost"]:
        raise LabError(f"of {connections} connections, {result['kept']} were adopted and {result['lost']} lost")
    if __name__ == "__main__":
        print(f"{(told - began) * 1e3:.1f} ms to map and be told, {(ended - told) * 1e3:.1f} ms to adopt")
    return (ended - began) * 1e3


if __name__ == "__main__":
    adoptions(int(sys.argv[1]) if len(sys.argv) > 1 else CONNECTIONS)
