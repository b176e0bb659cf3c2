"""Better ways to single hosts, as routers tell of them (RFC 1122 section 3.2.2.2, RFC 4861 section 8).

What a redirect must be like to be believed, link says: it comes from the router that is used for that destination.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from ipaddress import ip_address

from neatstack.control.pages import MOST_REDIRECTS, Address, Route

LIFETIME = 300.0  # seconds after the last redirect, as Linux (ip_rt_gc_timeout)


def way(host: Address, hop: Address) -> Route:
    """To a host by another, or by itself."""
    return Route(host, host.max_prefixlen, None if hop == host else hop)


class Redirects:
    """The ways learned, at most MOST_REDIRECTS; `changed` is called when there are others."""

    def __init__(self, allowed: bool, changed: Callable[[], None]) -> None:
        self.allowed = allowed
        self.counters: Counter[str] = Counter()
        self._changed = changed
        self._known: dict[bytes, tuple[bytes, float]] = {}  # destination -> who takes its packets, until when

    def __iter__(self) -> Iterator[Route]:
        return (way(ip_address(destination), ip_address(hop)) for destination, (hop, _) in self._known.items())

    def to_data(self) -> dict[str, str]:
        """For the manager, who makes a `way` of each."""
        return {str(ip_address(destination)): str(ip_address(hop)) for destination, (hop, _) in self._known.items()}

    # rfc: 1122:redirect, 4861:8.3-1
    def learn(self, destination: bytes, hop: bytes, now: float) -> None:
        """Packets to `destination` go to `hop`, itself if it is on the link. Without room the oldest way ends."""
        self.counters["taken"] += 1
        before = self._known.pop(destination, None)
        if len(self._known) == MOST_REDIRECTS:
            del self._known[next(iter(self._known))]
        self._known[destination] = hop, now + LIFETIME
        if before is None or before[0] != hop:
            self._changed()

    def gone(self, hop: bytes) -> None:
        """Nobody answers there: what it has taken goes by the router again."""
        self._drop([destination for destination, (other, _) in self._known.items() if other == hop])

    def run_timers(self, now: float) -> float | None:
        """End what is over; when the next is."""
        self._drop([destination for destination, (_, until) in self._known.items() if until <= now])
        return min((until for _, until in self._known.values()), default=None)

    def _drop(self, destinations: list[bytes]) -> None:
        for destination in destinations:
            del self._known[destination]
        if destinations:
            self._changed()
