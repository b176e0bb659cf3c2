"""How long it takes an engine to take over many connections: python -m bench.adoption [CONNECTIONS]

One engine, with a device in memory, gets them by real handshakes, and two programs accept them. Then another maps the
same memory anew, as the next process would, is told of channels and listener, and adopts.
"""

from __future__ import annotations

import gc
import mmap
import os
import struct
import sys
import time
from collections.abc import Iterator

from neatstack.dataplane.channel.create import create_channel
from neatstack.dataplane.channel.region import region_size
from neatstack.dataplane.engine import Engine
from neatstack.experiment.netns import LabError
from tests.support.layout import ChannelHeader, ChannelProgram, Entry, Socket, neat
from tests.support.packet import Segment, build, mss, wscale

CONNECTIONS = 100_000
SOCKETS, RING = 65536, 4096  # of each program
CHANNELS = (1, 2)
TIMES = 3
STACK, PORT, LISTENER = "10.0.0.2", 80, 1
STACK_MAC, PEER_MAC = bytes.fromhex("020000000002"), bytes.fromhex("020000000001")
PEERS = [f"10.0.0.{number}" for number in range(10, 210)]
EACH = 1000  # connections of a peer
AT_ONCE = 1000  # handshakes
SOURCE_AT, PORT_AT, SEQ_AT, ACK_AT = 26, 34, 38, 42  # offsets in a frame


class Slots:
    """The program's side of a channel, as far as it is needed to accept connections."""

    def __init__(self, channel: int, sockets: int) -> None:
        self.channel = channel
        self.fd = create_channel(0, channel, sockets, RING, RING)
        self.memory = mapped(self.fd)
        header = ChannelHeader.from_buffer(self.memory)
        self.lines = ChannelProgram.from_buffer(self.memory, 128)
        self.commands = (Entry * header.entries).from_buffer(self.memory, header.commands_at)
        self.sockets = (Socket * sockets).from_buffer(self.memory, header.sockets_at)
        self.lines.slots_used = sockets

    def post(self, number: int) -> None:
        mine = self.sockets[number].program
        mine.role, mine.listener, mine.generation = neat.ROLE_ACCEPT, LISTENER, 1
        self.look(number)

    def take(self, number: int) -> bool:
        """accept(). False: the slot was given no connection."""
        socket = self.sockets[number]
        if socket.replica.state != neat.STATE_OPEN:
            return False
        socket.program.flags |= neat.FLAG_TAKEN
        self.look(number)
        return True

    def look(self, number: int) -> None:
        entry = self.commands[self.lines.commands_head % len(self.commands)]
        entry.channel, entry.op, entry.socket = self.channel, neat.OP_LOOK, number
        self.lines.commands_head += 1


class Memory:
    """What outlives an engine: the region, and the channels."""

    def __init__(self, connections: int) -> None:
        self.max_tcbs = connections + 1
        self.region = os.memfd_create("region")
        os.ftruncate(self.region, region_size(self.max_tcbs))
        sockets = min(SOCKETS, 1 << (-(-connections // len(CHANNELS)) - 1).bit_length())
        self.programs = [Slots(channel, sockets) for channel in CHANNELS]

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
        for descriptor in (self.region, *(program.fd for program in self.programs)):
            os.close(descriptor)


def mapped(descriptor: int) -> mmap.mmap:
    """The memory of a descriptor, mapped anew: no page of it is there yet."""
    return mmap.mmap(descriptor, os.fstat(descriptor).st_size)


# ---- handshakes ----


def frame(flags: str, options: bytes = b"") -> bytearray:
    segment = Segment(
        source=PEERS[0], destination=STACK, source_port=1024, destination_port=PORT, seq=999 + (flags == "A"),
        flags=flags, options=options,
    )  # fmt: skip
    return bytearray(build(segment, source_mac=PEER_MAC, destination_mac=STACK_MAC))


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
            program.post(number)
    engine.run()
    syn, ack = frame("S", mss(1460) + b"\x01" + wscale(7)), frame("A")
    everybody = list(peers(connections))
    for at in range(0, connections, AT_ONCE):
        for address, port in everybody[at : at + AT_ONCE]:
            patch(syn, address, port)
            engine.input(bytes(syn), True)
        engine.run()
        for answer, _ in engine.output():
            patch(ack, answer[30:34], int.from_bytes(answer[36:38], "big"))
            struct.pack_into("!I", ack, ACK_AT, int.from_bytes(answer[SEQ_AT : SEQ_AT + 4], "big") + 1 & 0xFFFFFFFF)
            engine.input(bytes(ack), True)
        engine.run()
    accepted = sum(program.take(number) for program in memory.programs for number in range(len(program.sockets)))
    engine.run()
    established = sum(each["state"] == "ESTABLISHED" for each in engine.connections())
    if not accepted == established == connections:
        raise LabError(f"{accepted} of {connections} connections were accepted, {established} are established")


def patch(octets: bytearray, address: bytes, port: int) -> None:
    """Another sender. The sum of the IP header follows; that of TCP is not looked at."""
    octets[SOURCE_AT : SOURCE_AT + 4] = address
    octets[PORT_AT : PORT_AT + 2] = port.to_bytes(2, "big")
    octets[24:26] = b"\0\0"
    total = sum(struct.unpack_from("!10H", octets, 14))
    total = (total & 0xFFFF) + (total >> 16)
    struct.pack_into("!H", octets, 24, ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF)


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
