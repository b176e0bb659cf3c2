"""The link process: answers ARP, neighbour discovery and ping for the stack, and finds the hardware addresses that
replicas want.

It owns the last queue of the device and writes the table of neighbours; replicas ask it over a datagram socket each,
with the bytes of an address. It may be restarted at any time: what it knows is in the table, and with the manager.
"""

import contextlib
import json
import mmap
import os
import secrets
import select
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Any

from neatstack.control import frames, frames6, igmp, launch, routes
from neatstack.control.addressing import MOST_ADDRESSES, Address
from neatstack.control.default_router import DefaultRouter
from neatstack.control.frames import Arp
from neatstack.control.igmp import Igmp
from neatstack.control.link_control import Captures, Requests
from neatstack.control.membership import Membership
from neatstack.control.ndp import Discovery
from neatstack.control.neighbourhood import Neighbourhood
from neatstack.control.neighbours import NeighbourTable
from neatstack.control.packets import ERRORS, Limit, Packets
from neatstack.control.pages import Route
from neatstack.control.ping import Pings
from neatstack.control.redirects import Redirects
from neatstack.control.routes import next_hop
from neatstack.dataplane.sandbox import enter_isolation

FRAME_MOST = 70_000  # bytes of the largest frame that the device hands over
AT_ONCE = 64  # frames or wishes taken before looking at the rest
ECHOES = 1000  # echo replies a second
DEFEND_EVERY = 10.0  # seconds, RFC 5227 section 2.4
ARP, IP6 = frames.ETHERTYPE_ARP.to_bytes(2, "big"), frames6.ETHERTYPE_IP6.to_bytes(2, "big")
IPV4, IPV6 = 4, 16  # bytes of an address


@dataclass(frozen=True)
class Plan:
    """What the operator wants of IPv6."""

    addresses: tuple[IPv6Interface, ...]
    gateways: tuple[bytes, ...]  # in order of preference
    slaac: bool
    secret: bytes  # of interface identifiers
    interface: str
    hops: int = frames6.DEFAULT_HOPS
    transmits: int = 1  # solicitations that look for a duplicate of an address

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> "Plan":
        """As processes.py writes it."""
        gateways = tuple(IPv6Address(gateway).packed for gateway in data["gateways"])
        addresses = tuple(IPv6Interface(address) for address in data["addresses"])
        return cls(
            addresses,
            gateways,
            data["slaac"],
            bytes.fromhex(data["secret"]),
            data["interface"],
            data["hops"],
            data["transmits"],
        )


class Link:
    """ARP, neighbour discovery and echo for the addresses of one device. `told` gets what the manager has to know."""

    def __init__(
        self,
        queue: int,
        table: NeighbourTable,
        interfaces: Sequence[IPv4Interface],
        mac: bytes,
        gateways: Sequence[bytes] = (),
        mtu: int = 1500,
        routes: Sequence[Route] = (),
        ttl: int = frames.DEFAULT_TTL,
        errors: int = ERRORS,
        redirects: bool = False,
    ) -> None:
        self.queue = queue
        self.table = table
        self.interfaces = list(interfaces)
        self.networks = [interface.network for interface in interfaces]
        self.addresses = [interface.ip.packed for interface in interfaces]  # the first is the one to speak with
        self.mac = mac
        self.routes = list(routes)
        self.mtu = mtu
        self.ttl = ttl
        self.errors = errors  # of ICMP, in a second
        self.captures = Captures()
        self.pings = Pings(self.own_for, self._next_hop, self._known, self._send_to, self._ttl_to)
        self.neighbours = Neighbourhood(table, self._ask, self.pings.found, self._failed)
        self.redirects = Redirects(redirects, self._tell_ways)
        self.gateways = DefaultRouter(self.neighbours, lambda: gateways, self._tell_ways)
        self.told: Callable[[dict[str, Any]], None] = lambda told: None
        self.discovery: Discovery | None = None
        self.echoes = Limit(ECHOES)
        self.packets = [Packets(mac, address, self._route, ttl, errors) for address in self.addresses]
        self.igmp = Igmp(mac, self.addresses, self._send_to_group)
        self.groups: set[bytes] = set()  # that programs have joined
        self.identification = secrets.randbelow(1 << 16)
        self.defended_at = -DEFEND_EVERY

    def speak_ipv6(
        self, plan: Plan, told: Callable[[dict[str, Any]], None], before: dict[str, Any] | None = None
    ) -> None:
        """From now on there is IPv6, too; `before` is what a former link has `told`."""

        def changed() -> None:
            if self.discovery is not None:
                told(self.discovery.to_data())

        self.discovery = Discovery(
            self.mac,
            self.mtu,
            MOST_ADDRESSES - len(self.addresses),
            plan.secret,
            plan.interface,
            self.neighbours,
            self._send_to6,
            changed,
            plan.gateways,
            plan.slaac,
            self.routes,
            self.redirects,
            plan.hops,
            plan.transmits,
            self.errors,
        )
        self.discovery.start(plan.addresses, before)

    def start(self) -> None:
        """Look for the gateways, and tell which is used: a former link may have told another."""
        self._tell_ways()
        for gateway in self.gateways.candidates():
            self.want(gateway)

    def _tell_ways(self) -> None:
        gateway = self.gateways.chosen
        told = None if gateway is None else str(IPv4Address(gateway))
        self.told({"gateway": told, "redirects": self.redirects.to_data()})

    def _failed(self, neighbour: bytes) -> None:
        self.redirects.gone(neighbour)
        self.pings.failed(neighbour)

    @property
    def settling(self) -> bool:
        """Is it still being found out whether somebody else has one of our addresses?"""
        return self.discovery is not None and self.discovery.own.pending

    def announce(self) -> None:
        """Tell everybody our hardware address (RFC 5227 section 2.3)."""
        for address in self.addresses:
            self._announce(address)

    def _announce(self, address: bytes) -> None:
        self._send(frames.build_arp(frames.BROADCAST, Arp(frames.REQUEST, self.mac, address, bytes(6), address)))

    def receive(self) -> None:
        """Handle what waits in the queue."""
        for _ in range(AT_ONCE):
            try:
                data = os.read(self.queue, FRAME_MOST)
            except BlockingIOError:
                return
            if self.captures.writers:
                self.captures.put(data, False)
            frame = data[len(frames.VNET) :]
            ethertype = frame[12:14]
            if ethertype == ARP:
                packet = frames.parse_arp(frame)
                if packet is not None:
                    self._arp(packet)
            elif ethertype == IP6:
                self._ipv6(frame)
            else:
                self._ipv4(frame)

    def _ipv4(self, frame: bytes) -> None:
        if frame[23:24] == bytes((igmp.PROTOCOL,)):
            self.igmp.receive(frame, time.monotonic())
            return
        for packets in self.packets:
            whole = packets.whole(frame)
            if whole is not None:
                self._icmp(whole, packets.address)

    def _icmp(self, frame: bytes, address: bytes) -> None:
        packet = frames.parse_icmp(frame, self.mac, address)
        if packet is None or (self.pings.under_way and self.pings.receive(packet)):
            return
        redirect = frames.parse_redirect(packet)
        if redirect is not None:
            self._redirected(frame[6:12], packet[12:16], *redirect)
        elif self.echoes.allows():
            reply = frames.answer_echo(packet, self.ttl)
            if reply is not None:
                self.echoes.take()
                self._send_to(frame[6:12], reply)

    # rfc: 1122:redirect redirect-ignored
    def _redirected(self, mac: bytes, source: bytes, destination: bytes, gateway: bytes) -> None:
        """RFC 1122 section 3.2.2.2: from the gateway that takes such packets now, and to another neighbour, which as on
        Linux must be known already: else it is asked for, and the next redirect may be obeyed."""
        taken = self.redirects.allowed and frames.is_host(destination) and self._next_hop(destination) == source
        if not taken or self.neighbours.known(source) != mac or gateway == source or not self._is_neighbour(gateway):
            self.redirects.counters["refused"] += 1
        elif self._known(gateway) is not None:
            self.redirects.learn(destination, gateway, time.monotonic())

    def _ipv6(self, frame: bytes) -> None:
        packet = self.discovery.receive(frame) if self.discovery is not None else None
        if packet is None or self.discovery is None:
            return
        if packet.kind == frames6.ECHO and packet.code == 0:
            if self.echoes.allows():
                self.echoes.take()
                self.discovery.reply(packet)
        elif self.pings.under_way:
            self.pings.receive6(packet)

    def want(self, address: bytes) -> None:
        """A replica wants the hardware address of `address`: 4 bytes, or 16."""
        if self._is_neighbour(address):
            self.neighbours.want(address)

    def set_groups(self, groups: Iterable[Address]) -> None:
        """These are the groups that programs have joined."""
        wanted, now = {group.packed for group in groups}, time.monotonic()
        for left in sorted(self.groups - wanted):
            if (family := self._membership(left)) is not None:
                family.leave(left, now)
        for joined in sorted(wanted - self.groups):
            if (family := self._membership(joined)) is not None:
                family.join(joined, now)
        self.groups = wanted

    def _membership(self, group: bytes) -> Membership | None:
        if len(group) == IPV4:
            return self.igmp
        return self.discovery.listeners if self.discovery is not None else None

    def run_timers(self) -> float | None:
        """Do what is due; seconds until the next time, None: nothing to wait for."""
        now = time.monotonic()
        parts = self.neighbours, self.gateways, self.redirects, self.pings, self.igmp
        due_times = [part.run_timers(now) for part in parts]
        if self.discovery is not None:
            due_times.append(self.discovery.run_timers(now))
        due_times += [now + wait for wait in (packets.run_timers() for packets in self.packets) if wait is not None]
        due = min((each for each in due_times if each is not None), default=None)
        return None if due is None else max(0.0, due - now)

    def _ask(self, address: bytes, mac: bytes | None) -> None:
        """One that we believe to know, or everybody."""
        if len(address) == IPV4:
            request = Arp(frames.REQUEST, self.mac, self.own_for(address), bytes(6), address)
            self._send(frames.build_arp(mac or frames.BROADCAST, request))
        elif self.discovery is not None:
            self.discovery.ask(address, mac)

    def _arp(self, packet: Arp) -> None:
        """Learn and answer. Who is not asked and asks nothing of us is not believed."""
        if packet.sender in self.addresses:
            if packet.sender_mac != self.mac:
                self._defend(packet)
            return
        if packet.target not in self.addresses:
            return
        if packet.operation == frames.REQUEST:
            if self._is_neighbour(packet.sender) and self.neighbours.has_room(packet.sender):
                self.neighbours.learn(packet.sender, packet.sender_mac)
            reply = Arp(frames.REPLY, self.mac, packet.target, packet.sender_mac, packet.sender)
            self._send(frames.build_arp(packet.sender_mac, reply))
        elif packet.operation == frames.REPLY and packet.target_mac == self.mac:
            if packet.sender in self.neighbours.enquiries:
                self.neighbours.learn(packet.sender, packet.sender_mac)

    def _defend(self, packet: Arp) -> None:
        """Somebody else uses our address: say so, and announce ours, but not for ever (RFC 5227 section 2.4 (b))."""
        now = time.monotonic()
        if now - self.defended_at >= DEFEND_EVERY:
            self.defended_at = now
            other = packet.sender_mac.hex(":")
            print(f"link: {IPv4Address(packet.sender)} is also used by {other}", file=sys.stderr, flush=True)
            self._announce(packet.sender)

    def _is_neighbour(self, address: bytes) -> bool:
        """An address of a host on our link, not ourselves."""
        if len(address) != IPV4:
            return self.discovery is not None and len(address) == IPV6 and self.discovery.is_neighbour(address)
        host = IPv4Address(address)
        everybody = (host in (network.network_address, network.broadcast_address) for network in self.networks)
        return address not in self.addresses and not any(everybody) and self._way(host) == host

    def _way(self, host: IPv4Address) -> Address | None:
        return next_hop(host, self.networks, [*self.routes, *self.redirects])

    # ---- what pings need ----

    def own_for(self, address: bytes) -> bytes:
        """The address of ours to speak to another with; b"" when there is none yet."""
        if len(address) == IPV4:
            host = IPv4Address(address)
            near = (interface.ip.packed for interface in self.interfaces if host in interface.network)
            return address if address in self.addresses else next(near, self.addresses[0])
        return (self.discovery and self.discovery.own.source_for(address)) or b""

    def _ttl_to(self, address: bytes) -> int:
        """The time to live, or hop limit, of packets to an address."""
        if len(address) == IPV4 or self.discovery is None:
            return self.ttl
        return self.discovery.routers.hops

    def _next_hop(self, address: bytes) -> bytes | None:
        """Who takes packets for an address (RFC 1122 section 3.3.1.1); None: nobody."""
        if len(address) != IPV4:
            return self.discovery.next_hop(address) if self.discovery is not None else None
        hop = self._way(IPv4Address(address))
        if hop is None:
            return self.gateways.chosen
        return hop.packed if self._is_neighbour(hop.packed) else None

    def _known(self, hop: bytes) -> bytes | None:
        """A neighbour's hardware address; one that is not known is asked for."""
        mac = self.neighbours.known(hop)
        if mac is None:
            self.want(hop)
        return mac

    def _send_to(self, mac: bytes, packet: bytes) -> None:
        if packet[0] >> 4 == 6:
            self._send_to6(mac, packet)
            return
        self.identification = (self.identification + 1) & 0xFFFF
        for part in frames.cut(packet, self.mtu, self.identification):
            self._send(frames.VNET + frames.ETHERNET.pack(mac, self.mac, frames.ETHERTYPE_IP) + part)

    def _send_to6(self, mac: bytes, packet: bytes) -> None:
        mtu = self.discovery and self.discovery.routers.mtu
        for part in frames6.cut(packet, mtu or self.mtu, secrets.randbits(32)):
            self._send(frames6.frame(mac, self.mac, part))

    def _send_to_group(self, group: bytes, packet: bytes) -> None:
        self._send(frames.VNET + frames.ETHERNET.pack(frames.group_mac(group), self.mac, frames.ETHERTYPE_IP) + packet)

    def _route(self, packet: bytes, destination: bytes) -> None:
        """Send to whoever takes packets for an address, if that is known."""
        hop = self._next_hop(destination)
        mac = None if hop is None else self._known(hop)
        if mac is not None:
            self._send_to(mac, packet)

    def _send(self, frame: bytes) -> None:
        with contextlib.suppress(OSError):  # the device is down or full: as if lost on the way
            os.write(self.queue, frame)
            if self.captures.writers:
                self.captures.put(frame, True)


def serve(link: Link, wishes: list[socket.socket], control: socket.socket) -> None:
    """Until the stack ends, which end of file on `control` says."""
    by_descriptor = {sock.fileno(): sock for sock in wishes}
    requests = Requests(control, link.captures, link.pings, link.set_groups)
    watched = select.poll()
    for descriptor in (link.queue, control.fileno(), *by_descriptor):
        watched.register(descriptor, select.POLLIN)
    said = False
    while True:
        wait = link.run_timers()
        if not said and not link.settling:
            said = True
            control.send(b'{"ready": true}')
        for descriptor, _ in watched.poll(None if wait is None else wait * 1000 + 1):
            if descriptor == control.fileno():
                if not requests.receive():
                    return
                continue
            if descriptor == link.queue:
                link.receive()
                continue
            for _ in range(AT_ONCE):
                try:
                    link.want(unmapped(by_descriptor[descriptor].recv(IPV6 + 1)))
                except BlockingIOError:
                    break


def unmapped(address: bytes) -> bytes:
    """An IPv4 address as 4 bytes, however it was told."""
    return address[-IPV4:] if len(address) == IPV6 and frames6.is_mapped(address) else address


def teller(control: socket.socket, subject: str) -> Callable[[dict[str, Any]], None]:
    """What tells the manager of something, once for each change."""
    last: dict[str, Any] = {}

    def tell(data: dict[str, Any]) -> None:
        nonlocal last
        if data != last:
            last = data
            with contextlib.suppress(OSError):  # the stack has ended, which the loop will see
                control.send(json.dumps({subject: data}).encode())

    return tell


def main(arguments: list[str]) -> int:
    """Run with the configuration that processes.py writes, as JSON."""
    config = json.loads(arguments[0])
    launch.set_name("neat-link")
    keep = [config["queue"], config["neighbours"], config["control"], *config["sockets"]]
    enter_isolation(config["uid"], config["gid"], keep)
    control = socket.socket(fileno=config["control"])
    wishes = [socket.socket(fileno=descriptor) for descriptor in config["sockets"]]
    table = NeighbourTable(mmap.mmap(config["neighbours"], 0))
    gateways = [IPv4Address(gateway).packed for gateway in config["gateways"]]
    mac = bytes.fromhex(config["mac"])
    interfaces = [IPv4Interface(address) for address in config["addresses"]]
    ways = [routes.parse(text) for text in config["routes"]]
    limits = config["ttl"], config["errors"], config["redirects"]
    link = Link(config["queue"], table, interfaces, mac, gateways, config["mtu"], ways, *limits)
    os.set_blocking(link.queue, False)
    link.announce()
    link.told = teller(control, "ways")
    link.start()
    if (ipv6 := config["ipv6"]) is not None:
        link.speak_ipv6(Plan.from_data(ipv6), teller(control, "ipv6"), ipv6["before"])
    serve(link, wishes, control)
    return 0
