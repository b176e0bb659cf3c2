"""The experiment of recovery: faults at random times under load, and what each costs the clients.

docs/recovery.md says what is measured; the terms are defined there. The same seed gives the same sequence of pauses,
targets and fault seeds, for every mode.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from neatstack.experiment.netns import LabError
from neatstack.experiment.results import Fault, Results, percentile
from neatstack.experiment.stage import Combination, Injection, Stage
from neatstack.experiment.timeline import DROPPED, LOST, TIMEOUT, WINDOW, WRONG, Trouble

KINDS = ("kill", "segv", "abort", "hang", "flip")
MODES = ("adopt", "reset")
PAUSE = 0.06  # seconds between a recovery and the next fault, on average
ESCALATION = 1_050_000_000  # ns: two deaths of itself within a second are another case than the one that is measured
SETTLE_LIMIT = 15.0  # seconds for the stack to serve again
GIVE_UP = 3  # stacks of one series that may fail to serve again
STATUS_PAUSE = 0.01  # seconds between two questions to the manager
NS, MS = 1e9, 1e6  # nanoseconds in a second, in a millisecond
HOW = ("none", "adopt", "suspect", "reset", "fresh")  # what costs more comes later

OpenStage = Callable[[Combination], AbstractContextManager[Stage]]
Progress = Callable[[Combination, int, int], None]  # faults of the series that are done, connections they have cost


@dataclass(frozen=True)
class Plan:
    """What to do. `faults` for each combination."""

    faults: int
    replicas: tuple[int, ...]
    kinds: tuple[str, ...]
    modes: tuple[str, ...]
    seed: int

    def combinations(self) -> list[Combination]:
        return [Combination(m, n, kind) for kind in self.kinds for n in self.replicas for m in self.modes]

    def draws(self, what: Combination) -> Iterator[Draw]:
        """The random part of a series; the same for every mode, so that the modes can be compared."""
        rng = random.Random(f"{self.seed}/{what.replicas}/{what.kind}")
        for number in range(self.faults):
            yield Draw(number, rng.expovariate(1 / PAUSE), rng.randrange(what.replicas), rng.getrandbits(31))


@dataclass(frozen=True)
class Draw:
    """What chance has decided about one fault."""

    number: int
    pause: float  # seconds
    replica: int
    seed: int


@dataclass
class Pending:
    """A fault whose consequences are not all known yet. Times are the timeline's."""

    draw: Draw
    replica: int
    at: int
    what: str
    affected: dict[int, int]  # place: intervals that begin before this time count; until the next fault that hits it
    recoveries: list[dict[str, Any]] = field(default_factory=list)
    served: int | None = None
    given_up: bool = False  # all were not served again in time
    end: int | None = None  # the next fault: troubles from then on are its own

    @property
    def how(self) -> str:
        return max((recovery["how"] for recovery in self.recoveries), key=HOW.index, default="none")


class Run:
    """One series of faults on one stage."""

    def __init__(self, what: Combination, stage: Stage, results: Results) -> None:
        self.what, self.load, self.stack, self.results = what, stage.load, stage.faults, results
        self.timeline = stage.load.timeline
        self.pending: deque[Pending] = deque()
        self.latest: Pending | None = None
        self.owner: dict[int, int] = {}  # place: replica
        self.counts = {each["id"]: each["recoveries"] for each in self.stack.status()["replicas"]}
        self.deaths: dict[int, int] = {}  # replica: when it last died of itself

    def faults(self, draws: Iterator[Draw]) -> bool:
        """Inject them one after the other. False: the stack does not serve any more, the rest was left out."""
        began = time.monotonic()
        answers = self.timeline.answers
        try:
            if not self.settle():
                raise LabError("the stack does not come to rest before the first fault")
            for draw in draws:
                self.load.pump(draw.pause)
                # asking the stack how it is costs it time, which would show in the gap: only if something has happened
                if not (self.timeline.open() and not self.timeline.strangers) and not self.settle():
                    return False
                if self.wait_for_escalation(self.target(draw)) and not self.settle():
                    return False
                self.inject(draw)
                if not self.settle():
                    return False
                self.harvest()
            self.load.pump(WINDOW / NS)
            self.settle()
            return True
        finally:
            self.harvest(everything=True)
            seconds = time.monotonic() - began
            self.results.rate(self.what, (self.timeline.answers - answers) / seconds)

    def target(self, draw: Draw) -> int:
        """The replica to hit: one without connections would not notice a fault, and cost nobody anything."""
        owners = sorted(set(self.owner.values()))
        return draw.replica if draw.replica in owners else owners[draw.replica % len(owners)]

    def inject(self, draw: Draw) -> None:
        replica = self.target(draw)
        places = [place for place, owner in self.owner.items() if owner == replica]
        injected: Injection = self.stack.inject(replica, self.what.kind, draw.seed)
        at = injected.at - self.load.base
        for fault in self.pending:
            fault.end = at if fault.end is None else fault.end
            for place in fault.affected.keys() & places:
                fault.affected[place] = min(fault.affected[place], at)
        self.latest = Pending(draw, replica, at, injected.what, dict.fromkeys(places, at + WINDOW))
        self.pending.append(self.latest)

    def wait_for_escalation(self, replica: int) -> bool:
        """A replica that dies of itself twice within a second is reset on purpose: not what is measured here.

        True: there was need to wait.
        """
        if self.what.mode != "adopt" or self.what.kind == "kill" or replica not in self.deaths:
            return False
        left = self.deaths[replica] + ESCALATION - (time.monotonic_ns() - self.load.base)
        if left > 0:
            self.load.pump(left / NS)
        return left > 0

    def settle(self) -> bool:
        """Wait until every connection is served and the stack is ready for the next fault. False: it is not in time.

        The manager is asked only when the clients are served, so that asking does not disturb the recovery.
        """
        end = time.monotonic() + SETTLE_LIMIT
        fault = self.latest
        while time.monotonic() < end:
            since = fault.at if fault else 0
            if self.timeline.all_served(since, since) is not None and self.ready():
                running = max((each["running_ns"] for each in fault.recoveries), default=0) if fault else 0
                served = self.timeline.all_served(since, max(since, running - self.load.base))
                if served is not None and self.learn_owners():
                    if fault:
                        fault.served = served
                    return True
            self.load.pump(STATUS_PAUSE)
        self.timeline.now = max(self.timeline.now, time.monotonic_ns() - self.load.base)  # nothing may have come since
        if fault:
            fault.served, fault.given_up = None, True
        return False

    def ready(self) -> bool:
        """Do all replicas run, has the latest fault been recovered from, and does a spare wait?"""
        status = self.stack.status()
        for replica in status["replicas"]:
            self.note(replica)
        if any(replica["state"] != "running" for replica in status["replicas"]):
            return False
        if self.what.mode == "adopt" and not any(spare["ready"] for spare in status["spares"]):
            return False
        return self.latest is None or self.what.kind == "flip" or bool(self.latest.recoveries)

    def note(self, replica: dict[str, Any]) -> None:
        """Recoveries of a replica that are new belong to the last fault that hit it."""
        number, count = replica["id"], replica["recoveries"]
        new = count - self.counts.get(number, 0)
        if new <= 0:
            return
        self.counts[number] = count
        told = [replica["last_recovery"]]
        if new > 1:
            told = [each for each in self.stack.recoveries() if each["replica"] == number][-new:]
        for recovery in told:
            if recovery["how"] == "suspect" or self.what.kind != "kill":
                self.deaths[number] = recovery["died_ns"] - self.load.base
        fault = next((each for each in reversed(self.pending) if each.replica == number), self.latest)
        if fault:
            fault.recoveries += told

    def learn_owners(self) -> bool:
        """Ask whose the new connections are. False: the stack does not know all of them yet."""
        strangers = self.timeline.strangers
        if strangers:
            owners = self.stack.owners()
            for place in list(strangers):
                owner = owners.get(self.timeline.ports[place])
                if owner is not None:
                    self.owner[place] = owner
                    strangers.discard(place)
        return not strangers

    def harvest(self, everything: bool = False) -> None:
        """Write the rows of the faults whose consequences are known: gaps and troubles have ended."""
        while self.pending:
            fault = self.pending[0]
            known = fault.end is not None and self.timeline.now > fault.end
            known = known and all(self.timeline.seen(place, until) for place, until in fault.affected.items())
            told = fault.served is not None or fault.given_up  # else we were interrupted, and know nothing
            if not known and not (everything and told):
                break
            self.pending.popleft()
            self.write(fault)
        if self.pending:
            self.timeline.forget(self.pending[0].at)
        elif self.latest:
            self.timeline.forget(self.latest.at)

    def write(self, fault: Pending) -> None:
        end = self.timeline.now + 1 if fault.end is None else fault.end
        troubles = self.timeline.between(fault.at, end)
        lost = [each.place for each in troubles if each.kind in (LOST, TIMEOUT)]
        gap, over = self.timeline.gap, self.over(fault) + 1
        gaps = {place: gap(place, fault.at, min(until, over)) / MS for place, until in fault.affected.items()}
        self.results.add(self.row(fault, troubles, list(gaps.values())), gaps, set(lost))

    def over(self, fault: Pending) -> int:
        """When the fault had no consequence any more: all were served, and no replica was still to be replaced.

        Without that moment everything in the second after it counts.
        """
        if fault.served is None:
            return fault.at + WINDOW
        return max(fault.served, *(each["running_ns"] - self.load.base for each in fault.recoveries), fault.at + 1)

    def row(self, fault: Pending, troubles: list[Trouble], gaps: list[float]) -> Fault:
        lost = sum(each.kind in (LOST, TIMEOUT) for each in troubles)
        failed = lost + sum(each.kind == DROPPED for each in troubles)
        wrong = sum(each.count for each in troubles if each.kind == WRONG)
        served = fault.served
        return Fault(
            mode=self.what.mode,
            replicas=self.what.replicas,
            kind=self.what.kind,
            number=fault.draw.number,
            seed=fault.draw.seed,
            replica=fault.replica,
            time_s=fault.at / NS,
            connections_before=len(fault.affected),
            connections_lost=lost,
            failed_requests=failed,
            gap_p50_ms=percentile(gaps, 0.5),
            gap_p99_ms=percentile(gaps, 0.99),
            gap_max_ms=max(gaps, default=None),
            wrong_bytes=wrong,
            recovered=not (failed or wrong) and served is not None,
            how=fault.how,
            adopted=fault.recoveries[-1]["adopted"] if fault.recoveries else None,
            lost_by_stack=sum(each["lost"] for each in fault.recoveries) if fault.recoveries else None,
            serving_ms=None if served is None else (served - fault.at) / MS,
            what=fault.what,
        )


def experiment(plan: Plan, open_stage: OpenStage, results: Results, progress: Progress) -> None:
    """All series. A stack that does not serve again is replaced; after GIVE_UP of them the series ends early."""
    for what in plan.combinations():
        draws, failures = counted(plan.draws(what), what, results, progress), 0
        while failures < GIVE_UP:
            with open_stage(what) as stage:
                if Run(what, stage, results).faults(draws):
                    break
            failures += 1
        progress(what, plan.faults, cost(what, results))


def counted(draws: Iterator[Draw], what: Combination, results: Results, progress: Progress) -> Iterator[Draw]:
    """The draws, telling of each how far we are."""
    for draw in draws:
        progress(what, draw.number, cost(what, results))
        yield draw


def cost(what: Combination, results: Results) -> int:
    """Connections that the series has cost so far."""
    series = results.series.get(what)
    return sum(fault.connections_lost for fault in series.faults) if series else 0
