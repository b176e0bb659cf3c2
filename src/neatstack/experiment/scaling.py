"""The experiment of scaling: requests a second and CPU time of each, over replicas and server processes.

Both sides, the kernel's stack and ours with each number of replicas, run the same server with the same number of
processes on the same cores, under the same load, one after the other, again and again. docs/elasticity.md defines the
terms.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

from neatstack.experiment import instructions, lines, tables
from neatstack.experiment.instructions import Count
from neatstack.experiment.lines import Lines
from neatstack.experiment.netns import Lab
from neatstack.experiment.sides import Cores, Place, cpu_ns, kernel, neat
from neatstack.experiment.tables import Columns, Files, cell
from neatstack.experiment.wrk import CONNECTIONS, clean, wrk

KERNEL = 0  # replicas of the kernel's stack
CLIENT_SHARE = 1 / 3  # of the cores
TICKS = os.sysconf("SC_CLK_TCK")
COUNTED = (1, 2, 4, 8)  # replicas whose instructions are counted
US, NS = 1e6, 1e9  # in a second

OpenPlaces = Callable[[int, Sequence[int]], contextlib.AbstractContextManager[dict[int, Place]]]
Progress = Callable[[int, str], None]  # measurements done, what is measured now


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    replicas: tuple[int, ...]
    servers: tuple[int, ...]
    seconds: float
    rounds: int

    @property
    def steps(self) -> int:
        """Measurements of the load, counts of instructions, and the look at memory."""
        return len(self.servers) * (len(self.replicas) + 1) * self.rounds + len(COUNTED) + 1


@dataclass(frozen=True)
class Sample:
    """One measurement. CPU times are of one request."""

    servers: int  # processes
    replicas: int  # 0: the kernel's stack
    round: int
    rate: float  # requests/s
    requests: int
    server_us: float  # of the server's processes
    stack_us: float  # of the stack's processes: replicas, manager, link
    cores_us: float  # of the server side's cores, whatever they ran: also what the kernel does in interrupts


@dataclass
class Used:
    """CPU time up to now, in seconds."""

    server: float
    stack: float
    cores: float

    @classmethod
    def by(cls, place: Place) -> Used:
        stack = place.stack.pids() if place.stack else []
        server = [pid for pid in place.pids() if pid not in stack]
        return cls(total(server), total(stack), busy(place.cores.server))


def total(pids: Sequence[int]) -> float:
    """Seconds that processes have run; one that has ended meanwhile has run none."""
    used = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            used += cpu_ns(pid)
    return used / NS


def busy(cores: str) -> float:
    """Seconds that these cores have not been idle."""
    wanted = {f"cpu{number}" for number in cores.split(",")}
    seconds = 0.0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *times = line.split()
        if name in wanted:
            user, nice, system, _, _, irq, softirq, steal = map(int, times[:8])
            seconds += (user + nice + system + irq + softirq + steal) / TICKS
    return seconds


def sample(place: Place, servers: int, replicas: int, number: int, seconds: float) -> Sample:
    """Load one side for a time. Raises LabError when a request fails."""
    before = Used.by(place)
    done = clean(wrk(place, CONNECTIONS, seconds))
    after = Used.by(place)
    server, stack, cores = (
        (getattr(after, name) - getattr(before, name)) * US / done.requests for name in ("server", "stack", "cores")
    )
    return Sample(servers, replicas, number, done.rate, done.requests, server, stack, cores)


@contextlib.contextmanager
def places(lab: Lab, servers: int, replicas: Sequence[int]) -> Iterator[dict[int, Place]]:
    """The kernel's side and ours, by the number of replicas, all with so many server processes."""
    cores = Cores.choose(CLIENT_SHARE)
    with lab.scope():
        opened = {KERNEL: kernel(lab, cores, servers, bulk=False)}
        for number in replicas:
            opened[number] = neat(lab, cores, number, bulk=False, workers=servers)
        time.sleep(0.5)  # what starting has left to do is done with
        yield opened


SAMPLE_COLUMNS = [column.name for column in fields(Sample)]


class Results(Files):
    """samples.csv as they come; what sums them up is written by finish()."""

    def __init__(self, out: Path) -> None:
        super().__init__(out)
        self.samples: list[Sample] = []
        self.counts: list[Count] = []
        self.lines: Lines | None = None
        self.rows = self.open("samples.csv", SAMPLE_COLUMNS)

    def add(self, made: Sample) -> None:
        self.samples.append(made)
        self.rows.writerow([cell(value) for value in asdict(made).values()])
        self.flush()

    def summary(self) -> list[dict[str, Any]]:
        """A row for each number of server processes and replicas, in the order in which they were measured."""
        return [self.row(*which) for which in dict.fromkeys((each.servers, each.replicas) for each in self.samples)]

    def row(self, servers: int, replicas: int) -> dict[str, Any]:
        """Medians of the rounds; the ratios are medians of those of each round."""
        mine = [each for each in self.samples if (each.servers, each.replicas) == (servers, replicas)]
        other = {each.round: each for each in self.samples if (each.servers, each.replicas) == (servers, KERNEL)}
        pairs = [(each, other[each.round]) for each in mine if each.round in other]
        row: dict[str, Any] = {"servers": servers, "replicas": replicas, "rounds": len(mine)}
        row["stack"] = {KERNEL: "kernel", 1: "1 replica"}.get(replicas, f"{replicas} replicas")
        for name in ("rate", "server_us", "stack_us", "cores_us"):
            row[name] = median(getattr(each, name) for each in mine)
        row["rate_ratio"] = median(ours.rate / theirs.rate for ours, theirs in pairs) if pairs else None
        costs = [ours.cores_us / theirs.cores_us for ours, theirs in pairs if theirs.cores_us]
        row["cores_ratio"] = median(costs) if costs else None
        return row

    def count_rows(self) -> list[dict[str, Any]]:
        first = self.counts[0].each if self.counts else 1.0
        return [{**asdict(each), "each": each.each, "ratio": each.each / first} for each in self.counts]

    def finish(self, about: Sequence[str]) -> str:
        """Write summary.csv, instructions.csv, lines.csv and table.md; the tables."""
        counts = self.count_rows()
        writer = self.open("instructions.csv", list(COUNT_COLUMNS))
        writer.writerows([cell(row[name]) for name in COUNT_COLUMNS] for row in counts)
        writer = self.open("lines.csv", lines.COLUMNS)
        writer.writerows([cell(value) for value in asdict(part).values()] for part in (self.lines or Lines()).parts)
        summary = self.summary()
        text = tables.markdown(TABLE, summary, about)
        if counts:
            text += "\n" + tables.markdown(COUNT_TABLE, counts, COUNT_ABOUT)
        if self.lines:
            text += "\n" + self.lines.table()
        return self.close(list(SUMMARY_COLUMNS), summary, text)


SUMMARY_COLUMNS = (
    *("servers", "replicas", "rounds", "rate", "rate_ratio"),
    *("server_us", "stack_us", "cores_us", "cores_ratio"),
)
TABLE: Columns = {
    "server processes": ("servers", "d"),
    "stack": ("stack", ""),
    "requests/s": ("rate", ",.0f"),
    "ratio to the kernel": ("rate_ratio", ".2f"),
    "CPU of a request, µs: server": ("server_us", ".2f"),
    "stack ": ("stack_us", ".2f"),
    "all on these cores": ("cores_us", ".2f"),
    "ratio to the kernel ": ("cores_ratio", ".2f"),
}
COUNT_COLUMNS = ("replicas", "requests", "at_once", "instructions", "each", "ratio")
COUNT_TABLE: Columns = {
    "replicas": ("replicas", "d"),
    "requests": ("requests", ",d"),
    "instructions of the replicas": ("instructions", ",d"),
    "of each request": ("each", ",.1f"),
    "ratio to one replica": ("ratio", ".4f"),
}
COUNT_ABOUT = (
    f"The same requests on the same {instructions.CONNECTIONS} connections, {instructions.AT_ONCE} at a time at each "
    "replica; in user space, counted by callgrind.",
)


def experiment(plan: Plan, open_places: OpenPlaces, results: Results, tell: Progress) -> None:
    """All of it. Raises LabError."""
    done = 0
    shared: list[dict[str, Any]] = []
    between = 0
    for servers in plan.servers:
        tell(done, f"starting {servers} server processes on each side")
        with open_places(servers, plan.replicas) as opened:
            for number in range(1, plan.rounds + 1):
                for replicas, place in opened.items() if number % 2 else reversed(opened.items()):
                    tell(done, f"{servers} server processes on {place.name}, round {number}")
                    results.add(sample(place, servers, replicas, number, plan.seconds))
                    done += 1
            if stack := opened[max(opened)].stack:  # the most replicas, with programs
                shared, between = lines.shared_memory(stack.status)
    for replicas in COUNTED:
        tell(done, f"instructions of {replicas} replicas")
        results.counts.append(instructions.count(replicas, instructions.REQUESTS))
        done += 1
    tell(done, "who writes which memory")
    results.lines = Lines(lines.turns(), lines.STEPS, shared, between)
    tell(done + 1, "done")


def about(plan: Plan) -> list[str]:
    """What the table was measured with and on."""
    cores = Cores.choose(CLIENT_SHARE)
    one = "one core, which all replicas share with the servers" if cores.servers == 1 else f"{cores.servers} cores"
    return [
        f"wrk, {CONNECTIONS} connections kept alive, 20 bytes, lighttpd; medians of {plan.rounds} rounds of "
        f"{plan.seconds:g} s, alternately.",
        f"The server side has {one}; the client has {cores.clients}.",
        tables.machine(),
    ]
