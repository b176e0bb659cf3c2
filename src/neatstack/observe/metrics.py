"""What a stack tells Prometheus: one table of metrics, and the collector that fills it at each scrape.

Names follow Prometheus' conventions: base units, `_total` for counters. A value that the stack does not tell (one of an
older version) is left out, not 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from neatstack.observe.client import Event
from neatstack.observe.rates import ReplicaView, StackView

Sample = tuple[tuple[str, ...], float]  # labels' values, value
STATES = ("starting", "adopting", "running", "draining", "stopped")
SERVING = ("running", "draining")
GAPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # seconds; upper ends of the histogram


class Gaps:
    """What recoveries have cost, counted from events: a histogram for each kind of recovery."""

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()  # by kind
        self.sums: dict[str, float] = {}
        self._counts: dict[str, list[int]] = {}

    def take(self, events: Iterable[Event]) -> None:
        for event in events:
            self.events[event.kind] += 1
            if event.gap_ms is not None:
                gap = event.gap_ms / 1000
                self.sums[event.kind] = self.sums.get(event.kind, 0.0) + gap
                counts = self._counts.setdefault(event.kind, [0] * (len(GAPS) + 1))
                counts[sum(gap > end for end in GAPS)] += 1

    def buckets(self, kind: str) -> list[tuple[str, float]]:
        """Upper ends, and how many gaps were not longer."""
        total, told = 0, []
        for end, count in zip([*map(str, GAPS), "+Inf"], self._counts[kind], strict=True):
            total += count
            told.append((end, float(total)))
        return told


@dataclass(frozen=True)
class Sight:
    """What is known of a stack at a scrape. Without a view nothing is; `up` says whether it is of this moment."""

    name: str
    up: bool
    view: StackView | None = None
    age: float = 0.0  # seconds since the view was the stack's answer
    gaps: Gaps = field(default_factory=Gaps)


@dataclass(frozen=True)
class Row:
    """One metric of the table. `name` is without `_total` and `_info`, which the kind adds."""

    name: str
    kind: Literal["counter", "gauge", "info", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    of: Callable[[Sight], Iterable[Sample]] = lambda sight: ()

    @property
    def shown(self) -> str:
        """The name as one queries it."""
        return self.name + {"counter": "_total", "info": "_info"}.get(self.kind, "")

    @property
    def samples(self) -> tuple[str, ...]:
        """All names that a query can use."""
        if self.kind == "histogram":
            return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))
        return (self.shown,)


def one(value: Callable[[StackView], float | None]) -> Callable[[Sight], Iterable[Sample]]:
    """A value of the whole stack."""

    def samples(sight: Sight) -> Iterator[Sample]:
        if sight.view is not None and (found := value(sight.view)) is not None:
            yield (), float(found)

    return samples


def each(value: Callable[[ReplicaView], float | None]) -> Callable[[Sight], Iterable[Sample]]:
    """A value of each replica."""

    def samples(sight: Sight) -> Iterator[Sample]:
        for replica in sight.view.replicas if sight.view else ():
            if (found := value(replica)) is not None:
                yield (str(replica.id),), float(found)

    return samples


def counted(name: str, unit: float = 1.0) -> Callable[[Sight], Iterable[Sample]]:
    """A counter of each replica's region, in units of `unit`."""
    return each(lambda replica: replica.counters[name] * unit if name in replica.counters else None)


def states(sight: Sight) -> Iterator[Sample]:
    for replica in sight.view.replicas if sight.view else ():
        for state in STATES:
            yield (str(replica.id), state), float(replica.state == state)


def drops(sight: Sight) -> Iterator[Sample]:
    for replica in sight.view.replicas if sight.view else ():
        for reason, count in sorted(replica.drops.items()):
            yield (str(replica.id), reason), count


def last_gaps(replica: ReplicaView) -> float | None:
    last = replica.last_recovery
    return last.gap_ms / 1000 if last and last.gap_ms is not None else None


def last_connections(sight: Sight) -> Iterator[Sample]:
    for replica in sight.view.replicas if sight.view else ():
        if last := replica.last_recovery:
            yield (str(replica.id), "adopted"), last.adopted
            yield (str(replica.id), "lost"), last.lost


def processes(value: Literal["cpu_seconds", "resident"]) -> Callable[[Sight], Iterable[Sample]]:
    def samples(sight: Sight) -> Iterator[Sample]:
        for name, process in sight.view.processes.items() if sight.view else ():
            yield (name,), getattr(process, value)

    return samples


REPLICA = ("replica",)
ROWS = (
    Row("neat_up", "gauge", "Whether the stack's manager has answered this scrape.", (), lambda s: [((), s.up)]),
    Row(
        "neat_answer_age_seconds", "gauge", "How old the other values are: 0, unless neat_up is 0.", (),
        lambda sight: [((), sight.age)] if sight.view else [],
    ),
    Row("neat", "info", "The stack's name, address, device and version.", ("stack", "address", "device", "version")),
    Row("neat_uptime_seconds", "gauge", "Since the stack was started.", (), one(lambda v: v.uptime)),
    Row("neat_active_replicas", "gauge", "Replicas that take new connections.", (), one(lambda v: v.active)),
    Row(
        "neat_draining_replicas", "gauge", "Replicas that only serve what connections they have left.", (),
        one(lambda view: len(view.draining)),
    ),
    Row("neat_max_replicas", "gauge", "Replicas that there can be.", (), one(lambda v: v.max_replicas)),
    Row("neat_spares", "gauge", "Processes that wait for a replica's death, or are starting.", (),
        one(lambda view: view.spares)),
    Row("neat_spares_ready", "gauge", "Those of them that are ready.", (), one(lambda v: v.spares_ready)),
    Row("neat_programs", "gauge", "Programs that use the stack.", (), one(lambda v: v.programs)),
    Row("neat_pins", "gauge", "Flows that the kernel's map steers, not the table.", (), one(lambda v: v.pins)),
    Row(
        "neat_wrong_replica_packets", "counter", "Packets of a live flow that reached another replica than its own.",
        (), one(lambda view: view.wrong_replica),
    ),
    Row(
        "neat_device_queue_drops", "counter", "Frames that found a replica's queue, or link's, full.", (),
        one(lambda view: view.queue_drops),
    ),
    Row("neat_manager_restarts", "counter", "Managers that followed another since this endpoint was started.", (),
        one(lambda view: view.manager_restarts)),
    Row("neat_process_cpu_seconds", "counter", "Processor time of keeper, manager and link.", ("process",),
        processes("cpu_seconds")),
    Row("neat_process_resident_bytes", "gauge", "Their resident memory.", ("process",), processes("resident")),
    Row("neat_events", "counter", "What has happened, of the events that the stack remembers.", ("kind",),
        lambda sight: (((kind,), count) for kind, count in sight.gaps.events.items())),
    Row("neat_recovery_gap_seconds", "histogram", "How long nobody served a replica's connections.", ("kind",)),
    Row("neat_replica_up", "gauge", "Whether the replica serves its connections.", REPLICA,
        each(lambda replica: replica.state in SERVING)),
    Row("neat_replica_state", "gauge", f"1 for the state that it is in: {', '.join(STATES)}.", ("replica", "state"),
        states),
    Row("neat_replica_takes_new", "gauge", "Whether it takes new connections.", REPLICA, each(lambda r: r.takes_new)),
    Row("neat_replica_incarnation", "gauge", "Which of the replica's processes this is.", REPLICA,
        each(lambda replica: replica.incarnation)),
    Row("neat_replica_recoveries", "counter", "How often another process has taken its place.", REPLICA,
        each(lambda replica: replica.recoveries)),
    Row("neat_replica_last_recovery_gap_seconds", "gauge", "How long nobody served its connections the last time.",
        REPLICA, each(last_gaps)),
    Row("neat_replica_last_recovery_connections", "gauge", "What became of them: adopted, lost.",
        ("replica", "outcome"), last_connections),
    Row("neat_replica_connections", "gauge", "Connections that it has.", REPLICA, each(lambda r: r.connections)),
    Row("neat_replica_buckets", "gauge", "Buckets of the steering table that it owns.", REPLICA,
        each(lambda replica: replica.buckets)),
    Row("neat_replica_pins", "gauge", "Flows that are pinned to it.", REPLICA, each(lambda replica: replica.pins)),
    Row("neat_replica_requests", "counter", "Turns of a connection from sending data to receiving data.", REPLICA,
        counted("requests")),
    Row("neat_replica_receive_packets", "counter", "Packets taken in.", REPLICA, counted("packets_in")),
    Row("neat_replica_transmit_packets", "counter", "Packets sent.", REPLICA, counted("packets_out")),
    Row("neat_replica_receive_bytes", "counter", "Bytes taken in.", REPLICA, counted("bytes_in")),
    Row("neat_replica_transmit_bytes", "counter", "Bytes sent.", REPLICA, counted("bytes_out")),
    Row("neat_replica_connections_accepted", "counter", "Connections that peers have opened.", REPLICA,
        counted("connections_accepted")),
    Row("neat_replica_connections_opened", "counter", "Connections that programs have opened.", REPLICA,
        counted("connections_opened")),
    Row("neat_replica_connections_closed", "counter", "Connections that have ended.", REPLICA,
        counted("connections_closed")),
    Row("neat_replica_connections_reset", "counter", "Connections that have ended by a reset.", REPLICA,
        counted("connections_reset")),
    Row("neat_replica_retransmits", "counter", "Segments sent again.", REPLICA, counted("retransmits")),
    Row("neat_replica_cookies_sent", "counter", "SYNs answered with a cookie, under pressure.", REPLICA,
        counted("cookies_sent")),
    Row("neat_replica_cookies_taken", "counter", "Connections that came of a cookie.", REPLICA,
        counted("cookies_taken")),
    Row("neat_replica_cookies_refused", "counter", "Acknowledgments without the cookie that they should have had.",
        REPLICA, counted("cookies_refused")),
    Row("neat_replica_drops", "counter", "Packets dropped.", ("replica", "reason"), drops),
    Row("neat_replica_asleep_seconds", "counter", "Time in which it had nothing to do: 1 - rate() is how busy it is.",
        REPLICA, counted("slept_ns", 1e-9)),
    Row("neat_replica_cpu_seconds", "counter", "Processor time of this incarnation.", REPLICA,
        each(lambda replica: replica.cpu_seconds)),
    Row("neat_replica_resident_bytes", "gauge", "Its resident memory.", REPLICA, each(lambda r: r.resident)),
)  # fmt: skip


class StackCollector(Collector):
    """Looks at the stack at each scrape."""

    def __init__(self, look: Callable[[], Sight]) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        sight = self._look()
        for row in ROWS:
            yield family(row, sight)

    def describe(self) -> list[Metric]:
        """Nothing: to be registered shall not ask the stack."""
        return []


def family(row: Row, sight: Sight) -> Metric:
    """One metric with all its samples."""
    if row.kind == "histogram":
        histogram = HistogramMetricFamily(row.name, row.help, labels=row.labels)
        for kind, total in sight.gaps.sums.items():
            histogram.add_metric([kind], sight.gaps.buckets(kind), total)
        return histogram
    if row.kind == "info":
        info = InfoMetricFamily(row.name, row.help)
        if view := sight.view:
            values = (view.name, view.address, view.device, view.version or "")
            info.add_metric([], dict(zip(row.labels, values, strict=True)))
        return info
    family_of_kind = CounterMetricFamily if row.kind == "counter" else GaugeMetricFamily
    plain = family_of_kind(row.name, row.help, labels=row.labels)
    for labels, value in row.of(sight):
        plain.add_metric(labels, value)
    return plain
