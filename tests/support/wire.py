"""Two engines joined by a bad wire, in virtual time and from a seed: the same seed gives the same run."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from neatstack.dataplane.engine import Engine
from tests.support.lab import SECOND, START
from tests.support.packet import build, parse, split
from tests.support.program import Program


@dataclass(frozen=True)
class Faults:
    """Probabilities for each frame; times in seconds. `reorder` holds a frame back for a few delays.

    `rate` is the bottleneck's in bytes a second, each way (0: there is none); frames wait before it in a queue of
    `queue` bytes, and are dropped when that is full.
    """

    delay: float = 0.01
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    corrupt: float = 0.0
    rate: float = 0.0
    queue: int = 64 * 1024


@dataclass(frozen=True)
class Mishap:
    """What befalls one frame: lost; or come `copies` times, `late` seconds after its time, with a byte changed."""

    lost: bool = False
    copies: int = 1
    late: float = 0.0
    changed: tuple[int, int] | None = None  # a place, counted round the frame behind Ethernet, and what is added there


class Host:
    """An engine with one program."""

    def __init__(self, number: int, *, rings: int = 65536, sockets: int = 64, **options: Any) -> None:
        self.address = f"10.0.0.{number}"
        self.addresses = [self.address]  # where it can be reached
        self.mac = bytes([2, 0, 0, 0, 0, number])
        self.engine = Engine(**{"address": self.address, "mac": self.mac, "max_tcbs": 256} | options)
        self.program = Program(self.engine, sockets=sockets, rx_size=rings, tx_size=rings)


def meet(engine: Engine, other: Host) -> None:
    """The engine knows the other's hardware address."""
    for address in other.addresses:
        engine.neighbour(address, other.mac)


class Wire:
    """Hosts `a` (10.0.0.1) and `b` (10.0.0.2). Large segments are cut as a device would unless `offload`."""

    host_class = Host

    def __init__(
        self, faults: Faults | None = None, *, seed: int = 0, rings: int = 65536, offload: bool = False, **options: Any
    ) -> None:
        self.faults = faults or Faults()
        self.random = random.Random(seed)
        self.offload = offload
        self.mtu = options.get("mtu", 1500)
        self.a, self.b = (self.host_class(number, rings=rings, **options) for number in (1, 2))
        for host, other in ((self.a, self.b), (self.b, self.a)):
            meet(host.engine, other)
        self.now = START
        self.frames = 0
        self.in_flight: list[tuple[int, int, Host, bytes]] = []
        self.schedule: dict[tuple[str, int], Mishap] = {}  # by the side that sends and the number of its frame
        self.carried = {"a": 0, "b": 0}
        self.dropped = 0  # by the bottleneck's queue
        self._free_at = {"a": START, "b": START}  # ns, when the bottleneck has sent what waits
        self._order = itertools.count()
        self._set_clocks()

    @property
    def time(self) -> float:
        return (self.now - START) / SECOND

    def _set_clocks(self) -> None:
        self.a.engine.now = self.b.engine.now = self.now

    def _collect(self, source: Host, destination: Host) -> None:
        for frame, gso_size in self.output(source):
            whole = parse(frame, mtu=None if gso_size else self.mtu)
            if self.offload:
                self._carry(destination, frame)
                continue
            for segment in split(whole, gso_size):
                self._carry(destination, build(segment, source_mac=source.mac, destination_mac=destination.mac))

    def _carry(self, destination: Host, frame: bytes) -> None:
        self.frames += 1
        side = "b" if destination is self.a else "a"
        mishap = self.schedule.get((side, self.carried[side])) or self._by_chance()
        self.carried[side] += 1
        if mishap.lost:
            return
        for _ in range(mishap.copies):
            left = self._through_bottleneck(side, len(frame))
            if left is not None:
                due = left + round((self.faults.delay + mishap.late) * SECOND)
                heapq.heappush(self.in_flight, (due, next(self._order), destination, changed(frame, mishap.changed)))

    def _by_chance(self) -> Mishap:
        chance, faults = self.random.random, self.faults
        return Mishap(
            lost=chance() < faults.loss,
            copies=2 if chance() < faults.duplicate else 1,
            late=faults.delay * self.random.uniform(1, 5) if chance() < faults.reorder else 0.0,
            changed=(self.random.getrandbits(16), self.random.getrandbits(8)) if chance() < faults.corrupt else None,
        )

    def _through_bottleneck(self, side: str, length: int) -> int | None:
        """When the frame is through (ns); None: the queue is full."""
        if not self.faults.rate:
            return self.now
        begins = max(self.now, self._free_at[side])
        if (begins - self.now) / SECOND * self.faults.rate + length > self.faults.queue:
            self.dropped += 1
            return None
        self._free_at[side] = begins + round(length / self.faults.rate * SECOND)
        return self._free_at[side]

    def run_host(self, host: Host, other: Host) -> None:
        host.engine.run()
        assert host.engine.damaged() == [], "a connection was changed without the journal's knowledge"

    def output(self, host: Host) -> list[tuple[bytes, int]]:
        return host.engine.output()

    def run(self) -> None:
        """Let both engines do what there is to do now."""
        for source, destination in ((self.a, self.b), (self.b, self.a)):
            self.run_host(source, destination)
            self._collect(source, destination)

    def step(self, limit: int) -> bool:
        """Go to the next moment at which something happens; False when that is after `limit` (ns)."""
        moments = [self.in_flight[0][0]] if self.in_flight else []
        moments += [d for host in (self.a, self.b) if (d := host.engine.next_deadline()) is not None]
        if not moments or min(moments) > limit:
            return False
        self.now = max(self.now, min(moments))
        self._set_clocks()
        while self.in_flight and self.in_flight[0][0] <= self.now:
            _, _, destination, frame = heapq.heappop(self.in_flight)
            destination.engine.input(frame)
        self.run()
        return True

    def until(self, condition: Callable[[], Any], *, limit: float = 600.0) -> None:
        """Run until `condition()`, which is called after every step and may let programs act. `limit` is seconds."""
        end = self.now + round(limit * SECOND)
        self.run()
        while not condition():
            self.run()
            assert self.step(end), f"nothing more happens, or not within {limit} s"

    def wait(self, seconds: float) -> None:
        end = self.now + round(seconds * SECOND)
        self.run()
        while self.step(end):
            pass
        self.now = end
        self._set_clocks()
        self.run()

    def connect(self, port: int = 80) -> tuple[Any, Any]:
        """A connection from `a` to `b`: both programs' sockets."""
        listener = self.b.program.listen(port)
        self.b.engine.run()
        client = self.a.program.connect(self.b.address, port)
        accepted: list[Any] = []

        def done() -> bool:
            if not accepted and (server := self.b.program.accept(listener)):
                accepted.append(server)
            return bool(accepted)

        self.until(done)
        return client, accepted[0]


def changed(frame: bytes, change: tuple[int, int] | None) -> bytes:
    """With one byte other than it was, if so."""
    if change is None:
        return frame
    place = 14 + change[0] % (len(frame) - 14)
    return frame[:place] + bytes([(frame[place] + 1 + change[1] % 255) & 0xFF]) + frame[place + 1 :]
