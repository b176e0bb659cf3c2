"""What a stack does per second, from successive answers to `status`.

    meter = Meter()
    view = meter.take(answer)       # at once: counters, states, steering
    view = meter.take(next_answer)  # and the rates between the two

Pure: time is what the answers say (`at_ns`), or what the caller says. A counter lives in its replica's region, which
outlives processes; where one goes back, the region is a new one, and all that it has counted is new. An answer of a
stack that knows less than this module leaves zeros and None, never an exception.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

HISTORY = 120  # samples remembered
SECOND = 1_000_000_000
BUCKETS = 256  # of the indirection table


@dataclass(frozen=True)
class Rates:
    """Per second, between two answers."""

    requests: float = 0.0
    packets_in: float = 0.0
    packets_out: float = 0.0
    bytes_in: float = 0.0
    bytes_out: float = 0.0
    opened: float = 0.0  # connections, by either side
    retransmits: float = 0.0
    drops: float = 0.0

    @property
    def packets(self) -> float:
        return self.packets_in + self.packets_out

    @property
    def bytes(self) -> float:
        return self.bytes_in + self.bytes_out

    @classmethod
    def total(cls, several: Iterable[Rates]) -> Rates:
        every = list(several)
        return cls(*(sum(getattr(rates, name) for rates in every) for name in RATES))


RATES = tuple(each.name for each in fields(Rates))
SERIES = (*RATES, "connections", "busy")
History = dict[str, tuple[float, ...]]  # by the names of SERIES, oldest first


@dataclass(frozen=True)
class LastRecovery:
    """What came of a replica's last death."""

    cause: str
    how: str
    gap_ms: float | None  # nobody served its connections for so long; None: still
    adopted: int
    lost: int


@dataclass(frozen=True)
class ProcessView:
    """What a process uses; zeros when it is gone."""

    pid: int
    cpu_seconds: float
    resident: int  # bytes

    @classmethod
    def parse(cls, told: dict[str, Any]) -> ProcessView:
        return cls(int(number(told, "pid")), number(told, "cpu_seconds"), int(number(told, "resident")))


@dataclass(frozen=True)
class ReplicaView:
    """One replica that has a process, or is about to have one."""

    id: int
    pid: int
    incarnation: int
    state: str  # running, draining, adopting, starting, stopped
    takes_new: bool
    version: str | None
    connections: int
    busy: float | None  # share of the last second not asleep; None: not yet known
    buckets: int
    pins: int
    recoveries: int
    last_recovery: LastRecovery | None
    cpu_seconds: float  # of this incarnation
    resident: int  # bytes
    counters: dict[str, int]
    drops: dict[str, int]  # by reason, since the region was made
    rates: Rates
    history: History

    @property
    def dropped(self) -> int:
        return sum(self.drops.values())


@dataclass(frozen=True)
class StackView:
    """A whole stack at one moment. All of it is JSON-ready with dataclasses.asdict()."""

    name: str
    address: str
    device: str
    version: str | None
    uptime: float | None  # seconds
    at_ns: int
    seconds: float  # between the two answers that the rates are of; 0: there was only one
    replicas: tuple[ReplicaView, ...]
    active: int
    draining: tuple[int, ...]
    max_replicas: int
    auto: dict[str, Any] | None  # min and max of the automatic scaling
    under_way: str | None  # the scaling that is being done
    rejuvenation: dict[str, Any] | None
    spares_ready: int
    spares: int
    pins: int
    table: tuple[int, ...]  # owner of each bucket; empty: not told
    wrong_replica: int
    queue_drops: int
    programs: int
    processes: dict[str, ProcessView]  # keeper, manager, link
    manager_restarts: int  # seen by this meter
    rates: Rates  # of all replicas
    history: History

    @property
    def connections(self) -> int:
        return sum(replica.connections for replica in self.replicas)

    def share(self, replica: ReplicaView) -> float:
        """The part of new connections that goes to a replica, 0 to 1."""
        buckets = sum(each.buckets for each in self.replicas)
        return replica.buckets / buckets if buckets else 0.0


class Meter:
    """Turns answers into views; remembers the last answer's counters and a bounded history."""

    def __init__(self, history: int = HISTORY) -> None:
        self.view: StackView | None = None
        self._length = history
        self._tracks: dict[int, _Track] = {}
        self._total = _Series(history)
        self._manager_restarts = 0

    def take(self, answer: dict[str, Any], now_ns: int | None = None) -> StackView:
        """The view of an answer. `now_ns` stands for a missing `at_ns`; by default the clock does."""
        told = number(answer, "at_ns")
        at_ns = int(told) or (time.monotonic_ns() if now_ns is None else now_ns)
        before = self.view
        passed = (at_ns - before.at_ns) / SECOND if before else 0.0
        replicas = self._replicas(answer, passed)
        processes = {
            name: ProcessView.parse(process)
            for name, process in mapping(answer, "processes").items()
            if isinstance(process, dict)
        }
        if before and _pid(processes, "manager") != _pid(before.processes, "manager"):
            self._manager_restarts += 1
        total = Rates.total(replica.rates for replica in replicas)
        if before and passed > 0:
            busy = sum(replica.busy or 0.0 for replica in replicas)
            self._total.add(total, sum(replica.connections for replica in replicas), busy)
        self.view = StackView(
            at_ns=at_ns,
            seconds=max(passed, 0.0),
            replicas=replicas,
            processes=processes,
            manager_restarts=self._manager_restarts,
            rates=total,
            history=self._total.told(),
            **_identity(answer),
            **_scaling(answer, replicas),
            **_steering(answer),
        )
        return self.view

    def _replicas(self, answer: dict[str, Any], passed: float) -> tuple[ReplicaView, ...]:
        steering = mapping(answer, "steering")
        found = {
            int(each["id"]): each for each in sequence(answer, "replicas") if isinstance(each.get("id"), int)
        }  # fmt: skip
        for slot in found.keys() - self._tracks.keys():
            self._tracks[slot] = _Track(self._length)
        for slot in self._tracks.keys() - found.keys():
            self._tracks[slot].absent(passed)
        self._tracks = {slot: track for slot, track in self._tracks.items() if track.missed < self._length}
        return tuple(self._tracks[slot].take(found[slot], steering, passed) for slot in sorted(found))


@dataclass
class _Series:
    """The last values of each of SERIES."""

    length: int
    values: dict[str, deque[float]] = field(init=False)

    def __post_init__(self) -> None:
        self.values = {name: deque(maxlen=self.length) for name in SERIES}

    def add(self, rates: Rates, connections: float, busy: float) -> None:
        for name in RATES:
            self.values[name].append(getattr(rates, name))
        self.values["connections"].append(connections)
        self.values["busy"].append(busy)

    def told(self) -> History:
        return {name: tuple(values) for name, values in self.values.items()}


class _Track:
    """One slot's last counters, and its history; it outlives the replica's absence for a while."""

    def __init__(self, length: int) -> None:
        self.missed = 0  # answers in a row without this replica
        self._counters: dict[str, int] | None = None
        self._cpu: tuple[int, float] = 0, 0.0  # pid, seconds used
        self._rates = Rates()
        self._busy: float | None = None
        self._series = _Series(length)

    def absent(self, passed: float) -> None:
        """The replica was not in an answer. What it counts until it is back belongs to no moment that we saw."""
        self.missed += 1
        self._counters, self._cpu, self._rates, self._busy = None, (0, 0.0), Rates(), None
        if passed > 0:
            self._series.add(Rates(), 0, 0.0)

    def take(self, answer: dict[str, Any], steering: dict[str, Any], passed: float) -> ReplicaView:
        self.missed = 0
        slot = int(answer["id"])
        counters = _counters(answer)
        drops = _drops(answer, counters)
        connections = int(number(answer, "connections") or counters.get("connections", 0))
        self._measure(answer, {**counters, "drops": sum(drops.values())}, passed)
        if passed > 0:
            self._series.add(self._rates, connections, self._busy or 0.0)
        state = str(answer.get("state", "running"))
        buckets = int(number(mapping(steering, "buckets"), str(slot)))
        return ReplicaView(
            id=slot,
            pid=int(number(answer, "pid")),
            incarnation=int(number(answer, "incarnation")),
            state=state,
            takes_new=bool(answer.get("takes_new", state != "draining" and buckets > 0)),
            version=text(answer, "version"),
            connections=connections,
            busy=self._busy,
            buckets=buckets,
            pins=int(number(mapping(steering, "pins_by_replica"), str(slot))),
            recoveries=int(number(answer, "recoveries")),
            last_recovery=_last_recovery(answer),
            cpu_seconds=number(answer, "cpu_seconds"),
            resident=int(number(answer, "resident")),
            counters=counters,
            drops=drops,
            rates=self._rates,
            history=self._series.told(),
        )

    def _measure(self, answer: dict[str, Any], counters: dict[str, int], passed: float) -> None:
        """Rates and busy share since the last answer. Two answers of one moment say nothing new."""
        before, self._counters = self._counters, counters
        cpu = int(number(answer, "pid")), number(answer, "cpu_seconds")
        cpu_before, self._cpu = self._cpu, cpu
        if before is None:
            self._rates, self._busy = Rates(), told_share(answer)
            return
        if passed <= 0:
            return
        grown = {name: growth(before.get(name, 0), value) for name, value in counters.items()}
        opened = grown.get("connections_opened", 0) + grown.get("connections_accepted", 0)
        same = {name: grown.get(name, 0) / passed for name in RATES if name != "opened"}
        self._rates = Rates(opened=opened / passed, **same)
        self._busy = told_share(answer)
        if self._busy is None and "slept_ns" in counters:
            self._busy = within(1 - grown["slept_ns"] / (passed * SECOND))
        elif self._busy is None and cpu[0] == cpu_before[0]:
            self._busy = within((cpu[1] - cpu_before[1]) / passed)


def _pid(processes: dict[str, ProcessView], name: str) -> int:
    return processes[name].pid if name in processes else 0


def growth(before: int, now: int) -> int:
    """How much a counter has counted. One that went back began again at 0."""
    return now - before if now >= before else now


def within(share: float) -> float:
    return min(max(share, 0.0), 1.0)


def told_share(answer: dict[str, Any]) -> float | None:
    busy = answer.get("busy")
    return within(float(busy)) if isinstance(busy, int | float) else None


def _counters(answer: dict[str, Any]) -> dict[str, int]:
    """The region's counters; while it is not set up yet there are none, and the answer's own fields say 0."""
    counted = {name: int(value) for name, value in mapping(answer, "counters").items() if is_number(value)}
    plain = ("packets_in", "packets_out", "bytes_in", "bytes_out", "retransmits", "requests")
    return {name: int(number(answer, name)) for name in plain if name in answer} | counted


def _drops(answer: dict[str, Any], counters: dict[str, int]) -> dict[str, int]:
    told = {name: int(value) for name, value in mapping(answer, "drops").items() if is_number(value)}
    counted = {name.removeprefix("drop_"): value for name, value in counters.items() if name.startswith("drop_")}
    return told | counted


def _last_recovery(answer: dict[str, Any]) -> LastRecovery | None:
    last = mapping(answer, "last_recovery")
    if not last:
        return None
    died, running = number(last, "died_ns"), number(last, "running_ns")
    return LastRecovery(
        cause=text(last, "cause") or "",
        how=text(last, "how") or "",
        gap_ms=(running - died) / 1e6 if running > died else None,
        adopted=int(number(last, "adopted")),
        lost=int(number(last, "lost")),
    )


def _identity(answer: dict[str, Any]) -> dict[str, Any]:
    device, spares = mapping(answer, "device"), sequence(answer, "spares")
    return {
        "name": text(answer, "name") or "",
        "address": _addresses(answer),
        "device": text(device, "name") or "",
        "version": text(answer, "version"),
        "uptime": number(answer, "uptime_s") if is_number(answer.get("uptime_s")) else None,
        "rejuvenation": mapping(answer, "rejuvenation") or None,
        "spares": len(spares),
        "spares_ready": sum(bool(spare.get("ready")) for spare in spares),
        "queue_drops": int(number(device, "queue_drops")),
        "programs": len(sequence(answer, "programs")),
    }


def _addresses(answer: dict[str, Any]) -> str:
    """All own addresses of the stack; a stack of an older version tells one only."""
    told = answer.get("addresses")
    several = [address for address in told if isinstance(address, str)] if isinstance(told, list) else []
    return " ".join(several) or text(answer, "address") or ""


def _scaling(answer: dict[str, Any], replicas: tuple[ReplicaView, ...]) -> dict[str, Any]:
    told = mapping(answer, "scaling")
    taking = sum(replica.takes_new for replica in replicas)
    leaving = told.get("draining")
    if not isinstance(leaving, list):
        leaving = [replica.id for replica in replicas if replica.state == "draining"]
    return {
        "active": int(number(told, "active")) if "active" in told else taking,
        "draining": tuple(sorted(leaving)),
        "max_replicas": int(number(answer, "max_replicas")) or len(replicas),
        "auto": mapping(told, "auto") or None,
        "under_way": text(told, "under_way"),
    }


def _steering(answer: dict[str, Any]) -> dict[str, Any]:
    told = mapping(answer, "steering")
    table = told.get("table")
    replicas = sequence(answer, "replicas")
    dropped = sum(int(number(mapping(replica, "drops"), "wrong_replica")) for replica in replicas)
    return {
        "pins": int(number(told, "pins")),
        "table": tuple(int(owner) for owner in table) if isinstance(table, list) else (),
        "wrong_replica": int(number(told, "wrong_replica")) if "wrong_replica" in told else dropped,
    }


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def number(answer: dict[str, Any], name: str) -> float:
    """A number of the answer; 0 when it is missing or something else."""
    value = answer.get(name)
    return value if isinstance(value, int | float) else 0


def text(answer: dict[str, Any], name: str) -> str | None:
    value = answer.get(name)
    return value if isinstance(value, str) else None


def mapping(answer: dict[str, Any], name: str) -> dict[str, Any]:
    value = answer.get(name)
    return value if isinstance(value, dict) else {}


def sequence(answer: dict[str, Any], name: str) -> list[dict[str, Any]]:
    value = answer.get(name)
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
