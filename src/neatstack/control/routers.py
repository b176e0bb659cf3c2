"""What routers advertise: themselves, prefixes, the link's MTU (RFC 4861 section 6.3, RFC 4862 section 5.5)."""

import math
import secrets
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from neatstack.control import frames6
from neatstack.control.addressing import SMALLEST_MTU
from neatstack.control.default_router import DefaultRouter
from neatstack.control.frames6 import Packet, Prefix, Router
from neatstack.control.neighbourhood import Neighbourhood
from neatstack.control.own6 import HOST, Own, OwnAddresses
from neatstack.control.pages import MOST_PREFIXES, Route

SOLICIT_AFTER, SOLICIT_EVERY = 4.0, 3600.0  # RFC 7559 section 2: IRT and MRT, seconds
MOST_ROUTERS = 8
TWO_HOURS = 7200.0
INFINITE = 0xFFFFFFFF
RETRANSMIT = 0.1, 10.0  # seconds between solicitations that a router may ask for


class Routers:
    """The default routers of the link. With `fixed`, in order of preference, the operator's word goes before theirs;
    without `slaac`, no addresses are made of their prefixes."""

    def __init__(
        self,
        own: OwnAddresses,
        neighbours: Neighbourhood,
        mtu: int,
        fixed: Sequence[bytes],
        slaac: bool,
        changed: Callable[[], None],
        solicit: Callable[[], None],
        hops: int,
    ) -> None:
        self.own, self.neighbours = own, neighbours
        self.link_mtu = mtu
        self.fixed, self.slaac = fixed, slaac
        self.mtu: int | None = None  # that a router has told
        self.hops = hops  # hop limit: the operator's, until a router tells another
        self.known: dict[bytes, float] = {}  # address -> until when it is a default router
        self.on_link: dict[IPv6Network, float] = {}  # prefixes whose hosts are neighbours -> until when
        self.default = DefaultRouter(neighbours, self._candidates, changed, keep=not fixed)
        self._changed, self._solicit = changed, solicit
        self.solicitations = 0
        self.solicit_at: float | None = None
        self.solicit_after = SOLICIT_AFTER
        self.answered = False  # a default router has spoken since we have begun to ask

    def _candidates(self) -> list[bytes]:
        return list(self.fixed or self.known)

    @property
    def chosen(self) -> bytes | None:
        """The default router."""
        return self.default.chosen

    # rfc: 4861:6.3.7-1
    def start(self) -> None:
        """Ask who is there, after a moment, so that hosts that start together do not ask together (6.3.7)."""
        self.solicitations = 0
        self.solicit_after = SOLICIT_AFTER
        self.answered = False
        self.solicit_at = time.monotonic() + secrets.randbelow(1000) / 1000

    def resume(self, told: dict[str, Any]) -> None:
        """What a former link has known: it is asked for again, and holds until then."""
        self.mtu, self.hops = told["mtu"], told["hops"] or self.hops
        self.on_link = {IPv6Network(prefix): until or math.inf for prefix, until in told.get("on_link", {}).items()}
        if not self.fixed and told["router"] is not None:
            router = IPv6Address(told["router"]).packed
            self.known[router] = told["router_until"]
            self.default.chosen = router

    # rfc: 4861:6.3.4-1 6.3.7-3 6.3.4-3 6.3.4-4
    def receive(self, packet: Packet, told: Router) -> None:
        """A valid advertisement (RFC 4861 section 6.3.4)."""
        now = time.monotonic()
        if told.lifetime:
            self.answered = True
            if self.solicitations:
                self.solicit_at = None
        if told.options.link is not None:
            self.neighbours.hear(packet.source, told.options.link)
        if told.retransmit:
            every = min(max(told.retransmit / 1000, RETRANSMIT[0]), RETRANSMIT[1])
            self.neighbours.ask_every = self.own.ask_every = every
        before = self.mtu, self.hops
        self.hops = told.hops or self.hops
        if told.options.mtu is not None and SMALLEST_MTU <= told.options.mtu <= self.link_mtu:
            self.mtu = told.options.mtu
        self._note(packet.source, told.lifetime, now)
        for prefix in told.options.prefixes:
            if prefix.covers_ipv4:
                continue  # replicas have both families in one table of routes
            self._take_on_link(prefix, now)
            if self.slaac:
                self._take_prefix(prefix, now)
        if (self.mtu, self.hops) != before:
            self._changed()
        self.choose(now)

    # rfc: 4861:6.3.4-2
    def _note(self, router: bytes, lifetime: int, now: float) -> None:
        if not lifetime:
            self.known.pop(router, None)
        elif router in self.known or len(self.known) < MOST_ROUTERS:
            self.known[router] = now + lifetime

    # rfc: 4861:7.2.5-6
    def forget(self, address: bytes) -> None:
        """A neighbour says that it is no router (any more)."""
        self.known.pop(address, None)

    def choose(self, now: float) -> None:
        """The default router, of those whose lifetime is not over."""
        for router, until in list(self.known.items()):
            if until <= now:
                del self.known[router]
        self.default.choose()

    # rfc: 4861:6.3.4-6, 5942:4-2 4-3
    def _take_on_link(self, prefix: Prefix, now: float) -> None:
        """RFC 4861 section 6.3.4: whose hosts are on the link. Link-local ones always are."""
        network = prefix.hosts
        if not prefix.on_link or frames6.is_link_local(prefix.network) or frames6.is_multicast(prefix.network):
            return
        was = network in self.on_link
        if prefix.valid and (was or len(self.on_link) < MOST_PREFIXES):
            self.on_link[network] = now + prefix.valid if prefix.valid != INFINITE else math.inf
        elif was:
            del self.on_link[network]
        if was != (network in self.on_link):
            self._changed()

    def routes(self) -> list[Route]:
        """The prefixes on the link, as ways."""
        return [Route(network.network_address, network.prefixlen) for network in self.on_link]

    # rfc: 4862:5.5.3-1 5.5.3-2
    def _take_prefix(self, prefix: Prefix, now: float) -> None:
        """RFC 4862 section 5.5.3, with its letters."""
        if not prefix.autonomous or frames6.is_link_local(prefix.network) or frames6.is_multicast(prefix.network):
            return  # (a), (b)
        if prefix.preferred > prefix.valid or IPv6Address(prefix.network).is_loopback:
            return  # (c)
        preferred_until = now + prefix.preferred if prefix.preferred != INFINITE else math.inf
        if prefix.length != 64:
            return  # (d), (e): no prefix of ours
        of_it = [own for own in self.own if own.formed and own.address[:8] == prefix.network[:8]]
        if of_it:
            self._refresh(of_it[0], prefix, preferred_until, now)
        elif prefix.valid:
            valid_until = now + prefix.valid if prefix.valid != INFINITE else math.inf
            length = prefix.length if prefix.on_link else HOST
            self.own.form(prefix.network, length, valid_until, preferred_until)

    # rfc: 4862:5.5.3-3
    def _refresh(self, own: Own, prefix: Prefix, preferred_until: float, now: float) -> None:
        """(e): a stranger's word does not end an address at once."""
        was_preferred = own.preferred_until > now
        own.preferred_until = preferred_until
        if prefix.valid == INFINITE:
            own.valid_until = math.inf
        elif prefix.valid > TWO_HOURS or now + prefix.valid > own.valid_until:
            own.valid_until = now + prefix.valid
        elif own.valid_until - now > TWO_HOURS:
            own.valid_until = now + TWO_HOURS
        if was_preferred != (own.preferred_until > now):
            self._changed()

    # rfc: 4861:6.3.7-2, 8504:5.4-resilient
    def run_timers(self, now: float) -> float | None:
        """Ask for routers, once also if one has spoken already (6.3.7), forget those whose time is over; when the next
        is due."""
        if self.solicit_at is not None and self.solicit_at <= now:
            self._solicit()
            self.solicitations += 1
            after = self.solicit_after * (900 + secrets.randbelow(201)) / 1000
            self.solicit_after = min(2 * self.solicit_after, SOLICIT_EVERY)  # as long as nobody answers: RFC 7559
            self.solicit_at = None if self.answered else now + after
        if any(until <= now for until in self.known.values()):
            self.choose(now)
        over = [network for network, until in self.on_link.items() if until <= now]
        for network in over:
            del self.on_link[network]
        if over:
            self._changed()
        due = [until for until in (*self.known.values(), *self.on_link.values()) if not math.isinf(until)]
        due += [self.solicit_at] if self.solicit_at is not None else []
        if self.own.link_local is not None and (ask_at := self.default.run_timers(now)) is not None:
            due.append(ask_at)
        return min(due, default=None)
