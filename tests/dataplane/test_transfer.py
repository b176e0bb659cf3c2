"""Two engines over a bad wire: what is delivered is what was sent, and both ends close.

Hypothesis draws the script and the wire's faults, and shrinks what fails to the shortest script that does.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.layout import neat
from tests.support.program import Socket
from tests.support.wire import Faults, Wire

FAULTS = st.builds(
    Faults,
    delay=st.sampled_from([0.0001, 0.01, 0.2]),
    loss=st.sampled_from([0, 0, 0.02, 0.2]),
    duplicate=st.sampled_from([0, 0.05]),
    reorder=st.sampled_from([0, 0.1]),
    corrupt=st.sampled_from([0, 0.05]),
    rate=st.sampled_from([0, 0, 20_000, 1_000_000]),
    queue=st.sampled_from([3000, 65536]),
)
SIDE = st.sampled_from("ab")
STEP = st.one_of(
    st.tuples(st.just("send"), SIDE, st.integers(1, 20_000)),
    st.tuples(st.just("read"), SIDE, st.integers(1, 20_000)),
    st.tuples(st.just("wait"), SIDE, st.sampled_from([1, 50, 500, 3000])),
    st.tuples(st.just("flags"), SIDE, st.sampled_from([0, neat.FLAG_NODELAY, neat.FLAG_CORK, neat.FLAG_QUICKACK])),
)


@dataclass
class End:
    """One program's work: what it still has to send, what it has sent and got."""

    socket: Socket
    stream: int
    sent: bytearray = field(default_factory=bytearray)
    got: bytearray = field(default_factory=bytearray)
    left: int = 0
    finished: bool = False

    def push(self) -> None:
        """Send of what is left as much as the ring takes."""
        if self.left:
            start = len(self.sent)
            data = pattern(self.stream, start, min(self.left, self.socket.writable))
            if data:
                taken = self.socket.send(data)
                self.sent += data[:taken]
                self.left -= taken

    def pull(self, most: int = 1 << 30) -> None:
        self.got += self.socket.recv(most)


def pattern(stream: int, start: int, length: int) -> bytes:
    """Bytes that tell where in which stream they belong."""
    first, last = start // 4, (start + length) // 4 + 1
    words = b"".join((n * 2 + stream & 0xFFFFFFFF).to_bytes(4, "big") for n in range(first, last))
    return words[start % 4 : start % 4 + length]


def run(
    steps: list[tuple[str, str, int]], wire: Wire, begin: Callable[[], None] = lambda: None, limit: float = 3600
) -> float:
    """Connect over a good wire, since six lost SYN-ACKs in a row rightly end a connection; then it gets bad.

    `begin` is called in between; all must be over in `limit` seconds. Returns when it was.
    """
    faults, wire.faults = wire.faults, Faults()
    a, b = (End(socket, n) for n, socket in enumerate(wire.connect()))
    wire.faults = faults
    begin()
    ends = {"a": a, "b": b}
    for what, side, amount in steps:
        end = ends[side]
        if what == "send":
            end.left += amount
        elif what == "read":
            end.pull(amount)
        elif what == "wait":
            wire.wait(amount / 1000)
        else:
            end.socket.set_flags((end.socket.flags & neat.FLAG_TAKEN) | amount)
        a.push()
        b.push()
        wire.run()

    def finish() -> bool:
        """Send the rest, say so, and read to the end."""
        for end in (a, b):
            end.push()
            end.pull()
            if not end.left and not end.finished:
                end.finished = True
                end.socket.shutdown()
        return a.socket.eof and b.socket.eof and a.socket.fin_acked and b.socket.fin_acked

    wire.until(finish, limit=limit)
    over = wire.time
    assert bytes(b.got) == bytes(a.sent)
    assert bytes(a.got) == bytes(b.sent)
    assert a.socket.error == b.socket.error == 0
    a.socket.close()
    b.socket.close()
    wire.wait(200)
    assert a.socket.is_free
    assert b.socket.is_free
    for host in (wire.a, wire.b):
        counters = host.engine.counters()
        assert counters["connections"] == 0
        assert counters["connections_reset"] == 0
    return over


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(steps=st.lists(STEP, max_size=25), faults=FAULTS, seed=st.integers(0, 1 << 16), small=st.booleans())
def test_any_script_over_any_wire(steps, faults, seed, small):
    run(steps, Wire(faults, seed=seed, rings=4096 if small else 65536))


def test_windows_that_are_probed_by_both_ends_at_once():
    """Each takes the other's probe, and counts its own not yet."""
    few = [("send", "a", 1)] * 7
    steps = [("read", "a", 126), ("send", "b", 559), ("read", "a", 800), ("send", "a", 493), ("send", "b", 570), *few]
    steps += [("send", "a", 10446), ("wait", "a", 3000), ("send", "a", 1), ("send", "b", 4591), ("send", "a", 1)]
    steps += [("read", "b", 2073), ("send", "a", 1), ("wait", "a", 3000), ("send", "a", 1)]
    assert run(steps, Wire(Faults(delay=0.2), rings=4096)) < 30


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("offload", [False, True], ids=["cut", "offload"])
def test_a_megabyte_through_a_bad_wire(seed, offload):
    """The link of the acceptance test: drops 1 %, reorders 2 %, duplicates 1 %."""
    wire = Wire(Faults(delay=0.001, loss=0.01, reorder=0.02, duplicate=0.01), seed=seed, rings=1 << 18, offload=offload)
    run([("send", "a", 1_000_000), ("send", "b", 500_000)], wire)


def test_a_very_bad_wire():
    """A third is lost each way: slow, but right."""
    run([("send", "a", 30_000), ("send", "b", 10_000)], Wire(Faults(loss=0.3, reorder=0.3, duplicate=0.3, corrupt=0.1)))


def test_many_connections_of_random_sizes_at_once():
    wire = Wire(Faults(delay=0.002, loss=0.01, reorder=0.02, duplicate=0.01), seed=7, rings=16384, max_tcbs=512)
    listener = wire.b.program.listen(80, post=20)
    wire.b.engine.run()
    sizes = [wire.random.randrange(1, 60_000) for _ in range(40)]
    clients = [End(wire.a.program.connect("10.0.0.2", 80), n, left=size) for n, size in enumerate(sizes)]
    servers: list[End] = []

    def act() -> bool:
        while (socket := wire.b.program.accept(listener)) is not None:
            servers.append(End(socket, 0))
            wire.b.engine.run()
        for client in clients:
            if client.socket.state == neat.STATE_OPEN:
                client.push()
                if not client.left and not client.finished:
                    client.finished = True
                    client.socket.shutdown()
        for server in servers:
            server.pull()
        return len(servers) == len(clients) and all(s.socket.eof for s in servers)

    wire.until(act, limit=600)
    expected = sorted(hashlib.sha256(c.sent).hexdigest() for c in clients)
    assert sorted(hashlib.sha256(s.got).hexdigest() for s in servers) == expected
