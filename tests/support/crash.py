"""Incarnations that die in the middle of their work, in virtual time, and others that adopt what they have left.

wire = CrashWire()
wire.die("b", "sealed", after=3)        # b's engine will pass this point three times, and die there
...                                     # whatever happens: the next incarnation takes over, and goes on
assert wire.deaths == 1

wire.die("b", "sealed", 3, ("touched", 5))      # and that one dies too, perhaps while it still takes over
"""

from __future__ import annotations

import mmap
from typing import Any

from neatstack.dataplane.channel.region import region_size
from neatstack.dataplane.engine import Died, Engine
from tests.support.program import Program
from tests.support.wire import Faults, Host, Wire, meet

TCBS = 64


class MortalHost(Host):
    """A host whose engine can be replaced by the next incarnation."""

    def __init__(self, number: int, *, rings: int = 65536, **options: Any) -> None:
        self.region = mmap.mmap(-1, region_size(TCBS))
        self.options = options
        self.incarnation = 1
        super().__init__(number, rings=rings, max_tcbs=TCBS, region=self.region, **options)
        self.programs: list[Program] = [self.program]
        self.unsent: list[tuple[bytes, int]] = []  # what the dead have sent, and nobody has carried yet
        self.fates: list[tuple[str, int]] = []  # where the next incarnations will die, counted from their adoption
        self.told: list[dict[str, Any]] | None = None  # the listeners, as the manager keeps them; None: as they are

    def reborn(self, now: int, neighbour: Host, how: str = "adopt") -> dict[str, int]:
        """What the manager does: region, queue, channels and listeners to a new engine. Died: see `fates`."""
        old = self.engine
        told = old.listeners() if self.told is None else self.told
        self.unsent += old.output()
        self.incarnation += 1
        self.engine = Engine(
            address=self.address, mac=self.mac, max_tcbs=TCBS, region=self.region, keep=True,
            incarnation=self.incarnation, **self.options,
        )  # fmt: skip
        self.engine.now = now
        meet(self.engine, neighbour)
        for frame in old.untaken():
            self.engine.input(frame)
        for program in self.programs:
            program.engine = self.engine
            self.engine.add_channel(program.channel, program.memory)
        for listener in told:
            self.engine.listen(listener["number"], listener["address"], listener["port"], listener["backlog"])
            for channel in listener["channels"]:
                self.engine.grant(listener["number"], channel)
        if self.fates:
            self.engine.die_at(*self.fates.pop(0))
        return self.engine.adopt(how)


class CrashWire(Wire):
    """A wire whose hosts survive."""

    host_class = MortalHost
    everywhere = "0.0.0.0"  # where a listener is bound

    def __init__(self, faults: Faults | None = None, *, how: str = "adopt", **options: Any) -> None:
        self.deaths = 0
        self.lost = 0
        self.how = how
        super().__init__(faults, **options)

    def die(self, side: str, point: str | None, after: int = 0, *then: tuple[str, int]) -> None:
        """Let the engine of host `side` die at a point, and its successors at theirs; None: only count."""
        host = getattr(self, side)
        host.engine.die_at(point, after)
        host.fates = list(then)

    def run_host(self, host: MortalHost, other: MortalHost) -> None:  # type: ignore[override]
        while True:
            try:
                super().run_host(host, other)
                return
            except Died:
                self.replace(host, other)

    def replace(self, host: MortalHost, other: MortalHost) -> None:
        """The host's engine has died: the next one takes over, or the first after it that can."""
        while True:
            self.deaths += 1
            try:
                self.lost += host.reborn(self.now, other, self.how)["lost"]
                return
            except Died:
                pass

    def output(self, host: MortalHost) -> list[tuple[bytes, int]]:  # type: ignore[override]
        unsent, host.unsent = host.unsent, []
        return unsent + super().output(host)


class MortalHost6(MortalHost):
    """One that has IPv6, too: fd00:: and its number."""

    def __init__(self, number: int, **options: Any) -> None:
        super().__init__(number, addresses=[f"fd00::{number}/64"], **options)
        self.addresses.append(f"fd00::{number}")


class CrashWire6(CrashWire):
    """What the scenarios do goes over IPv6; large segments arrive as one."""

    host_class = MortalHost6
    everywhere = "::"

    def _collect(self, source: Host, destination: Host) -> None:
        for frame, _ in self.output(source):
            assert frame[:14] == destination.mac + source.mac + b"\x86\xdd"
            self._carry(destination, frame)
