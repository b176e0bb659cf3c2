"""make demo: lighttpd, unmodified, serves real HTTP clients over a stack of two replicas, one of which is killed."""

from __future__ import annotations

import sys
from statistics import median

from rich.console import Console

from bench.soak import soak
from neatstack.experiment.netns import Lab, LabError
from neatstack.experiment.sides import Cores, Place, neat
from neatstack.experiment.wrk import CONNECTIONS

SECONDS = 5.0
REPLICAS = 2
PATIENCE = 4.0  # seconds; an answer that is late is told, and no failure: the machine may be busy


def demo(console: Console) -> bool:
    console.print(f"$ neat up --replicas {REPLICAS}", style="bold")
    console.print("$ neat run -- lighttpd -D -f lighttpd.conf", style="bold")
    with Lab() as lab:
        place = neat(lab, Cores.choose(), REPLICAS, bulk=False)
        assert place.stack
        console.print(f"$ curl -i {place.url}", style="bold")
        print(place.client.run("curl", "-sSi", "-m", 5, place.url))
        console.print(f"$ wrk -t1 -c{CONNECTIONS} -d{SECONDS:g}s {place.url} &", style="bold")
        result = soak(place, SECONDS, PATIENCE, kill=lambda: kill(place, console))
        console.print("$ neat status", style="bold")
        print(place.stack.neat("status"))
    assert result.kill
    shares = ", ".join(f"replica {number} {share:.0%}" for number, share in enumerate(result.shares))
    print(f"requests/s: {result.rate:,.0f}")
    print(f"failures: {result.failures}")
    print(f"resets: {result.resets}; answers later than 1 s: {result.stalls}; slowest: {result.slowest * 1000:.1f} ms")
    print(f"share of the connections: {shares}")
    seen, others = result.kill.gaps, result.kill.others
    print(
        f"gap seen by clients of replica 0: {times(seen)}; failed requests: {result.failures}; lost: {result.kill.lost}"
    )
    print(f"in the same second, by clients of replica 1: {times(others)}")
    served = result.requests > 0 and all(result.shares) and len(result.shares) == REPLICAS
    return served and not (result.failures or result.resets or result.kill.lost)


def times(gaps: list[float]) -> str:
    if not gaps:
        return "none was watched"
    return f"median {median(gaps) * 1000:.1f} ms, longest {max(gaps) * 1000:.1f} ms"


def kill(place: Place, console: Console) -> None:
    """Typed into another window, while the load runs."""
    assert place.stack
    console.print("$ neat kill 0", style="bold")
    print(place.stack.neat("kill", 0), end="", flush=True)


def main() -> int:
    try:
        return not demo(Console())
    except LabError as error:
        print(f"demo: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
