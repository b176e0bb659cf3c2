"""IPv6 on the link: neighbour discovery (RFC 4861), the stack's addresses, its routers, its groups, and echo.

Whatever is not exactly right is counted and dropped. Who is not asked, and asks nothing of us, is not believed.
"""

import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv6Address, IPv6Interface, IPv6Network
from typing import Any

from neatstack.control import frames6
from neatstack.control.fragments6 import Fragments6
from neatstack.control.frames6 import OVERRIDE, ROUTER, SOLICITED, Neighbourly, Packet
from neatstack.control.listeners6 import Listeners
from neatstack.control.neighbourhood import Neighbourhood
from neatstack.control.own6 import Own, OwnAddresses
from neatstack.control.packets import ERRORS
from neatstack.control.pages import Route
from neatstack.control.redirects import Redirects
from neatstack.control.routers import Routers
from neatstack.control.routes import next_hop

DEFEND_EVERY = 10.0  # seconds between two complaints about the same address


class Discovery:
    """IPv6 for one device. `send` takes a hardware address and an IPv6 packet; `changed` is told of what replicas and
    programs have to know: see `to_data`."""

    def __init__(
        self,
        mac: bytes,
        mtu: int,
        most: int,
        secret: bytes,
        interface: str,
        neighbours: Neighbourhood,
        send: Callable[[bytes, bytes], None],
        changed: Callable[[], None],
        gateways: Sequence[bytes],
        slaac: bool,
        routes: Sequence[Route],
        redirects: Redirects,
        hops: int = frames6.DEFAULT_HOPS,
        transmits: int = 1,
        errors: int = ERRORS,
    ) -> None:
        self.mac = mac
        self.routes, self.redirects = routes, redirects
        self.neighbours = neighbours
        self._send, self._changed = send, changed
        self.counters: Counter[str] = Counter()
        self.listeners = Listeners(lambda: self.own.link_local or frames6.UNSPECIFIED, self._report)
        self.own = OwnAddresses(secret, interface, most, self._to_group, self._own_changed, self.listeners, transmits)
        self.routers = Routers(self.own, neighbours, mtu, gateways, slaac, changed, self._solicit_routers, hops)
        self.fragments = Fragments6(self._tell, self.own.has, errors)
        self.defended_at = -DEFEND_EVERY
        self._speaks = False

    # rfc: 4862:5.3-1
    def start(self, addresses: Iterable[IPv6Interface], before: dict[str, Any] | None) -> None:
        """With the addresses that the operator has given; those that a former link has told of are in use already."""
        self.listeners.join(frames6.ALL_NODES, time.monotonic())
        if before is not None:
            for data in before["addresses"]:
                self.own.add(Own.from_data(data))
            self.routers.resume(before)
        given = [(interface.ip.packed, interface.network.prefixlen) for interface in addresses]
        if not any(frames6.is_link_local(own.address) for own in self.own):
            if not any(frames6.is_link_local(address) for address, _ in given):
                self.own.form(frames6.LINK_LOCAL + bytes(8), 64)
        for address, length in given:
            self.own.add(Own(address, length))
        self._own_changed()

    def to_data(self) -> dict[str, Any]:
        """What the manager has to know, and the next link."""
        router = self.routers.chosen
        return {
            "addresses": [own.to_data() for own in self.own.assigned()],
            "router": None if router is None else str(IPv6Address(router)),
            "router_until": None if router is None else self.routers.known.get(router),
            "on_link": {
                str(network): None if math.isinf(until) else until for network, until in self.routers.on_link.items()
            },
            "mtu": self.routers.mtu,
            "hops": self.routers.hops,
        }

    # rfc: 4861:8.1-1 8.3-2 6.2.4-1, 4443:2.4-informational, 9777:5-unknown
    def receive(self, frame: bytes) -> Packet | None:
        """Handle a frame; what it does not concern itself with, but is to us and right, is returned."""
        fragment = frames6.parse_fragment(frame, self.mac)
        if fragment is not None:
            return self._put_together(frame, fragment)
        packet = frames6.parse(frame, self.mac)
        if packet is None:
            self.counters["malformed"] += 1
            return None
        now = time.monotonic()
        match packet.kind:
            case frames6.SOLICITATION:
                self._count(self._solicited(packet))
            case frames6.ADVERTISEMENT:
                self._count(self._advertised(packet))
            case frames6.ROUTER_ADVERTISEMENT:
                router = frames6.parse_router(packet)
                self._count(router is not None)
                if router is not None:
                    self.routers.receive(packet, router)
            case frames6.ROUTER_SOLICITATION:
                # rfc: 4861:6.2.6-1
                pass  # we are no router
            case frames6.REDIRECT:
                self._count(self._redirected(packet))
            case frames6.QUERY:
                self._count(self.listeners.query(packet, now))
            case _:
                return packet if self._is_to_us(packet) else None
        return None

    # rfc: 8200:4.5-reassembly, 6980:5-ignored
    def _put_together(self, frame: bytes, fragment: bytes) -> Packet | None:
        """The message that is complete now. Those of discovery never come in fragments (RFC 6980 section 5)."""
        made = self.fragments.take(fragment)
        packet = None if made is None else frames6.parse(frame[: frames6.ETHERNET.size] + made, self.mac)
        if packet is None or packet.kind in frames6.DISCOVERY or packet.kind == frames6.QUERY:
            return None
        return packet if self._is_to_us(packet) else None

    def _count(self, valid: bool) -> None:
        if not valid:
            self.counters["malformed"] += 1

    def _is_to_us(self, packet: Packet) -> bool:
        to_us = self.own.has(packet.destination) or packet.destination == frames6.ALL_NODES
        return to_us and packet.source != frames6.UNSPECIFIED and not self.own.has(packet.source)

    # ---- neighbours ----

    # rfc: 4861:7.2.3-1 7.2.4-1 7.2.3-2 7.2.3-3 7.2.4-2, 4862:5.4.3-2 5.4.3-3 5.4.3-4 5.4-2 5.4.2-3
    def _solicited(self, packet: Packet) -> bool:
        """RFC 4861 sections 7.2.3 and 7.2.4; of tentative addresses RFC 4862 section 5.4.3."""
        asked = frames6.parse_solicitation(packet)
        if asked is None:
            return False
        if not self.own.has(asked.target):
            if packet.source == frames6.UNSPECIFIED and packet.source_mac != self.mac:
                self.own.found_elsewhere(asked.target, packet.source_mac)
            return True
        source = self.own.link_local if packet.source == frames6.UNSPECIFIED else asked.target
        if packet.source == frames6.UNSPECIFIED:
            self._answer(source or asked.target, frames6.ALL_NODES, asked.target, OVERRIDE)
            return True
        mac = asked.options.link or packet.source_mac
        if asked.options.link is not None and self.is_neighbour(packet.source):
            self.neighbours.hear(packet.source, mac)
        flags = SOLICITED | OVERRIDE
        self._send_to(mac, asked.target, packet.source, frames6.advertisement(asked.target, flags, self.mac))
        return True

    def _answer(self, source: bytes, group: bytes, target: bytes, flags: int) -> None:
        self._to_group(source, group, frames6.advertisement(target, flags, self.mac))

    # rfc: 4861:7.2.5-1
    def _advertised(self, packet: Packet) -> bool:
        """RFC 4861 section 7.2.5; about our own addresses RFC 4862 section 5.4.4."""
        told = frames6.parse_advertisement(packet)
        if told is None:
            return False
        if told.target in self.own.by_address:
            if packet.source_mac != self.mac:
                self._conflict(told.target, packet.source_mac)
            return True
        entry = self.neighbours.table.get(told.target)
        if entry is None:
            return True
        if self._learn(told, self.neighbours.known(told.target)) and not told.flags & ROUTER:
            self.routers.forget(told.target)
        self.routers.choose(time.monotonic())
        return True

    # rfc: 4861:7.2.5-2 7.2.5-3 7.2.5-4 7.3.1-1
    def _learn(self, told: Neighbourly, known: bytes | None) -> bool:
        """False: what it says is not believed, until that neighbour was asked itself."""
        mac, waited = told.options.target_link, told.target in self.neighbours.enquiries
        if known is None:
            if mac is not None and waited and told.flags & SOLICITED:
                self.neighbours.learn(told.target, mac)
            elif mac is not None and waited:
                self.neighbours.hear(told.target, mac)
            return mac is not None
        if mac is not None and mac != known and not told.flags & OVERRIDE:
            self.neighbours.doubt(told.target)
            return False
        if told.flags & SOLICITED and waited:
            self.neighbours.learn(told.target, mac or known)
        elif mac is not None and mac != known:
            self.neighbours.hear(told.target, mac)
        return True

    def _redirected(self, packet: Packet) -> bool:
        """RFC 4861 section 8.3: from the router that takes such packets now, and to another neighbour."""
        told = frames6.parse_redirect(packet)
        if told is None:
            return False
        taken = self.redirects.allowed and self.next_hop(told.destination) == packet.source
        if not taken or told.target == packet.source or self.own.has(told.target) or self.own.has(told.destination):
            self.redirects.counters["refused"] += 1
            return True
        self.redirects.learn(told.destination, told.target, time.monotonic())
        if told.mac is not None:
            self.neighbours.hear(told.target, told.mac)
        self.neighbours.want(told.target)
        return True

    def _conflict(self, address: bytes, mac: bytes) -> None:
        """Somebody else says that it is theirs."""
        if not self.own.has(address):
            self.own.found_elsewhere(address, mac)
            return
        now = time.monotonic()
        if now - self.defended_at >= DEFEND_EVERY:
            self.defended_at = now
            print(f"link: {IPv6Address(address)} is also used by {mac.hex(':')}", file=sys.stderr, flush=True)
            self._answer(address, frames6.ALL_NODES, address, OVERRIDE)

    # rfc: 5942:4-1 4-4a 4-4b 3-nd
    def is_neighbour(self, address: bytes) -> bool:
        """An address of a host on our link, not ourselves (RFC 4861 section 5.2: on-link)."""
        if frames6.is_multicast(address) or self.own.has(address) or address == frames6.UNSPECIFIED:
            return False
        if frames6.is_link_local(address) or address in self.routers.fixed:
            return True
        return self._way(address) == address

    def _way(self, address: bytes) -> bytes | None:
        networks = (IPv6Network((own.address, own.length), strict=False) for own in self.own.assigned())
        hop = next_hop(IPv6Address(address), networks, [*self.routes, *self.routers.routes(), *self.redirects])
        return None if hop is None else hop.packed

    def next_hop(self, address: bytes) -> bytes | None:
        """Who takes packets for an address; None: nobody."""
        return address if self.is_neighbour(address) else self._way(address) or self.routers.chosen

    # rfc: 4861:7.2.2-1
    def ask(self, address: bytes, mac: bytes | None) -> None:
        """Solicit a neighbour (RFC 4861 section 7.2.2): everybody who may be it, or the one that we believe to know."""
        source = self.own.source_for(address)
        if source is None:
            return  # nothing to be answered to yet
        message = frames6.solicitation(address, self.mac)
        if mac is None:
            self._to_group(source, frames6.solicited_node(address), message)
        else:
            self._send_to(mac, source, address, message)

    # ---- sending ----

    # rfc: 4443:4.2-echo 4.2-group 2.2-source
    def reply(self, packet: Packet) -> None:
        """Answer an echo request (RFC 4443 section 4.2)."""
        to_group = frames6.is_multicast(packet.destination)
        source = self.own.source_for(packet.source) if to_group else packet.destination
        if source is None:
            return
        message = bytes((frames6.ECHO_REPLY, 0, 0, 0)) + packet.message[4:]
        self._send(packet.source_mac, frames6.build(source, packet.source, message, self.routers.hops))

    def _tell(self, source: bytes, destination: bytes, message: bytes) -> None:
        """Send to whoever takes packets for an address, if that is known."""
        hop = self.next_hop(destination)
        mac = None if hop is None else self.neighbours.known(hop)
        if mac is not None:
            self._send(mac, frames6.build(source, destination, message, self.routers.hops))

    # rfc: 6980:5-sent
    def _send_to(self, mac: bytes, source: bytes, destination: bytes, message: bytes) -> None:
        self._send(mac, frames6.build(source, destination, message))

    def _to_group(self, source: bytes, group: bytes, message: bytes) -> None:
        self._send_to(frames6.group_mac(group), source, group, message)

    # rfc: 9777:5-header 5.2.14-source
    def _report(self, source: bytes, group: bytes, message: bytes) -> None:
        """RFC 9777 section 5: with a hop limit of 1 and the option that makes routers look."""
        self._send(frames6.group_mac(group), frames6.build(source, group, message, 1, frames6.ROUTER_ALERT))

    def _solicit_routers(self) -> None:
        source = self.own.link_local
        message = frames6.router_solicitation(self.mac if source else None)
        self._to_group(source or frames6.UNSPECIFIED, frames6.ALL_ROUTERS, message)

    # rfc: 4862:5.5-2
    def _own_changed(self) -> None:
        """An address may be used from now on, or no more. With the first link-local one, routers are looked for."""
        speaks = self.own.link_local is not None
        if speaks and not self._speaks and (self.routers.slaac or not self.routers.fixed):
            self.routers.start()
        self._speaks = speaks
        self._changed()

    def run_timers(self, now: float) -> float | None:
        """Do what is due; when the next is."""
        due = [part.run_timers(now) for part in (self.own, self.routers, self.listeners)]
        due.append(self.fragments.run_timers())
        return min((each for each in due if each is not None), default=None)
