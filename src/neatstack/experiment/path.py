"""The kernel and the stack as senders over one emulated link: how much arrives, and how they share it.

    kernel ── veth ──┐
                     host (forwards) ── near ══ link ══ far ── the receivers, on the kernel
    stack ─── TAP ───┘

Both senders' segments go through the same namespace, the same emulated link and to the same receiver, at the same time:
what differs is the sender.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from neatstack.experiment import link, tables
from neatstack.experiment.link import Shape
from neatstack.experiment.netns import Lab, LabError, Namespace, Process, Side, Stack, run
from neatstack.experiment.stage import module
from neatstack.experiment.tables import Columns, Files

FAR, NEAR = "10.79.1.2", "10.79.1.1"
FAR6, NEAR6 = "fd79:1::2", "fd79:1::1"
SENDER, ROUTER = "10.79.2.2", "10.79.2.1"
PORTS = {"kernel": 5301, "stack": 5302}
BUFFERS = 4 << 20  # bytes of a receive and of a send buffer of the stack: the product of rate and delay fits
SETTLE = 20.0  # seconds that iperf3 may take for more than its time


@dataclass(frozen=True)
class Flow:
    """One connection, from its receiver's side."""

    run: int
    sender: str
    number: int
    goodput_mbit: float
    retransmits: int


@dataclass(frozen=True)
class Link:
    """What the emulated link did, beside what it was told to do."""

    run: int
    rtt_ms: float  # the shortest of several echoes before the load
    frames: int  # towards the receiver
    lost: float  # share
    dropped: float  # share, by a full queue
    overrun: int  # frames that the emulation itself did not manage
    late_us: float  # how late frames left, mean
    worst_us: float


class Route:
    """The namespaces and the link between them, made in a lab; `options` are more for `neat up`."""

    def __init__(self, lab: Lab, shape: Shape, replicas: int = 1, options: Sequence[object] = ()) -> None:
        self.lab = lab
        self.stack = self.start_stack(lab, replicas, options)
        self.host, self.kernel = self.stack.host, lab.namespace("kernel")
        self.far, self.between = lab.namespace("far"), lab.namespace("link")
        lab.veth(self.host, f"{ROUTER}/24", self.kernel, f"{SENDER}/24")
        self.join(self.host, "near", NEAR, "left")
        self.join(self.far, "far", FAR, "right")
        self.sysctl(self.host, "ipv4/ip_forward", "1")
        for place, router in ((self.kernel, ROUTER), (self.far, NEAR)):
            place.ip("route", "add", "default", "via", router)
        self.start_link(shape)

    @staticmethod
    def start_stack(lab: Lab, replicas: int, options: Sequence[object]) -> Stack:
        config = f"receive_buffer = {BUFFERS}\nsend_buffer = {BUFFERS}\nsockets = 64\n"
        return lab.stack(replicas=replicas, config=config, options=["--gateway", Stack.host_address, *options])

    def join(self, place: Namespace, name: str, address: str, other: str) -> None:
        """A veth pair from a place into the link's namespace, both ends without offloads."""
        between = self.between
        run(
            [
                "ip",
                "link",
                "add",
                name,
                "netns",
                place.name,
                "type",
                "veth",
                "peer",
                "name",
                other,
                "netns",
                between.name,
            ]
        )
        for where, what in ((place, name), (between, other)):
            self.sysctl(where, f"ipv6/conf/{what}/disable_ipv6", "1")
            with where.entered():
                link.plain(what)
            where.ip("link", "set", what, "up")
        place.ip("address", "add", f"{address}/24", "dev", name)

    def speak_ipv6(self) -> None:
        """Also between the stack, which must have been given an address, and the far side."""
        for place, name, address in ((self.host, "near", NEAR6), (self.far, "far", FAR6)):
            self.sysctl(place, f"ipv6/conf/{name}/disable_ipv6", "0")
            place.ip("address", "add", f"{address}/64", "dev", name, "nodad")
        self.sysctl(self.host, "ipv6/conf/all/forwarding", "1")
        self.far.ip("route", "add", "default", "via", NEAR6)

    @staticmethod
    def sysctl(place: Namespace, name: str, value: str) -> None:
        with place.entered():
            Path("/proc/sys/net", name).write_text(value)

    def start_link(self, shape: Shape) -> None:
        self.link = self.between.spawn(*module("link", "left", "right", json.dumps(asdict(shape))))
        self.wait_link()

    def end_link(self) -> list[dict[str, int]]:
        """Stop the link; what has passed (`link.Passed`), to the far side and back."""
        self.link.stop()
        return json.loads(self.link.output.splitlines()[-1])

    def wait_link(self, limit: float = 10.0) -> None:
        end = time.monotonic() + limit
        while "ready" not in self.link.output:
            if not self.link.running() or time.monotonic() > end:
                raise LabError(f"the emulated link does not start: {self.link.output.strip()}")
            time.sleep(0.01)

    def sender(self, name: str) -> Side:
        return self.kernel if name == "kernel" else self.stack.programs

    def rtt_ms(self, count: int = 5) -> float:
        """The shortest round trip of some echoes. Raises LabError when none comes back."""
        said = self.kernel.run("ping", "-n", "-c", count, "-i", "0.05", "-w", "10", FAR, check=False)
        times = [float(word) for word in re.findall(r"time=([\d.]+)", said)]
        if not times:
            raise LabError(f"no echo over the emulated link: {said.strip()}")
        return min(times)

    def end(self, number: int, rtt_ms: float) -> Link:
        """Stop the link; what it says that it did."""
        data, back = self.end_link()
        frames = max(data["frames"], 1)
        sent = max(frames - data["lost"] - data["dropped"], 1)
        return Link(
            number, rtt_ms, data["frames"], data["lost"] / frames, data["dropped"] / frames,
            data["overrun"] + back["overrun"], data["late_total_ns"] / sent / 1000, data["late_ns"] / 1000,
        )  # fmt: skip


def measure(path: Route, number: int, senders: dict[str, int], seconds: int, omit: int, congestion: str) -> list[Flow]:
    """So many connections of each sender, all at the same time. `omit`: seconds at the start that do not count."""
    servers = [path.far.spawn("iperf3", "-s", "-1", "-p", PORTS[name]) for name in senders]
    time.sleep(0.3)
    clients: dict[str, Process] = {}
    for name, flows in senders.items():
        argv = ["iperf3", "-c", FAR, "-p", PORTS[name], "-P", flows, "-t", seconds, "-O", omit, "-J", "-C", congestion]
        clients[name] = path.sender(name).spawn(*argv)
    try:
        return [flow for name, client in clients.items() for flow in results(number, name, client, seconds + omit)]
    finally:
        for process in (*clients.values(), *servers):
            process.stop()


def results(number: int, name: str, client: Process, seconds: float) -> list[Flow]:
    """What one sender's iperf3 says in the end. Raises LabError."""
    client.wait(seconds + SETTLE)
    try:
        said = json.loads(client.output)
        streams = said["end"]["streams"]
    except (ValueError, KeyError):
        raise LabError(f"iperf3 of the {name}: {client.output[-300:].strip()}") from None
    return [
        Flow(number, name, place, stream["receiver"]["bits_per_second"] / 1e6, stream["sender"].get("retransmits", 0))
        for place, stream in enumerate(streams)
    ]


def jain(values: list[float]) -> float:
    """Jain's index of fairness: 1 when all are equal, 1/n when one has everything (RFC 5166 section 2.3)."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 0.0


TABLE: Columns = {
    "run": ("run", "d"),
    "kernel, Mbit/s a connection": ("kernel", ".2f"),
    "stack": ("stack", ".2f"),
    "stack / kernel": ("ratio", ".2f"),
    "Jain's index": ("jain", ".3f"),
    "echo, ms": ("rtt_ms", ".1f"),
    "lost": ("lost", ".2%"),
    "dropped by the queue": ("dropped", ".2%"),
    "frames left late, mean us": ("late_us", ".0f"),
    "not managed": ("overrun", "d"),
}


class Results(Files):
    """Each connection in flows.csv; the runs are summed up by finish()."""

    def __init__(self, out: Path) -> None:
        super().__init__(out)
        self.flows: list[Flow] = []
        self.links: list[Link] = []
        self.rows = self.open("flows.csv", list(Flow.__dataclass_fields__))

    def add(self, flows: list[Flow], done: Link) -> None:
        self.flows += flows
        self.links.append(done)
        self.rows.writerows(list(asdict(flow).values()) for flow in flows)
        self.flush()

    def goodput(self, sender: str, number: int | None = None) -> list[float]:
        """Mbit/s of each connection of a sender, of one run or of all."""
        return [f.goodput_mbit for f in self.flows if f.sender == sender and number in (None, f.run)]

    @property
    def ratio(self) -> float:
        """The stack's goodput for a connection by the kernel's, over all runs."""
        kernel, stack = self.goodput("kernel"), self.goodput("stack")
        return (sum(stack) / len(stack)) / (sum(kernel) / len(kernel)) if stack and sum(kernel) else 0.0

    def summary(self) -> list[dict[str, Any]]:
        rows = []
        for done in self.links:
            kernel, stack = self.goodput("kernel", done.run), self.goodput("stack", done.run)
            means = {name: sum(of) / max(len(of), 1) for name, of in (("kernel", kernel), ("stack", stack))}
            ratio = means["stack"] / means["kernel"] if means["kernel"] else None
            rows.append({**asdict(done), **means, "ratio": ratio, "jain": jain(kernel + stack)})
        return rows

    def finish(self, about: list[str]) -> str:
        """Write summary.csv and table.md; the table."""
        rows = self.summary()
        columns = list(rows[0]) if rows else ["run"]
        return self.close(columns, rows, tables.markdown(TABLE, rows, about))
