"""The frames of link: ARP (RFC 826) and ICMP echo (RFC 792), checked and built.

Parsers return None for whatever is not exactly right; nothing here keeps state.
"""

import struct
from dataclasses import dataclass

VNET = bytes(10)  # virtio-net header in front of each frame: nothing offloaded
BROADCAST = b"\xff" * 6
ETHERTYPE_ARP, ETHERTYPE_IP = 0x0806, 0x0800
ETHERNET = struct.Struct("!6s6sH")
ARP = struct.Struct("!HHBBH6s4s6s4s")
ARP_IP_ON_ETHERNET = (1, ETHERTYPE_IP, 6, 4)
REQUEST, REPLY = 1, 2
IP = struct.Struct("!BBHHHBBH4s4s")
FRAGMENT, OFFSET, MORE_FRAGMENTS = 0x3FFF, 0x1FFF, 0x2000  # the first: more fragments, or an offset
DONT_FRAGMENT = 0x4000
ICMP = 1
ECHO_REPLY, REDIRECT, ECHO = 0, 5, 8
MOST_REDIRECT_CODE = 3  # for a network, a host, and each with a type of service
DEFAULT_TTL = 64


@dataclass(frozen=True)
class Arp:
    """An ARP packet for IPv4 on Ethernet."""

    operation: int
    sender_mac: bytes
    sender: bytes
    target_mac: bytes
    target: bytes


def is_unicast_mac(mac: bytes) -> bool:
    return not mac[0] & 1 and any(mac)


def is_host(address: bytes) -> bool:
    """One other host's: not this network, loopback, multicast, reserved or broadcast (RFC 1122 section 3.2.1.3)."""
    return 0 < address[0] < 224 and address[0] != 127


def is_multicast(address: bytes) -> bool:
    return address[0] >> 4 == 14


def group_mac(group: bytes) -> bytes:
    """RFC 1112 section 6.4."""
    return b"\x01\0\x5e" + bytes((group[1] & 0x7F,)) + group[2:]


def parse_arp(frame: bytes) -> Arp | None:
    """The ARP packet of an Ethernet frame, sent by the host that it speaks for."""
    if len(frame) < ETHERNET.size + ARP.size:
        return None
    _, source, ethertype = ETHERNET.unpack_from(frame)
    *kind, operation, sender_mac, sender, target_mac, target = ARP.unpack_from(frame, ETHERNET.size)
    if ethertype != ETHERTYPE_ARP or tuple(kind) != ARP_IP_ON_ETHERNET or sender_mac != source:
        return None
    return Arp(operation, sender_mac, sender, target_mac, target) if is_unicast_mac(sender_mac) else None


def build_arp(destination: bytes, packet: Arp) -> bytes:
    """An ARP packet as the device takes it."""
    header = ETHERNET.pack(destination, packet.sender_mac, ETHERTYPE_ARP)
    addresses = packet.sender_mac, packet.sender, packet.target_mac, packet.target
    return VNET + header + ARP.pack(*ARP_IP_ON_ETHERNET, packet.operation, *addresses)


def checksum(data: bytes) -> int:
    """RFC 1071; 0 over data that includes a right checksum."""
    if len(data) & 1:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


# rfc: 1122:echo mask information echo-group, 792:echo checksum service
def answer_echo(packet: bytes, ttl: int) -> bytes | None:
    """The packet of an echo reply (RFC 1122 section 3.2.2.6) to one of an echo request for us; else None."""
    message = packet[(packet[0] & 15) * 4 :]
    if message[0] != ECHO or message[1]:
        return None
    return icmp_packet(packet[16:20], packet[12:16], reply_to(message), ttl)


# rfc: 792:redirect
def parse_redirect(packet: bytes) -> tuple[bytes, bytes] | None:
    """Of the packet of an ICMP message to us: where a packet of ours was to go, and who takes such ones (RFC 792)."""
    message = packet[(packet[0] & 15) * 4 :]
    if message[0] != REDIRECT or message[1] > MOST_REDIRECT_CODE:
        return None
    quoted = message[8:]
    if len(quoted) < IP.size or quoted[0] >> 4 != 4 or quoted[12:16] != packet[16:20]:
        return None
    return quoted[16:20], message[4:8]


def echo(kind: int, ident: int, sequence: int, payload: bytes) -> bytes:
    """An ICMP message: an echo request or reply."""
    message = struct.pack("!BBHHH", kind, 0, 0, ident, sequence) + payload
    return message[:2] + checksum(message).to_bytes(2, "big") + message[4:]


def reply_to(request: bytes) -> bytes:
    """The answer to the message of an echo request."""
    ident, sequence = struct.unpack_from("!HH", request, 4)
    return echo(ECHO_REPLY, ident, sequence, request[8:])


def icmp_packet(source: bytes, destination: bytes, message: bytes, ttl: int) -> bytes:
    """An ICMP message in IPv4."""
    header = IP.pack(0x45, 0, IP.size + len(message), 0, 0, ttl, ICMP, 0, source, destination)
    return header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + message


def parse_packet(frame: bytes, mac: bytes) -> bytes | None:
    """The IPv4 packet that a frame to us, or to a group, brings, with a good header; it may be a fragment."""
    if len(frame) < ETHERNET.size + IP.size:
        return None
    destination_mac, source_mac, ethertype = ETHERNET.unpack_from(frame)
    version, _, length, *_, destination = IP.unpack_from(frame, ETHERNET.size)
    header = (version & 0x0F) * 4
    packet = frame[ETHERNET.size : ETHERNET.size + length]
    for_us = destination_mac == (group_mac(destination) if is_multicast(destination) else mac)
    if not for_us or not is_unicast_mac(source_mac) or ethertype != ETHERTYPE_IP:
        return None
    if version >> 4 != 4 or header < IP.size or len(packet) != length or length < header:
        return None
    return None if checksum(packet[:header]) else packet


def parse_ip(frame: bytes, mac: bytes, address: bytes) -> bytes | None:
    """The IPv4 packet to our address, from somebody else, that a frame brings; it may be a fragment."""
    packet = parse_packet(frame, mac)
    if packet is None or packet[16:20] != address or not is_host(packet[12:16]) or packet[12:16] == address:
        return None
    return packet


def parse_icmp(frame: bytes, mac: bytes, address: bytes) -> bytes | None:
    """The IPv4 packet of a whole and valid ICMP message to us, from somebody else."""
    packet = parse_ip(frame, mac, address)
    if packet is None or packet[9] != ICMP or int.from_bytes(packet[6:8], "big") & FRAGMENT:
        return None
    header = (packet[0] & 0x0F) * 4
    return packet if len(packet) >= header + 8 and not checksum(packet[header:]) else None


def error(kind: int, code: int, quoted: bytes) -> bytes:
    """An ICMP error message (RFC 792) about a packet."""
    message = struct.pack("!BBHI", kind, code, 0, 0) + quoted
    return message[:2] + checksum(message).to_bytes(2, "big") + message[4:]


# rfc: 6864:4.3-unique
def cut(packet: bytes, mtu: int, identification: int) -> list[bytes]:
    """A packet without options that may be cut on its way; in fragments if it is larger than the MTU (RFC 791
    section 3.2)."""
    data, made = packet[IP.size :], []
    most = len(data) if len(packet) <= mtu else (mtu - IP.size) & ~7
    for at in range(0, len(data), most):
        part = data[at : at + most]
        place = at // 8 | (MORE_FRAGMENTS if at + most < len(data) else 0)
        header = packet[:2] + struct.pack("!HHH", IP.size + len(part), identification, place) + packet[8:10]
        header += bytes(2) + packet[12 : IP.size]
        made.append(header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + part)
    return made
