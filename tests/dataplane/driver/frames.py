"""Frames built byte by byte, for the tests of the drivers."""

from __future__ import annotations

import socket
import struct

CLIENT, SERVER, PORT = "10.77.0.1", "10.77.0.2", 80
TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
MORE_FRAGMENTS = 0x2000


def checksum(data: bytes, start: int = 0) -> int:
    """The sum of RFC 1071, not inverted."""
    data += bytes(len(data) % 2)
    total = start + sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def ethernet(
    payload: bytes, ethertype: int = 0x0800, source: bytes = b"\2\0\0\0\0\1", to: bytes = b"\2\0\0\0\0\2"
) -> bytes:
    return to + source + struct.pack("!H", ethertype) + payload


def ipv4(
    payload: bytes, protocol: int = TCP, source: str = CLIENT, to: str = SERVER, *,
    fragment: int = 0, identification: int = 1, options: bytes = b"",
) -> bytes:  # fmt: skip
    length = 20 + len(options)
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x40 | length // 4, 0, length + len(payload), identification, fragment, 64, protocol, 0,
        socket.inet_aton(source), socket.inet_aton(to),
    ) + options  # fmt: skip
    return head[:10] + struct.pack("!H", 0xFFFF ^ checksum(head)) + head[12:] + payload


def ipv6(payload: bytes, protocol: int, source: str, to: str) -> bytes:
    ends = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, to)
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + ends + payload


def ports(source: int, to: int = PORT, size: int = 20) -> bytes:
    """The start of a TCP or UDP header, as far as steering looks."""
    return struct.pack("!HH", source, to) + bytes(size - 4)


def tcp(source: int, to: int, sequence: int, ack: int, flags: int, payload: bytes = b"") -> bytes:
    return struct.pack("!HHIIBBHHH", source, to, sequence, ack, 0x50, flags, 65535, 0, 0) + payload


def pseudo(source: str, to: str, length: int) -> int:
    """The sum of TCP's pseudo-header (RFC 9293 section 3.1)."""
    return checksum(socket.inet_aton(source) + socket.inet_aton(to) + struct.pack("!HH", TCP, length))


def icmp(kind: int, body: bytes) -> bytes:
    return ipv4(struct.pack("!BBHI", kind, 0, 0, 0) + body, ICMP, source="192.0.2.9")
