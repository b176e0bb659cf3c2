"""What is measured: each function takes a Place and gives one number. A run with failures raises LabError."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from neatstack.experiment.netns import LabError
from neatstack.experiment.sides import IPERF, Place, cpu_ns
from neatstack.experiment.wrk import CONNECTIONS, clean, wrk

UDP_ECHO, UDP_PORT = Path(__file__).parent / "udp_echo.py", 5300


def keepalive(place: Place, seconds: float) -> float:
    return clean(wrk(place, CONNECTIONS, seconds)).rate


def connections(place: Place, seconds: float) -> float:
    return clean(wrk(place, CONNECTIONS, seconds, "-H", "Connection: close")).rate


def latency(place: Place, seconds: float) -> tuple[float, float]:
    """p50 and p99 of one connection, one request at a time."""
    result = clean(wrk(place, 1, seconds))
    return result.p50, result.p99


def bulk(place: Place, seconds: float, *options: object) -> float:
    """Gbit/s that arrived; from client to server, with -R the other way."""
    argv = ["iperf3", "-J", "-c", place.server.address, "-p", IPERF, "-t", f"{seconds:g}", *options]
    told = json.loads(place.run(*argv, timeout=seconds + 20))
    if "error" in told:
        raise LabError(f"iperf3: {told['error']}")
    return float(told["end"]["sum_received"]["bits_per_second"]) / 1e9


def datagrams(place: Place, seconds: float) -> float:
    """Requests a second that a UDP echo server has answered."""
    server = place.server.spawn(sys.executable, UDP_ECHO, "server", "0.0.0.0", UDP_PORT, cpu=place.cores.server)
    try:
        argv = [sys.executable, UDP_ECHO, "client", place.server.address, UDP_PORT, f"{seconds:g}"]
        told = json.loads(place.run(*argv, timeout=seconds + 20))
    finally:
        server.stop()
    if told["lost"]:
        raise LabError(f"{told['lost']} datagrams were lost")
    return float(told["rate"])


def idle_cpu(place: Place, seconds: float) -> float:
    """Per cent of a core that the server side uses with nothing to do."""
    time.sleep(0.5)  # what the load before has left is done with
    pids = place.pids()
    before, started = [cpu_ns(pid) for pid in pids], time.monotonic()
    time.sleep(seconds)
    used = sum(cpu_ns(pid) - old for pid, old in zip(pids, before, strict=True))
    return used / 1e7 / (time.monotonic() - started)


@dataclass(frozen=True)
class Metric:
    """A figure of a table. `goal`: what the ratio, or with `absolute` our own value, is to reach.

    `against`: the other side, which gives the ratio; "": there is none. `paired`: the ratio is the median of those
    of each round, which what slows down both sides for a while does not touch, not the ratio of the medians.
    """

    key: str
    title: str
    unit: str
    goal: float | None
    at_least: bool
    absolute: bool = False
    against: str = "kernel"
    paired: bool = False

    def met(self, ratio: float | None, neat: float | None) -> bool | None:
        """None: there is no goal."""
        if self.goal is None:
            return None
        value = neat if self.absolute else ratio
        if value is None:
            return False
        return value >= self.goal if self.at_least else value <= self.goal


METRICS = [
    Metric("keepalive", "keep-alive, 64 connections", "requests/s", 1.2, at_least=True),
    Metric("connections", "Connection: close, 64 at a time", "connections/s", 1.2, at_least=True),
    Metric("latency_p50", "latency of one connection, p50", "µs", 1.2, at_least=False),
    Metric("latency_p99", "latency of one connection, p99", "µs", None, at_least=False),
    Metric("bulk_in", "bulk to the server", "Gbit/s", 0.7, at_least=True),
    Metric("bulk_out", "bulk from the server", "Gbit/s", 0.7, at_least=True),
    Metric("datagrams", "UDP echo, 64 requests under way", "requests/s", None, at_least=True),
    Metric("idle_cpu", "idle CPU of all processes", "% of a core", 1.0, at_least=False, absolute=True),
    Metric("journal", "keep-alive", "requests/s", 0.95, at_least=True, against="no journal", paired=True),
    Metric("adoption", "100,000 connections adopted", "ms", 100, at_least=False, absolute=True, against=""),
    Metric("gap_p50", "gap at 30 kills, p50", "ms", 5, at_least=False, absolute=True, against=""),
    Metric("gap_p99", "gap at 30 kills, p99", "ms", 20, at_least=False, absolute=True, against=""),
    Metric("gap_floor", "gap in a second without a kill, p50", "ms", None, at_least=False, absolute=True, against=""),
    Metric("lost", "connections lost by 30 kills", "", 0, at_least=False, absolute=True, against=""),
    Metric("scaling_lost", "connections lost by 20 scalings", "", 0, at_least=False, absolute=True, against=""),
    Metric("scaling_failed", "requests failed at 20 scalings", "", 0, at_least=False, absolute=True, against=""),
    Metric("scaling_gap", "gap at 20 scalings, p99", "ms", None, at_least=False, absolute=True, against=""),
    Metric("renewal_lost", "connections lost by 20 renewals", "", 0, at_least=False, absolute=True, against=""),
    Metric("renewal_gap", "gap at 20 renewals, p99", "ms", None, at_least=False, absolute=True, against=""),
    Metric("instructions", "instructions, 8 replicas to 1", "", 1.03, at_least=False, absolute=True, against=""),
]

# One run gives one or two figures, on both sides. By what we are measured against.
Run = Callable[[Place, float], tuple[float, ...]]
RUNS: dict[str, dict[tuple[str, ...], Run]] = {
    "kernel": {
        ("keepalive",): lambda place, seconds: (keepalive(place, seconds),),
        ("connections",): lambda place, seconds: (connections(place, seconds),),
        ("latency_p50", "latency_p99"): latency,
        ("bulk_in",): lambda place, seconds: (bulk(place, seconds),),
        ("bulk_out",): lambda place, seconds: (bulk(place, seconds, "-R"),),
        ("datagrams",): lambda place, seconds: (datagrams(place, seconds),),
        ("idle_cpu",): lambda place, seconds: (idle_cpu(place, seconds),),
    },
    "no journal": {
        ("journal",): lambda place, seconds: (keepalive(place, seconds),),
    },
}
SLICED = ("no journal",)  # a second of one side, a second of the other: the difference is smaller than the noise
