"""What routers advertise: themselves, prefixes, the link's MTU (RFC 4861 section 6.3, RFC 4862 section 5.5)."""

import math
import secrets
import time
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Any

from neatstack.control import frames6
from neatstack.control.addressing import SMALLEST_MTU
from neatstack.control.frames6 import Packet, Prefix, Router
from neatstack.control.neighbourhood import Neighbourhood
from neatstack.control.own6 import HOST, Own, OwnAddresses

SOLICITATIONS = 3  # RFC 4861 section 10: MAX_RTR_SOLICITATIONS
SOLICIT_EVERY = 4.0  # RTR_SOLICITATION_INTERVAL, seconds
MOST_ROUTERS = 8
TWO_HOURS = 7200.0
INFINITE = 0xFFFFFFFF
RETRANSMIT = 0.1, 10.0  # seconds between solicitations that a router may ask for


class Routers:
    """The default routers of the link. With `fixed`, the operator's word goes before theirs; without `slaac`, no
    addresses are made of their prefixes."""

    def __init__(
        self,
        own: OwnAddresses,
        neighbours: Neighbourhood,
        mtu: int,
        fixed: bytes | None,
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
        self.chosen: bytes | None = fixed
        self._changed, self._solicit = changed, solicit
        self.solicitations = 0
        self.solicit_at: float | None = None
        self.answered = False  # a default router has spoken since we have begun to ask

    # rfc: 4861:6.3.7-1
    def start(self) -> None:
        """Ask who is there, after a moment, so that hosts that start together do not ask together (6.3.7)."""
        self.solicitations = 0
        self.answered = False
        self.solicit_at = time.monotonic() + secrets.randbelow(1000) / 1000

    def resume(self, told: dict[str, Any]) -> None:
        """What a former link has known: it is asked for again, and holds until then."""
        self.mtu, self.hops = told["mtu"], told["hops"] or self.hops
        if self.fixed is None and told["router"] is not None:
            self.chosen = IPv6Address(told["router"]).packed
            self.known[self.chosen] = told["router_until"]

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
        if self.slaac:
            for prefix in told.options.prefixes:
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

    # rfc: 4861:6.3.6-1
    def choose(self, now: float) -> None:
        """The default router: the present one while it answers, else one that does, else any (6.3.6)."""
        if self.fixed is not None:
            return
        for router, until in list(self.known.items()):
            if until <= now:
                del self.known[router]
        answering = [router for router in self.known if self.neighbours.known(router) is not None]
        best = answering or list(self.known)
        chosen = self.chosen if self.chosen in best else best[0] if best else None
        if chosen != self.chosen:
            self.chosen = chosen
            if chosen is not None:
                self.neighbours.want(chosen)
            self._changed()

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

    # rfc: 4861:6.3.7-2
    def run_timers(self, now: float) -> float | None:
        """Ask for routers, once also if one has spoken already (6.3.7), forget those whose time is over; when the next
        is due."""
        if self.solicit_at is not None and self.solicit_at <= now:
            self._solicit()
            self.solicitations += 1
            more = self.solicitations < SOLICITATIONS and not self.answered
            self.solicit_at = now + SOLICIT_EVERY if more else None
        if any(until <= now for until in self.known.values()):
            self.choose(now)
        due = [self.solicit_at] if self.solicit_at is not None else []
        return min([*due, *self.known.values()], default=None)
