"""Ethernet frames of TCP over IPv4, for engines that are driven without a network.

The TCP checksum is left out: a device says of what it has checked itself that it is right.
"""

from __future__ import annotations

import socket
import struct

HEADERS = struct.Struct("!6s6sH BBHHHBBH4s4s HHIIBBHHH")
IP, IP_CHECKSUM, SOURCE, PORT, SEQ, ACK, PAYLOAD = 14, 24, 26, 34, 38, 42, 54  # offsets in a frame
FIN, SYN, RST, PSH, ACKED = 1, 2, 4, 8, 16
WINDOW = 65535
Flow = tuple[str, int, str, int]  # source, destination: address and port


def frame(
    macs: tuple[bytes, bytes], flow: Flow, flags: int, seq: int, ack: int = 0, data: bytes = b"", options: bytes = b""
) -> bytearray:
    """A whole frame; `macs` are those of source and destination. `options` fill 32-bit words."""
    source, source_port, destination, destination_port = flow
    made = bytearray(
        HEADERS.pack(
            macs[1], macs[0], 0x0800,
            0x45, 0, 40 + len(options) + len(data), 0, 0x4000, 64, 6, 0,
            socket.inet_aton(source), socket.inet_aton(destination),
            source_port, destination_port, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF,
            (5 + len(options) // 4) << 4, flags, WINDOW, 0, 0,
        ) + options + data
    )  # fmt: skip
    sum_header(made)
    return made


def patch_source(octets: bytearray, address: bytes, port: int) -> None:
    """Another sender."""
    octets[SOURCE : SOURCE + 4] = address
    octets[PORT : PORT + 2] = port.to_bytes(2, "big")
    sum_header(octets)


def sum_header(octets: bytearray) -> None:
    """Put in the checksum of the IP header."""
    octets[IP_CHECKSUM : IP_CHECKSUM + 2] = b"\0\0"
    total = sum(struct.unpack_from("!10H", octets, IP))
    total = (total & 0xFFFF) + (total >> 16)
    struct.pack_into("!H", octets, IP_CHECKSUM, ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF)


def sequence(octets: bytes) -> int:
    return int.from_bytes(octets[SEQ : SEQ + 4], "big")


def payload(octets: bytes) -> bytes:
    """What a frame carries."""
    return octets[IP + 20 + (octets[IP + 32] >> 4) * 4 :]


def mss(value: int) -> bytes:
    """The option, which fills a word."""
    return struct.pack("!BBH", 2, 4, value)


def window_scale(shift: int) -> bytes:
    """The option, filled up to a word by one that does nothing."""
    return struct.pack("!BBBB", 1, 3, 3, shift)
