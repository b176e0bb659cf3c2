"""What it costs: among 100,000 a connection is found as fast, and a timer costs the same; an idle one is small."""

import os
import resource
import struct
import time

import pytest

from neatstack.dataplane.engine import Engine
from neatstack.dataplane.stack import sizes
from tests.support.lab import PEER_MAC, SECOND, STACK, STACK_MAC, START
from tests.support.packet import Segment, build, option, parse
from tests.support.program import Program

MANY = 100_000


class Crowd:
    """Peers of one engine, each with an established connection that its program has not accepted or has."""

    def __init__(self, count: int) -> None:
        self.engine = Engine(address=STACK, mac=STACK_MAC, max_tcbs=count + 16)
        self.engine.now = START
        for host in range(1 + count // 50_000):
            self.engine.neighbour(f"10.0.0.{100 + host}", PEER_MAC)
        self.engine.listen(1, STACK, 80, count)
        self.flows: list[tuple[str, int, int]] = []
        self.open(count)

    def open(self, count: int) -> None:
        """Handshakes in batches; the SYN-ACKs are needed for their sequence numbers."""
        for first in range(0, count, 256):
            for n in range(first, min(first + 256, count)):
                self.engine.input(self.frame(n, seq=0, flags="S", options=option(2, b"\x05\xb4")))
            self.engine.run()
            for frame, _ in self.engine.output():
                syn_ack = parse(frame)
                n = (int(syn_ack.destination.rpartition(".")[2]) - 100) * 50_000 + syn_ack.destination_port - 10_000
                self.flows.append((syn_ack.destination, syn_ack.destination_port, syn_ack.seq))
                self.engine.input(self.frame(n, seq=1, ack=syn_ack.seq + 1))
            self.engine.run()

    def frame(
        self, n: int, *, seq: int, ack: int = 0, flags: str = "A", options: bytes = b"", data: bytes = b""
    ) -> bytes:
        segment = Segment(
            source=f"10.0.0.{100 + n // 50_000}",
            destination=STACK,
            source_port=10_000 + n % 50_000,
            destination_port=80,
            seq=seq,
            ack=ack & 0xFFFFFFFF,
            flags=flags,
            options=options,
            payload=data,
        )
        return build(segment, source_mac=PEER_MAC, destination_mac=STACK_MAC)

    def seconds_for_lookups(self, count: int = 20_000) -> float:
        """CPU time to take pure ACKs of connections all over the table."""
        step = max(1, len(self.flows) // count)
        chosen = self.flows[::step][:count]
        frames = []
        for address, port, iss in chosen:
            n = (int(address.rpartition(".")[2]) - 100) * 50_000 + port - 10_000
            frames.append(self.frame(n, seq=1, ack=iss + 1))
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            for frame in frames:
                self.engine.input(frame, True)
            self.engine.run()
            best = min(best, (time.process_time() - start) / len(frames))
        assert not self.engine.output()
        return best


@pytest.fixture(scope="module")
def crowd() -> Crowd:
    return Crowd(MANY)


@pytest.mark.heavy
def test_100_000_connections_are_found_as_fast_as_1000(crowd):
    assert crowd.engine.counters()["connections"] == MANY
    few = Crowd(1000).seconds_for_lookups(1000)
    many = crowd.seconds_for_lookups()
    assert many < 4 * few + 2e-6, f"{few * 1e9:.0f} ns among 1000, {many * 1e9:.0f} ns among {MANY}"


@pytest.mark.heavy
def test_a_timer_costs_the_same_among_100_000(crowd):
    """Every connection gets data, and so a delayed-ACK timer; all fire."""
    crowd.engine.output()
    for address, port, iss in crowd.flows[:50_000]:
        n = (int(address.rpartition(".")[2]) - 100) * 50_000 + port - 10_000
        crowd.engine.input(crowd.frame(n, seq=1, ack=iss + 1, data=b"x"), True)
        if n % 1024 == 0:
            crowd.engine.run()
    start = time.process_time()
    crowd.engine.run()
    crowd.engine.now += SECOND
    crowd.engine.run()
    assert time.process_time() - start < 3
    assert len(crowd.engine.output()) > 1000


def test_a_tcb_is_small():
    assert sizes()["Tcb"] <= 1024


def touched_pages(memory) -> int:
    """Pages of a mapping that exist: read from the kernel, so reading does not make them."""
    import ctypes

    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    count = len(memory) // 4096
    with open("/proc/self/pagemap", "rb") as pagemap:
        pagemap.seek(address // 4096 * 8)
        entries = struct.unpack(f"{count}Q", pagemap.read(8 * count))
    return sum(entry >> 63 for entry in entries)


@pytest.mark.skipif(os.geteuid() != 0, reason="pagemap says little to others than root")
def test_an_idle_connection_touches_at_most_a_page_of_each_buffer():
    """The rings are sparse: requests and answers that were read use one page each way, again and again."""
    from tests.support.lab import Lab

    lab = Lab(rings=65536, sockets=128, max_tcbs=256)
    listener = lab.listening()
    first = touched_pages(lab.program.memory)
    connections = [lab.accepted(80, listener=listener) for _ in range(50)]
    assert touched_pages(lab.program.memory) - first <= 4, "a connection that carried nothing needs no buffer page"
    for _ in range(40):
        for c in connections:
            c.sends(data=b"q" * 500)
            c.socket.recv()
            c.socket.send(b"a" * 500)
            lab.run()
            c.receives()
            c.sends(ack=c.heard)
    assert touched_pages(lab.program.memory) - first <= 2 * 50 + 4, "one page each way"


def test_an_engine_with_room_for_many_costs_little_until_used():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    engine = Engine(address=STACK, mac=STACK_MAC, max_tcbs=1 << 17)
    Program(engine, sockets=8192, rx_size=262144, tx_size=262144)
    engine.run()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 40, f"{grown:.0f} MiB for nothing"
