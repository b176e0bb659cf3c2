"""The frames of link for IPv6: ICMPv6 (RFC 4443), neighbour discovery (RFC 4861) and MLDv2 (RFC 9777).

Parsers return None for whatever is not exactly right; nothing here keeps state. Addresses are 16 bytes.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv6Network

from neatstack.control.frames import ETHERNET, VNET, checksum, is_unicast_mac

ETHERTYPE_IP6 = 0x86DD
IP6 = struct.Struct("!IHBB16s16s")
FRAGMENT_HEADER = struct.Struct("!BxHI")
HOP_BY_HOP, FRAGMENT, ICMP6 = 0, 44, 58
UNREACHABLE, PACKET_TOO_BIG, TIME_EXCEEDED = 1, 2, 3
REASSEMBLY = 1  # code of "time exceeded"
LEAST_MTU = 1280  # every link carries so much (RFC 8200 section 5)
ECHO, ECHO_REPLY = 128, 129
QUERY, REPORT1, DONE1, REPORT = 130, 131, 132, 143
ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT, SOLICITATION, ADVERTISEMENT, REDIRECT = range(133, 138)
DISCOVERY = range(133, 138)
SOURCE_LINK, TARGET_LINK, PREFIX, MTU = 1, 2, 3, 5  # options
HOPS = 255  # of neighbour discovery: no router has passed it on
DEFAULT_HOPS = 64
ROUTER, SOLICITED, OVERRIDE = 0x80, 0x40, 0x20  # flags of an advertisement
ON_LINK, AUTONOMOUS = 0x80, 0x40  # flags of a prefix
UNSPECIFIED = bytes(16)
ALL_NODES = b"\xff\x02" + bytes(13) + b"\1"
ALL_ROUTERS = b"\xff\x02" + bytes(13) + b"\2"
REPORTS = b"\xff\x02" + bytes(13) + b"\x16"  # RFC 9777 section 5.2.15
MAPPED = bytes(10) + b"\xff\xff"  # RFC 4291 section 2.5.5.2
IPV4 = IPv6Network((MAPPED + bytes(4), 96))
LINK_LOCAL = b"\xfe\x80" + bytes(6)
ALERT = bytes((5, 2, 0, 0))  # option: RFC 2711's, of MLD
ROUTER_ALERT = bytes((ICMP6, 0)) + ALERT + bytes((1, 0))  # a hop-by-hop header with that, and padding


@dataclass(frozen=True)
class Packet:
    """An ICMPv6 message to us, or to a group, whole and with a right checksum."""

    source_mac: bytes
    source: bytes
    destination: bytes
    hops: int
    message: bytes
    alert: bool = False  # routers were to look at it

    @property
    def kind(self) -> int:
        return self.message[0]

    @property
    def code(self) -> int:
        return self.message[1]


@dataclass(frozen=True)
class Prefix:
    """A prefix that a router advertises (RFC 4861 section 4.6.2)."""

    network: bytes
    length: int
    on_link: bool
    autonomous: bool
    valid: int  # seconds; 2**32 - 1: for ever
    preferred: int

    @property
    def hosts(self) -> IPv6Network:
        return IPv6Network((self.network, self.length), strict=False)

    @property
    def covers_ipv4(self) -> bool:
        """Are there addresses of it that mean such of IPv4?"""
        return self.hosts.overlaps(IPV4)


@dataclass
class Options:
    """What the options of a message say that concerns us; the first of each, except prefixes."""

    link: bytes | None = None
    target_link: bytes | None = None
    mtu: int | None = None
    prefixes: list[Prefix] = field(default_factory=list)


@dataclass(frozen=True)
class Neighbourly:
    """A valid solicitation or advertisement of a neighbour."""

    target: bytes
    flags: int
    options: Options


@dataclass(frozen=True)
class Redirect:
    """A valid redirect: who takes packets to a destination, itself if it is on the link, and where he is."""

    target: bytes
    destination: bytes
    mac: bytes | None


@dataclass(frozen=True)
class Router:
    """A valid advertisement of a router (RFC 4861 section 4.2)."""

    hops: int
    lifetime: int  # seconds as default router; 0: it is none
    reachable: int  # ms; 0: not told
    retransmit: int
    options: Options


def is_multicast(address: bytes) -> bool:
    return address[0] == 0xFF


def is_host(address: bytes) -> bool:
    """One other host's: neither a group's nor unspecified nor the loopback's, nor of IPv4."""
    return not is_multicast(address) and address[:15] != bytes(15) and not is_mapped(address)


def is_link_local(address: bytes) -> bool:
    """RFC 4291 section 2.5.6."""
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80


def is_mapped(address: bytes) -> bool:
    return address[:12] == MAPPED


def solicited_node(address: bytes) -> bytes:
    """The group where the owner of an address is asked for (RFC 4291 section 2.7.1)."""
    return b"\xff\x02" + bytes(9) + b"\1\xff" + address[13:]


def group_mac(group: bytes) -> bytes:
    """RFC 2464 section 7."""
    return b"\x33\x33" + group[12:]


# rfc: 9777:5.1.2-checksum, 4443:2.1-checksum
def parse(frame: bytes, mac: bytes) -> Packet | None:
    """The ICMPv6 message of a frame to us or to a group; also behind a hop-by-hop header, as queries of MLD are."""
    if len(frame) < ETHERNET.size + IP6.size:
        return None
    destination_mac, source_mac, ethertype = ETHERNET.unpack_from(frame)
    first, length, following, hops, source, destination = IP6.unpack_from(frame, ETHERNET.size)
    body = frame[ETHERNET.size + IP6.size :][:length]
    for_us = destination_mac == mac or (is_multicast(destination) and destination_mac == group_mac(destination))
    if ethertype != ETHERTYPE_IP6 or first >> 28 != 6 or len(body) != length or not for_us:
        return None
    if not is_unicast_mac(source_mac) or is_multicast(source):
        return None
    options: list[bytes] | None = []
    if following == HOP_BY_HOP and len(body) >= 8:
        options = hop_options(body[: (body[1] + 1) * 8])
        following, body = body[0], body[(body[1] + 1) * 8 :]
    if (
        options is None
        or following != ICMP6
        or len(body) < 8
        or checksum(_pseudo(source, destination, len(body)) + body)
    ):
        return None
    return Packet(source_mac, source, destination, hops, body, ALERT in options)


# rfc: 8200:4.2-skip 4.2-option 4.2-padding
def hop_options(header: bytes) -> list[bytes] | None:
    """The options of a hop-by-hop header; None if one is not whole, or unknown and nothing to pass over."""
    found, at = [], 2
    while at < len(header):
        length = 1 if header[at] == 0 else 2 + int.from_bytes(header[at + 1 : at + 2], "big")  # Pad1 has none
        if at + length > len(header) or header[at] >> 6:
            return None
        found.append(header[at : at + length])
        at += length
    return found


def parse_fragment(frame: bytes, mac: bytes) -> bytes | None:
    """The IPv6 packet of a frame to us that is a fragment of an ICMPv6 message, with no other header before that."""
    header = IP6.size + FRAGMENT_HEADER.size
    if len(frame) < ETHERNET.size + header:
        return None
    destination_mac, source_mac, ethertype = ETHERNET.unpack_from(frame)
    first, length, following, *_ = IP6.unpack_from(frame, ETHERNET.size)
    packet = frame[ETHERNET.size :][: IP6.size + length]
    if ethertype != ETHERTYPE_IP6 or first >> 28 != 6 or following != FRAGMENT or packet[IP6.size] != ICMP6:
        return None
    if destination_mac != mac or not is_unicast_mac(source_mac) or is_multicast(packet[8:24]):
        return None
    return packet if header <= IP6.size + length == len(packet) else None


# rfc: 4861:9-1
def parse_options(data: bytes) -> Options | None:
    """The options behind a message of neighbour discovery; None if one has no length or too much of it."""
    found = Options()
    while data:
        length = data[1] * 8 if len(data) > 1 else 0
        # rfc: 4861:4.6-1
        if not length or length > len(data):
            return None
        _take_option(found, data[0], data[2:length])
        data = data[length:]
    return found


def _take_option(found: Options, kind: int, value: bytes) -> None:
    """Note what an option says; what is unknown, or has another length than it should, says nothing."""
    if kind == SOURCE_LINK and len(value) == 6 and found.link is None:
        found.link = value
    elif kind == TARGET_LINK and len(value) == 6 and found.target_link is None:
        found.target_link = value
    elif kind == MTU and len(value) == 6 and found.mtu is None:
        found.mtu = int.from_bytes(value[2:], "big")
    elif kind == PREFIX and len(value) == 30:
        length, flags, valid, preferred, network = struct.unpack("!BBII4x16s", value)
        if length <= 128:
            on_link, autonomous = bool(flags & ON_LINK), bool(flags & AUTONOMOUS)
            found.prefixes.append(Prefix(network, length, on_link, autonomous, valid, preferred))


# rfc: 4861:7.1.1-1 7.1.1-2, 4862:5.4.1-1
def parse_solicitation(packet: Packet) -> Neighbourly | None:
    """A valid neighbour solicitation (RFC 4861 section 7.1.1)."""
    asked = _neighbourly(packet, SOLICITATION)
    if asked is None:
        return None
    if packet.source == UNSPECIFIED:
        to_group = packet.destination == solicited_node(asked.target)
        return asked if to_group and asked.options.link is None else None
    return asked


# rfc: 4861:7.1.2-1
def parse_advertisement(packet: Packet) -> Neighbourly | None:
    """A valid neighbour advertisement (RFC 4861 section 7.1.2)."""
    told = _neighbourly(packet, ADVERTISEMENT)
    if told is None or packet.source == UNSPECIFIED:
        return None
    return None if is_multicast(packet.destination) and told.flags & SOLICITED else told


def _neighbourly(packet: Packet, kind: int) -> Neighbourly | None:
    message = packet.message
    if packet.kind != kind or packet.code or packet.hops != HOPS or len(message) < 24:
        return None
    target, options = message[8:24], parse_options(message[24:])
    if options is None or is_multicast(target) or target == UNSPECIFIED or is_mapped(target):
        return None
    if any(mac is not None and not is_unicast_mac(mac) for mac in (options.link, options.target_link)):
        return None
    return Neighbourly(target, message[4], options)


# rfc: 4861:6.1.2-1
def parse_router(packet: Packet) -> Router | None:
    """A valid router advertisement (RFC 4861 section 6.1.2)."""
    message = packet.message
    if packet.kind != ROUTER_ADVERTISEMENT or packet.code or packet.hops != HOPS or len(message) < 16:
        return None
    options = parse_options(message[16:])
    if options is None or not is_link_local(packet.source):
        return None
    if options.link is not None and not is_unicast_mac(options.link):
        return None
    hops, _, lifetime, reachable, retransmit = struct.unpack_from("!BBHII", message, 4)
    return Router(hops, lifetime, reachable, retransmit, options)


# rfc: 4861:8.1-1
def parse_redirect(packet: Packet) -> Redirect | None:
    """A valid redirect (RFC 4861 section 8.1)."""
    message = packet.message
    if packet.kind != REDIRECT or packet.code or packet.hops != HOPS or len(message) < 40:
        return None
    target, destination, options = message[8:24], message[24:40], parse_options(message[40:])
    if options is None or not is_link_local(packet.source) or not is_host(destination):
        return None
    if not is_link_local(target) and target != destination:
        return None
    if options.target_link is not None and not is_unicast_mac(options.target_link):
        return None
    return Redirect(target, destination, options.target_link)


def _pseudo(source: bytes, destination: bytes, length: int) -> bytes:
    """RFC 8200 section 8.1."""
    return source + destination + struct.pack("!II", length, ICMP6)


def build(source: bytes, destination: bytes, message: bytes, hops: int = HOPS, extension: bytes = b"") -> bytes:
    """An ICMPv6 packet, its checksum filled in."""
    total = checksum(_pseudo(source, destination, len(message)) + message)
    message = message[:2] + total.to_bytes(2, "big") + message[4:]
    following = HOP_BY_HOP if extension else ICMP6
    header = IP6.pack(6 << 28, len(extension) + len(message), following, hops, source, destination)
    return header + extension + message


# rfc: 8200:4.5-fit
def cut(packet: bytes, mtu: int, identification: int) -> list[bytes]:
    """A packet without extension headers; if larger than the MTU, in fragments that every path takes."""
    if len(packet) <= mtu:
        return [packet]
    data, most, made = packet[IP6.size :], LEAST_MTU - IP6.size - FRAGMENT_HEADER.size & ~7, []
    for at in range(0, len(data), most):
        part = data[at : at + most]
        more = at + most < len(data)
        header = packet[:4] + (FRAGMENT_HEADER.size + len(part)).to_bytes(2, "big") + bytes([FRAGMENT])
        header += packet[7 : IP6.size]
        made.append(header + FRAGMENT_HEADER.pack(packet[6], at | more, identification) + part)
    return made


def frame(destination_mac: bytes, mac: bytes, packet: bytes) -> bytes:
    """As the device takes it."""
    return VNET + ETHERNET.pack(destination_mac, mac, ETHERTYPE_IP6) + packet


def link_option(kind: int, mac: bytes) -> bytes:
    return bytes((kind, 1)) + mac


def solicitation(target: bytes, mac: bytes | None) -> bytes:
    """Without `mac` for duplicate address detection."""
    return bytes((SOLICITATION, 0, 0, 0)) + bytes(4) + target + (link_option(SOURCE_LINK, mac) if mac else b"")


def advertisement(target: bytes, flags: int, mac: bytes) -> bytes:
    return bytes((ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0)) + target + link_option(TARGET_LINK, mac)


def router_solicitation(mac: bytes | None) -> bytes:
    return bytes((ROUTER_SOLICITATION, 0, 0, 0)) + bytes(4) + (link_option(SOURCE_LINK, mac) if mac else b"")


# rfc: 9777:5.2.11-auxiliary 5.2.12-more
def report(records: Iterable[tuple[int, bytes]]) -> bytes:
    """Of MLDv2: groups, and what is so with each, of any source (RFC 9777 section 5.2)."""
    packed = [bytes((kind, 0, 0, 0)) + group for kind, group in records]
    return bytes((REPORT, 0, 0, 0, 0, 0)) + len(packed).to_bytes(2, "big") + b"".join(packed)


def echo(kind: int, ident: int, sequence: int, payload: bytes) -> bytes:
    """An echo request or reply, its checksum still to be filled in."""
    return struct.pack("!BBHHH", kind, 0, 0, ident, sequence) + payload
