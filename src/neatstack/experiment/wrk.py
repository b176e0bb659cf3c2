"""What wrk, an HTTP load generator, measures."""

from __future__ import annotations

import re
from dataclasses import dataclass

from neatstack.experiment.netns import LabError
from neatstack.experiment.sides import Place

CONNECTIONS = 64
UNITS = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 60e6}
GRACE = 20.0  # seconds beyond its duration in which it must have ended


@dataclass
class Wrk:
    """What wrk printed. Latencies in microseconds."""

    rate: float
    requests: int
    p50: float
    p99: float
    slowest: float
    failures: int
    text: str


def wrk(place: Place, connections: int, seconds: float, *options: object) -> Wrk:
    argv = ["wrk", f"-t{place.cores.clients}", f"-c{connections}", f"-d{seconds:g}s", "--latency", *options, place.url]
    return parse(place.run(*argv, timeout=seconds + GRACE))


def parse(text: str) -> Wrk:
    rate = re.search(r"Requests/sec:\s*([\d.]+)", text)
    requests = re.search(r"(\d+) requests in", text)
    p50, p99 = (re.search(rf"\s{part}%\s+([\d.]+)(us|ms|s|m)", text) for part in (50, 99))
    slowest = re.search(r"Latency\s+\S+\s+\S+\s+([\d.]+)(us|ms|s|m)", text)
    if not (rate and requests and p50 and p99 and slowest):
        raise LabError(f"wrk did not report:\n{text}")
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    other = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    failures = sum(map(int, errors.groups())) if errors else 0
    failures += int(other[1]) if other else 0
    times = [float(found[1]) * UNITS[found[2]] for found in (p50, p99, slowest)]
    return Wrk(float(rate[1]), int(requests[1]), times[0], times[1], times[2], failures, text)


def clean(result: Wrk) -> Wrk:
    if result.failures or not result.requests:
        raise LabError(f"{result.failures} of {result.requests} requests failed:\n{result.text}")
    return result
