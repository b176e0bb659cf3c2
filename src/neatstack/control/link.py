"""The link process: answers ARP and ping for the stack, and finds the hardware addresses that replicas want.

It owns the last queue of the device and writes the table of neighbours; replicas ask it over a datagram socket each,
with the four bytes of an address. It may be restarted at any time: what it knows is in the table.
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
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface

from neatstack.control import frames, launch
from neatstack.control.frames import Arp
from neatstack.control.link_control import Captures, Requests
from neatstack.control.neighbours import Neighbour, NeighbourTable, State
from neatstack.control.packets import Limit, Packets
from neatstack.control.ping import Pings
from neatstack.dataplane.sandbox import enter_isolation

FRAME_MOST = 70_000  # bytes of the largest frame that the device hands over
AT_ONCE = 64  # frames or wishes taken before looking at the rest
ASK_EVERY = 1.0  # seconds between two requests for one address (RFC 1122 section 2.3.2.1)
ASK_MOST = 3
REFRESH_AFTER = 60.0  # seconds after which a neighbour is asked whether it is still there
LEARN_MOST = 512  # entries that requests of others may make; the rest is for addresses that replicas want
ECHOES = 1000  # echo replies a second
DEFEND_EVERY = 10.0  # seconds, RFC 5227 section 2.4


@dataclass
class Enquiry:
    """An address that is being asked for."""

    next_at: float
    asked: int = 0


class Link:
    """ARP and echo for one address."""

    def __init__(
        self,
        queue: int,
        table: NeighbourTable,
        interface: IPv4Interface,
        mac: bytes,
        gateway: bytes | None = None,
        mtu: int = 1500,
    ) -> None:
        self.queue = queue
        self.table = table
        self.network = interface.network
        self.address = interface.ip.packed
        self.mac = mac
        self.gateway = gateway
        self.captures = Captures()
        self.pings = Pings(self.address, self._next_hop, self._known, self._send_to)
        self.enquiries: dict[bytes, Enquiry] = {}
        now = time.monotonic()
        # those found in the table are asked soon, but not all at once
        known = [neighbour.address for neighbour in table if neighbour.state in (State.REACHABLE, State.ASKED)]
        self.refresh_at = {address: now + secrets.randbelow(1000) / 1000 for address in known}
        self.echoes = Limit(ECHOES)
        self.packets = Packets(mac, self.address, self._route)
        self.mtu = mtu
        self.identification = secrets.randbelow(1 << 16)
        self.defended_at = -DEFEND_EVERY

    def announce(self) -> None:
        """Tell everybody our hardware address (RFC 5227 section 2.3)."""
        announcement = Arp(frames.REQUEST, self.mac, self.address, bytes(6), self.address)
        self._send(frames.build_arp(frames.BROADCAST, announcement))

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
            if frame[12:14] == frames.ETHERTYPE_ARP.to_bytes(2, "big"):
                packet = frames.parse_arp(frame)
                if packet is not None:
                    self._arp(packet)
            elif (whole := self.packets.whole(frame)) is not None:
                self._icmp(whole)

    def _icmp(self, frame: bytes) -> None:
        if (self.pings.under_way and self._is_answer(frame)) or not self.echoes.allows():
            return
        reply = frames.answer_echo(frame, self.mac, self.address)
        if reply is not None:
            self.echoes.take()
            self._send_to(frame[6:12], reply)

    def want(self, address: bytes) -> None:
        """A replica wants the hardware address of `address`."""
        if len(address) != 4 or not self._is_neighbour(address) or address in self.enquiries:
            return
        entry = self.table.get(address)
        if entry is not None and entry.state == State.REACHABLE:
            return
        if self.table.put(Neighbour(address, bytes(6), State.ASKED)):
            self.enquiries[address] = Enquiry(time.monotonic())
            self.run_timers()

    def run_timers(self) -> float | None:
        """Ask what is due to be asked; seconds until the next time, None: nothing to wait for."""
        now = time.monotonic()
        for address, due in list(self.refresh_at.items()):
            if due <= now:
                del self.refresh_at[address]
                self.enquiries.setdefault(address, Enquiry(now))
        for address, enquiry in list(self.enquiries.items()):
            if enquiry.next_at <= now:
                self._ask(address, enquiry, now)
        due_times = [enquiry.next_at for enquiry in self.enquiries.values()] + list(self.refresh_at.values())
        if (over := self.pings.run_timers(now)) is not None:
            due_times.append(over)
        if (wait := self.packets.run_timers()) is not None:
            due_times.append(now + wait)
        return max(0.0, min(due_times) - now) if due_times else None

    def _ask(self, address: bytes, enquiry: Enquiry, now: float) -> None:
        """Ask once more: the neighbour itself while we believe to know it, else everybody; or give up."""
        entry = self.table.get(address)
        if enquiry.asked >= ASK_MOST:
            del self.enquiries[address]
            self.table.put(Neighbour(address, bytes(6), State.FAILED))
            self.pings.failed(address)
            return
        known = entry is not None and entry.state == State.REACHABLE and enquiry.asked < ASK_MOST - 1
        destination = entry.mac if entry is not None and known else frames.BROADCAST
        self._send(frames.build_arp(destination, Arp(frames.REQUEST, self.mac, self.address, bytes(6), address)))
        enquiry.asked += 1
        enquiry.next_at = now + ASK_EVERY

    def _arp(self, packet: Arp) -> None:
        """Learn and answer. Who is not asked and asks nothing of us is not believed."""
        if packet.sender == self.address:
            if packet.sender_mac != self.mac:
                self._defend(packet)
            return
        if packet.target != self.address:
            return
        if packet.operation == frames.REQUEST:
            if self._is_neighbour(packet.sender) and (self.table.get(packet.sender) or len(self.table) < LEARN_MOST):
                self._learn(packet)
            reply = Arp(frames.REPLY, self.mac, self.address, packet.sender_mac, packet.sender)
            self._send(frames.build_arp(packet.sender_mac, reply))
        elif packet.operation == frames.REPLY and packet.sender in self.enquiries and packet.target_mac == self.mac:
            self._learn(packet)

    def _learn(self, packet: Arp) -> None:
        self.enquiries.pop(packet.sender, None)
        if self.table.put(Neighbour(packet.sender, packet.sender_mac, State.REACHABLE)):
            self.refresh_at[packet.sender] = time.monotonic() + REFRESH_AFTER
        self.pings.found()

    def _defend(self, packet: Arp) -> None:
        """Somebody else uses our address: say so, and announce ours, but not for ever (RFC 5227 section 2.4 (b))."""
        now = time.monotonic()
        if now - self.defended_at >= DEFEND_EVERY:
            self.defended_at = now
            other = packet.sender_mac.hex(":")
            print(f"link: {IPv4Address(self.address)} is also used by {other}", file=sys.stderr, flush=True)
            self.announce()

    def _is_neighbour(self, address: bytes) -> bool:
        """An address of a host on our network, not ourselves."""
        host = IPv4Address(address)
        edges = (self.network.network_address, self.network.broadcast_address)
        return host in self.network and host not in edges and address != self.address

    # ---- what pings need ----

    def _next_hop(self, address: bytes) -> bytes | None:
        """Who takes packets for an address (RFC 1122 section 3.3.1.1); None: nobody."""
        if IPv4Address(address) in self.network:
            return address if self._is_neighbour(address) else None
        return self.gateway

    def _known(self, hop: bytes) -> bytes | None:
        """A neighbour's hardware address; one that is not known is asked for."""
        entry = self.table.get(hop)
        if entry is not None and entry.state == State.REACHABLE:
            return entry.mac
        self.want(hop)
        return None

    def _send_to(self, mac: bytes, packet: bytes) -> None:
        self.identification = (self.identification + 1) & 0xFFFF
        for part in frames.cut(packet, self.mtu, self.identification):
            self._send(frames.VNET + frames.ETHERNET.pack(mac, self.mac, frames.ETHERTYPE_IP) + part)

    def _route(self, packet: bytes, destination: bytes) -> None:
        """Send to whoever takes packets for an address, if that is known."""
        hop = self._next_hop(destination)
        mac = None if hop is None else self._known(hop)
        if mac is not None:
            self._send_to(mac, packet)

    def _is_answer(self, frame: bytes) -> bool:
        packet = frames.parse_icmp(frame, self.mac, self.address)
        return packet is not None and self.pings.receive(packet)

    def _send(self, frame: bytes) -> None:
        with contextlib.suppress(OSError):  # the device is down or full: as if lost on the way
            os.write(self.queue, frame)
            if self.captures.writers:
                self.captures.put(frame, True)


def serve(link: Link, wishes: list[socket.socket], control: socket.socket) -> None:
    """Until the stack ends, which end of file on `control` says."""
    by_descriptor = {sock.fileno(): sock for sock in wishes}
    requests = Requests(control, link.captures, link.pings)
    watched = select.poll()
    for descriptor in (link.queue, control.fileno(), *by_descriptor):
        watched.register(descriptor, select.POLLIN)
    while True:
        wait = link.run_timers()
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
                    link.want(by_descriptor[descriptor].recv(5))
                except BlockingIOError:
                    break


def main(arguments: list[str]) -> int:
    """Run with the configuration that processes.py writes, as JSON."""
    config = json.loads(arguments[0])
    launch.set_name("neat-link")
    keep = [config["queue"], config["neighbours"], config["control"], *config["sockets"]]
    enter_isolation(config["uid"], config["gid"], keep)
    control = socket.socket(fileno=config["control"])
    wishes = [socket.socket(fileno=descriptor) for descriptor in config["sockets"]]
    table = NeighbourTable(mmap.mmap(config["neighbours"], 0))
    gateway = IPv4Address(config["gateway"]).packed if config["gateway"] else None
    mac = bytes.fromhex(config["mac"])
    link = Link(config["queue"], table, IPv4Interface(config["address"]), mac, gateway, config["mtu"])
    os.set_blocking(link.queue, False)
    link.announce()
    if gateway is not None:
        link.want(gateway)
    control.send(b'{"ready": true}')
    serve(link, wishes, control)
    return 0
