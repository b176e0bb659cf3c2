"""The experiment of elasticity: a stack grows, shrinks and is renewed under load, and what that costs the clients.

docs/elasticity.md says what is measured; the terms are defined there. The same seed gives the same sequence of pauses
and numbers of replicas, and of the connections' lives.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

from neatstack.experiment import tables
from neatstack.experiment.netns import Lab, LabError
from neatstack.experiment.stage import Load, under_load
from neatstack.experiment.tables import Columns, Files, cell, percentile
from neatstack.experiment.timeline import DROPPED, LOST, TIMEOUT, WINDOW, WRONG

NOTHING, SCALE, REJUVENATE, UPGRADE = KINDS = ("nothing", "scale", "rejuvenate", "upgrade")
QUIET = 20  # times that nothing is done, to compare
RENEWED = 4  # replicas of the stack that is renewed, or as many as there may be
PAUSE = 0.06  # seconds between two changes, on average
LIFE = 400  # requests of a connection, at most
SERVED_LIMIT = 15.0  # seconds for all connections to be served after a change
ANSWER_LIMIT = 120.0  # seconds that a change may take
STEP = 0.01  # seconds between two looks whether a change is done
NS, MS = 1e9, 1e6  # nanoseconds in a second, in a millisecond


class Elastic(Protocol):
    """What the experiment needs of the stack: operations of control.sock. The tests put something simpler there."""

    def scale(self, replicas: int) -> dict[str, Any]: ...

    def rejuvenate(self) -> dict[str, Any]: ...

    def upgrade(self) -> dict[str, Any]: ...

    def status(self) -> dict[str, Any]: ...


Arena = tuple[Load, Elastic]
OpenArena = Callable[[int], AbstractContextManager[Arena]]  # with so many replicas
Progress = Callable[[str, int, int], None]  # what is done now, changes done, connections lost so far


@dataclass(frozen=True)
class Plan:
    """What to do: `scalings` between 1 and `most` replicas, then `renewals`: rejuvenations and upgrades in turn."""

    scalings: int
    renewals: int
    most: int
    seed: int
    quiet: int = QUIET

    @property
    def steps(self) -> int:
        return self.quiet + self.scalings + bool(self.renewals) + self.renewals

    def draws(self, begin: int) -> Iterator[Draw]:
        """What happens one after the other, to a stack that has `begin` replicas."""
        rng = random.Random(self.seed)
        now = begin
        for _ in range(self.quiet):
            yield Draw(NOTHING, now, rng.expovariate(1 / PAUSE))
        for _ in range(self.scalings):
            now = rng.choice([number for number in range(1, self.most + 1) if number != now] or [now])
            yield Draw(SCALE, now, rng.expovariate(1 / PAUSE))
        if self.renewals:
            yield Draw(SCALE, min(RENEWED, self.most), rng.expovariate(1 / PAUSE))
        for number in range(self.renewals):
            yield Draw((REJUVENATE, UPGRADE)[number % 2], min(RENEWED, self.most), rng.expovariate(1 / PAUSE))


@dataclass(frozen=True)
class Draw:
    """A change to be made. `replicas`: as many as are active then."""

    kind: str
    replicas: int
    pause: float  # seconds before it


@dataclass
class Change:
    """A change and what came of it. Times in ms unless named otherwise; None: never, or nothing to say."""

    kind: str
    number: int
    time_s: float  # since the load began
    before: int  # active replicas
    after: int
    took_ms: float | None  # until the stack said that it is done
    stack_took_ms: float | None  # what it said itself
    draining: int  # replicas that go on with what is left to them
    replaced: int  # replicas
    adopted: int  # connections
    lost_by_stack: int
    replica_gap_max_ms: float | None  # the longest that nobody served a replica's connections
    connections_lost: int
    failed_requests: int
    wrong_bytes: int
    gap_p50_ms: float | None
    gap_p99_ms: float | None
    gap_max_ms: float | None
    wrong_replica: int  # packets of live flows that reached another replica, since the change before
    serving_ms: float | None  # until every connection had been served after it was done
    ended: int  # connections that ended in order, up to the next change
    replica_gaps: list[float] = field(default_factory=list, metadata={"file": False})
    gaps: list[float] = field(default_factory=list, metadata={"file": False})

    @property
    def without_loss(self) -> bool:
        wrong = self.connections_lost or self.failed_requests or self.wrong_bytes or self.wrong_replica
        return not wrong and not self.lost_by_stack and self.serving_ms is not None


CHANGE_COLUMNS = [column.name for column in fields(Change) if column.metadata.get("file", True)]


def summarize(kind: str, changes: Sequence[Change]) -> dict[str, Any]:
    """One row of summary.csv."""
    gaps = [gap for change in changes for gap in change.gaps]
    replica_gaps = [gap for change in changes for gap in change.replica_gaps]
    took = [change.took_ms for change in changes if change.took_ms is not None]
    row: dict[str, Any] = {"kind": kind, "changes": len(changes)}
    row["without_loss"] = sum(change.without_loss for change in changes) / len(changes) if changes else None
    for name in ("connections_lost", "lost_by_stack", "failed_requests", "wrong_bytes", "wrong_replica"):
        row[name] = sum(getattr(change, name) for change in changes)
    row["replaced"] = sum(change.replaced for change in changes)
    for name, values in (("gap", gaps), ("replica_gap", replica_gaps), ("took", took)):
        row[f"{name}_p50_ms"] = percentile(values, 0.5)
        row[f"{name}_p99_ms"] = percentile(values, 0.99)
        row[f"{name}_max_ms"] = max(values, default=None)
    row["ended"] = sum(change.ended for change in changes)
    row["not_served_again"] = sum(change.serving_ms is None for change in changes)
    return row


TABLE: Columns = {
    "change": ("kind", ""),
    "made": ("changes", ",d"),
    "without loss": ("without_loss", ".1%"),
    "connections lost": ("connections_lost", ",d"),
    "failed requests": ("failed_requests", ",d"),
    "wrong bytes": ("wrong_bytes", ",d"),
    "packets at a wrong replica": ("wrong_replica", ",d"),
    "gap of a connection p50, ms": ("gap_p50_ms", ".1f"),
    "p99": ("gap_p99_ms", ".1f"),
    "max": ("gap_max_ms", ".1f"),
    "replicas replaced": ("replaced", ",d"),
    "gap of a replica p50, ms": ("replica_gap_p50_ms", ".1f"),
    "p99 ": ("replica_gap_p99_ms", ".1f"),
    "max ": ("replica_gap_max_ms", ".1f"),
    "took p50, ms": ("took_p50_ms", ",.0f"),
    "max  ": ("took_max_ms", ",.0f"),
    "never served again": ("not_served_again", "d"),
}


class Results(Files):
    """changes.csv and gaps.csv as they come; what sums them up is written by finish()."""

    def __init__(self, out: Path) -> None:
        super().__init__(out)
        self.changes: list[Change] = []
        self.rows = self.open("changes.csv", CHANGE_COLUMNS)
        self.gap_rows = self.open("gaps.csv", ["kind", "number", "of", "gap_ms"])

    def add(self, change: Change) -> None:
        self.changes.append(change)
        self.rows.writerow([cell(getattr(change, name)) for name in CHANGE_COLUMNS])
        for of, gaps in (("connection", change.gaps), ("replica", change.replica_gaps)):
            self.gap_rows.writerows([change.kind, change.number, of, cell(gap)] for gap in gaps)
        self.flush()

    @property
    def wrong(self) -> int:
        return sum(change.wrong_bytes for change in self.changes)

    @property
    def lost(self) -> int:
        return sum(change.connections_lost for change in self.changes)

    def summary(self) -> list[dict[str, Any]]:
        made = {kind: [change for change in self.changes if change.kind == kind] for kind in KINDS}
        return [summarize(kind, changes) for kind, changes in made.items() if changes]

    def finish(self, about: Sequence[str]) -> str:
        """Write summary.csv and table.md; the table."""
        summary = self.summary()
        return self.close(list(summarize("", [])), summary, tables.markdown(TABLE, summary, about))


class Operation(threading.Thread):
    """A change under way: it is waited for beside the load, whose log must be taken in meanwhile."""

    def __init__(self, work: Callable[[], dict[str, Any]]) -> None:
        super().__init__(daemon=True)
        self.work = work
        self.answer: dict[str, Any] = {}
        self.error: Exception | None = None
        self.done_ns = 0

    def run(self) -> None:
        try:
            self.answer = self.work()
        except Exception as error:
            self.error = error
        self.done_ns = time.monotonic_ns()


class Run:
    """The changes of a plan, on one stack under load."""

    def __init__(self, load: Load, stack: Elastic, results: Results) -> None:
        self.load, self.stack, self.results = load, stack, results
        self.timeline = load.timeline
        self.latest: tuple[Change, int] | None = None  # whose consequences go on until the next one, and its time
        self.counted = self.wrong_replica()
        self.ended = self.timeline.ended

    def changes(self, plan: Plan, begin: int, progress: Progress) -> None:
        """Make them one after the other."""
        active = begin
        try:
            self.wait_served(self.now())
            for number, draw in enumerate(plan.draws(begin)):
                told = draw.kind if draw.kind != SCALE else f"{active} to {draw.replicas} replicas"
                progress(told, number, self.results.lost)
                self.load.pump(draw.pause)
                self.make(draw, number, active)
                active = draw.replicas
            self.load.pump(WINDOW / NS)
        finally:
            self.settle(self.now())

    def now(self) -> int:
        """As the timeline has it."""
        return time.monotonic_ns() - self.load.base

    def make(self, draw: Draw, number: int, active: int) -> None:
        """One change, until all connections are served after it."""
        at = self.now()
        self.settle(at)
        operation = Operation(lambda: self.work(draw))
        operation.start()
        while operation.is_alive():
            self.load.pump(STEP)
        if operation.error:
            raise operation.error if isinstance(operation.error, LabError) else LabError(str(operation.error))
        served = self.wait_served(operation.done_ns - self.load.base)
        self.latest = self.change(draw, number, active, at, served, operation), at

    def work(self, draw: Draw) -> dict[str, Any]:
        if draw.kind == SCALE:
            return self.stack.scale(draw.replicas)
        if draw.kind == NOTHING:
            return {}
        return self.stack.rejuvenate() if draw.kind == REJUVENATE else self.stack.upgrade()

    def wait_served(self, since: int) -> int | None:
        """When every connection had had an answer to a request that it sent after `since`; None: not in time."""
        end = time.monotonic() + SERVED_LIMIT
        while time.monotonic() < end:
            self.load.pump(STEP)
            if (served := self.timeline.all_served(since, since)) is not None:
                return served
        return None

    def change(self, draw: Draw, number: int, active: int, at: int, served: int | None, operation: Operation) -> Change:
        """What is known of a change when it is done; settle() adds the rest."""
        told = operation.answer
        replaced = told.get("replaced", [])
        gaps = [each["gap_ms"] for each in replaced if each.get("gap_ms") is not None]
        return Change(
            kind=draw.kind, number=number, time_s=at / NS, before=active, after=draw.replicas,
            took_ms=(operation.done_ns - self.load.base - at) / MS if draw.kind != NOTHING else None,
            stack_took_ms=told.get("took_ms"), draining=len(told.get("draining", [])), replaced=len(replaced),
            adopted=sum(each.get("adopted") or 0 for each in replaced),
            lost_by_stack=sum(each.get("lost") or 0 for each in replaced),
            replica_gap_max_ms=max(gaps, default=None), replica_gaps=gaps,
            connections_lost=0, failed_requests=0, wrong_bytes=0, wrong_replica=0, ended=0,
            gap_p50_ms=None, gap_p99_ms=None, gap_max_ms=None,
            serving_ms=None if served is None else (served - at) / MS,
        )  # fmt: skip

    def settle(self, until: int) -> None:
        """The next change begins: whatever went wrong and every pause since the last one were that one's."""
        if self.latest is None:
            return
        (change, at), self.latest = self.latest, None
        troubles = self.timeline.between(at, until)
        change.connections_lost = sum(each.kind in (LOST, TIMEOUT) for each in troubles)
        change.failed_requests = change.connections_lost + sum(each.kind == DROPPED for each in troubles)
        change.wrong_bytes = sum(each.count for each in troubles if each.kind == WRONG)
        change.gaps = [self.timeline.gap(place, at, until) / MS for place in range(len(self.timeline.times))]
        change.gap_p50_ms, change.gap_p99_ms = (percentile(change.gaps, part) for part in (0.5, 0.99))
        change.gap_max_ms = max(change.gaps, default=None)
        counted = self.wrong_replica()
        change.wrong_replica, self.counted = counted - self.counted, counted
        change.ended, self.ended = self.timeline.ended - self.ended, self.timeline.ended
        self.results.add(change)
        self.timeline.forget(until)

    def wrong_replica(self) -> int:
        """Packets that have reached a replica which does not own their flow; this must not happen."""
        return int(self.stack.status().get("steering", {}).get("wrong_replica") or 0)


def experiment(plan: Plan, open_arena: OpenArena, results: Results, progress: Progress) -> None:
    """All changes of the plan, to one stack that begins with one replica. LabError: the stack refuses one."""
    begin = 1
    with open_arena(begin) as (load, stack):
        Run(load, stack, results).changes(plan, begin, progress)
    progress("done", plan.steps, results.lost)


def arena(lab: Lab, plan: Plan, connections: int) -> OpenArena:
    """On a real stack."""
    options = ["--max-replicas", plan.most]
    return lambda replicas: under_load(lab, replicas, connections, options, ANSWER_LIMIT, LIFE, plan.seed)
