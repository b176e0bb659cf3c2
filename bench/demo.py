"""make demo: lighttpd, unmodified, serves real HTTP clients over a stack of two replicas."""

from __future__ import annotations

import sys

from rich.console import Console

from bench.measure import CONNECTIONS
from bench.sides import Cores, neat
from bench.soak import soak
from neatstack.experiment.netns import Lab, LabError

SECONDS = 5.0
REPLICAS = 2


def demo(console: Console) -> bool:
    console.print(f"$ neat up --replicas {REPLICAS}", style="bold")
    console.print("$ neat run -- lighttpd -D -f lighttpd.conf", style="bold")
    with Lab() as lab:
        place = neat(lab, Cores.choose(), REPLICAS, bulk=False)
        assert place.stack
        console.print(f"$ curl -i {place.url}", style="bold")
        print(place.client.run("curl", "-sSi", "-m", 5, place.url))
        console.print(f"$ wrk -t1 -c{CONNECTIONS} -d{SECONDS:g}s {place.url}", style="bold")
        result = soak(place, SECONDS)
        console.print("$ neat status", style="bold")
        print(place.stack.neat("status"))
    shares = ", ".join(f"replica {number} {share:.0%}" for number, share in enumerate(result.shares))
    print(f"requests/s: {result.rate:,.0f}")
    print(f"failures: {result.failures}")
    print(f"resets: {result.resets}; answers later than 1 s: {result.stalls}; slowest: {result.slowest * 1000:.1f} ms")
    print(f"share of the connections: {shares}")
    return result.good and all(result.shares) and len(result.shares) == REPLICAS


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
