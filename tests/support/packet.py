"""Ethernet, IPv4 and TCP in plain Python: the data plane's frames are read and made by other code than its own."""

from __future__ import annotations

import functools
import ipaddress
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

ETHERNET = 14
FLAGS = "FSRPAUEC"  # bit 0 first
BROADCAST = b"\xff" * 6


class Malformed(AssertionError):
    """A frame that left the stack is not what the RFCs allow."""


def checksum(data: bytes) -> int:
    """RFC 1071, of `data` padded to 16 bits: 2^16 is 1 modulo 0xFFFF, so the one's complement sum is a remainder."""
    if len(data) & 1:
        data += b"\0"
    return -int.from_bytes(data, "big") % 0xFFFF


def is_sound(data: bytes) -> bool:
    """True when a checksum inside `data` is right."""
    return checksum(data) == 0


@functools.cache
def address(text: str) -> bytes:
    return ipaddress.IPv4Address(text).packed


def flag_bits(text: str) -> int:
    return sum(1 << FLAGS.index(letter) for letter in text)


def flag_text(bits: int) -> str:
    """In the order in which RFC 9293 draws them, so a SYN-ACK is "SA"."""
    return "".join(letter for bit, letter in enumerate(FLAGS) if bits >> bit & 1)


# ---- options ----


def option(kind: int, value: bytes = b"") -> bytes:
    return bytes([kind, len(value) + 2]) + value


def mss(value: int) -> bytes:
    return option(2, struct.pack("!H", value))


def wscale(shift: int) -> bytes:
    return option(3, bytes([shift]))


NOP, END, SACK_PERMITTED = b"\x01", b"\x00", option(4)


def read_options(data: bytes) -> dict[int, bytes]:
    """Kind to value; raises Malformed where RFC 9293 section 3.1 is broken."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        kind = data[at]
        if kind == 0:
            if any(data[at:]):
                raise Malformed("padding after the end of options is not zero")
            break
        if kind == 1:
            at += 1
            continue
        length = data[at + 1] if at + 1 < len(data) else 0
        if length < 2 or at + length > len(data) or kind in found:
            raise Malformed(f"options {data.hex()}")
        found[kind] = data[at + 2 : at + length]
        at += length
    return found


# ---- segments ----


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One TCP segment with what matters of its IP header. Sequence numbers are absolute here."""

    source: str
    destination: str
    source_port: int
    destination_port: int
    seq: int
    ack: int = 0
    flags: str = "A"
    window: int = 65535
    payload: bytes = b""
    options: bytes = b""
    urgent: int = 0
    ttl: int = 64
    tos: int = 0
    at: float = field(default=0.0, compare=False)  # when it left, seconds of virtual time

    @property
    def length(self) -> int:
        """In sequence space: SYN and FIN count."""
        return len(self.payload) + ("S" in self.flags) + ("F" in self.flags)

    @property
    def mss(self) -> int | None:
        value = read_options(self.options).get(2)
        return None if value is None else struct.unpack("!H", value)[0]

    @property
    def wscale(self) -> int | None:
        value = read_options(self.options).get(3)
        return None if value is None else value[0]


def build_tcp(segment: Segment) -> bytes:
    """Header and payload, checksum included."""
    options = segment.options + b"\0" * (-len(segment.options) % 4)
    header = struct.pack(
        "!HHIIBBHHH",
        segment.source_port,
        segment.destination_port,
        segment.seq & 0xFFFFFFFF,
        segment.ack & 0xFFFFFFFF,
        (20 + len(options)) // 4 << 4,
        flag_bits(segment.flags),
        segment.window,
        0,
        segment.urgent,
    )
    return with_tcp_checksum(address(segment.source), address(segment.destination), header + options + segment.payload)


def with_tcp_checksum(source: bytes, destination: bytes, tcp: bytes) -> bytes:
    cleared = tcp[:16] + b"\0\0" + tcp[18:]
    pseudo = source + destination + struct.pack("!HH", 6, len(tcp))
    return cleared[:16] + struct.pack("!H", checksum(pseudo + cleared)) + cleared[18:]


def build_ip(
    payload: bytes,
    *,
    source: str,
    destination: str,
    protocol: int = 6,
    ttl: int = 64,
    tos: int = 0,
    fragment: int = 0x4000,
    options: bytes = b"",
    version: int = 4,
    total_length: int | None = None,
    identification: int = 0,
) -> bytes:
    """Every field can be told, so that a header can be wrong in one way and right in all others."""
    words = 5 + len(options) // 4
    length = words * 4 + len(payload) if total_length is None else total_length
    header = struct.pack("!BBHHHBBH", version << 4 | words, tos, length, identification, fragment, ttl, protocol, 0)
    header += address(source) + address(destination) + options
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload


def cut(packet: bytes, *sizes: int, identification: int = 1) -> list[bytes]:
    """The fragments of a packet without options: of `sizes` bytes of data, and what is left."""
    data, at, made = packet[20:], 0, []
    for size in (*sizes, len(data)):
        piece = data[at : at + size]
        if not piece:
            break
        more = 0x2000 if at + len(piece) < len(data) else 0
        head = packet[:2] + struct.pack("!HHH", 20 + len(piece), identification, more | at // 8) + packet[8:10]
        head += b"\0\0" + packet[12:20]
        made.append(head[:10] + struct.pack("!H", checksum(head)) + head[12:] + piece)
        at += len(piece)
    return made


def build_ethernet(payload: bytes, *, source: bytes, destination: bytes, ethertype: int = 0x0800) -> bytes:
    return destination + source + struct.pack("!H", ethertype) + payload


def build(segment: Segment, *, source_mac: bytes, destination_mac: bytes) -> bytes:
    packet = build_ip(
        build_tcp(segment), source=segment.source, destination=segment.destination, ttl=segment.ttl, tos=segment.tos
    )
    return build_ethernet(packet, source=source_mac, destination=destination_mac)


def build_all_ones(segment: Segment, *, source_mac: bytes, destination_mac: bytes) -> bytes:
    """With two more bytes of text, so that its checksum is zero, which is written as all ones (RFC 1624 section 3)."""
    at = ETHERNET + 20 + 16
    plain = build(
        replace(segment, payload=segment.payload + b"\0\0"), source_mac=source_mac, destination_mac=destination_mac
    )
    return plain[:at] + b"\xff\xff" + plain[at + 2 : -2] + plain[at : at + 2]


def parse(frame: bytes, *, at: float = 0.0, mtu: int | None = 1500) -> Segment:
    """Read a frame and refuse whatever is not wholly right: checksums, lengths, options, reserved bits."""
    if struct.unpack_from("!H", frame, 12)[0] != 0x0800:
        raise Malformed("not IPv4")
    packet = frame[ETHERNET:]
    first, tos, total, _, fragment, ttl, protocol = struct.unpack_from("!BBHHHBB", packet)
    if first != 0x45 or protocol != 6 or fragment & 0xBFFF or ttl == 0:
        raise Malformed(f"IPv4 header {packet[:20].hex()}")
    if total != len(packet) or (mtu is not None and total > mtu):
        raise Malformed(f"IPv4 total length {total} of {len(packet)} bytes, MTU {mtu}")
    if not is_sound(packet[:20]):
        raise Malformed("IPv4 checksum")
    tcp = packet[20:]
    if not is_sound(packet[12:20] + struct.pack("!HH", 6, len(tcp)) + tcp):
        raise Malformed("TCP checksum")
    source_port, destination_port, seq, ack, offset, flags, window, _, urgent = struct.unpack_from("!HHIIBBHHH", tcp)
    if offset & 0x0F or not 20 <= offset >> 2 <= len(tcp):
        raise Malformed(f"TCP data offset byte {offset:#x}")
    segment = Segment(
        source=str(ipaddress.IPv4Address(packet[12:16])),
        destination=str(ipaddress.IPv4Address(packet[16:20])),
        source_port=source_port,
        destination_port=destination_port,
        seq=seq,
        ack=ack,
        flags=flag_text(flags),
        window=window,
        payload=tcp[offset >> 2 :],
        options=tcp[20 : offset >> 2],
        urgent=urgent,
        ttl=ttl,
        tos=tos,
        at=at,
    )
    read_options(segment.options)
    if "A" not in segment.flags and ack:
        raise Malformed("an acknowledgment number without ACK")
    return segment


# ---- datagrams ----


@dataclass(frozen=True, kw_only=True)
class Datagram:
    """One UDP datagram with what matters of its IP header."""

    source: str
    destination: str
    source_port: int
    destination_port: int
    payload: bytes = b""
    ttl: int = 64
    tos: int = 0
    at: float = field(default=0.0, compare=False)


def build_udp(d: Datagram, *, checked: bool = True, length: int | None = None) -> bytes:
    """Header and payload; without `checked` the checksum is left out, as RFC 768 allows."""
    length = 8 + len(d.payload) if length is None else length
    udp = struct.pack("!HHHH", d.source_port, d.destination_port, length, 0) + d.payload
    pseudo = address(d.source) + address(d.destination) + struct.pack("!HH", 17, length)
    value = (checksum(pseudo + udp) or 0xFFFF) if checked else 0
    return udp[:6] + struct.pack("!H", value) + udp[8:]


def build_datagram(d: Datagram, *, source_mac: bytes, destination_mac: bytes, checked: bool = True) -> bytes:
    packet = build_ip(
        build_udp(d, checked=checked), source=d.source, destination=d.destination, protocol=17, ttl=d.ttl, tos=d.tos
    )
    return build_ethernet(packet, source=source_mac, destination=destination_mac)


def build_icmp(kind: int, code: int, quoted: bytes, *, source: str, destination: str, rest: int = 0) -> bytes:
    """An IPv4 packet with an ICMP message; `rest` is its second word."""
    icmp = struct.pack("!BBHI", kind, code, 0, rest) + quoted
    icmp = icmp[:2] + struct.pack("!H", checksum(icmp)) + icmp[4:]
    return build_ip(icmp, source=source, destination=destination, protocol=1)


def is_udp(frame: bytes) -> bool:
    return frame[12:14] == b"\x08\x00" and frame[23] == 17


def parse_datagram(frame: bytes, *, at: float = 0.0, mtu: int = 1500) -> Datagram:
    """As parse(), of a datagram that is no fragment."""
    packet = frame[ETHERNET:]
    first, tos, total, _, fragment, ttl, protocol = struct.unpack_from("!BBHHHBB", packet)
    if first != 0x45 or protocol != 17 or fragment & 0xBFFF or ttl == 0:
        raise Malformed(f"IPv4 header {packet[:20].hex()}")
    if total != len(packet) or total > mtu or not is_sound(packet[:20]):
        raise Malformed(f"IPv4 header {packet[:20].hex()} of {len(packet)} bytes, MTU {mtu}")
    return _read_datagram(packet[:20], packet[20:], at)


def join(frames: list[bytes], *, mtu: int = 1500) -> Datagram:
    """The datagram that these fragments make, in the order in which they were sent."""
    whole, number = b"", None
    for frame in frames:
        packet = frame[ETHERNET:]
        total, this, fragment = struct.unpack_from("!HHH", packet, 2)
        last = frame is frames[-1]
        if total != len(packet) or total > mtu or not is_sound(packet[:20]) or number not in (None, this):
            raise Malformed(f"fragment {packet[:20].hex()}")
        if fragment & 0x1FFF != len(whole) // 8 or bool(fragment & 0x2000) == last or fragment & 0xC000:
            raise Malformed(f"fragment {fragment:#x} after {len(whole)} bytes")
        number = this
        whole += packet[20:]
    return _read_datagram(frames[0][ETHERNET:][:20], whole, 0.0)


def _read_datagram(ip: bytes, udp: bytes, at: float) -> Datagram:
    source_port, destination_port, length, value = struct.unpack_from("!HHHH", udp)
    if length != len(udp) or not value or not is_sound(ip[12:20] + struct.pack("!HH", 17, length) + udp):
        raise Malformed(f"UDP header {udp[:8].hex()}")
    return Datagram(
        source=str(ipaddress.IPv4Address(ip[12:16])),
        destination=str(ipaddress.IPv4Address(ip[16:20])),
        source_port=source_port,
        destination_port=destination_port,
        payload=udp[8:],
        ttl=ip[8],
        tos=ip[1],
        at=at,
    )


def split(segment: Segment, size: int) -> Iterator[Segment]:
    """What a device with segmentation offload makes of a segment: pieces of `size` bytes.

    FIN and PSH are on the last, CWR is on the first.
    """
    if not size or len(segment.payload) <= size:
        yield segment
        return
    for offset in range(0, len(segment.payload), size):
        last = offset + size >= len(segment.payload)
        flags = segment.flags if last else segment.flags.replace("F", "").replace("P", "")
        flags = flags.replace("C", "") if offset else flags
        yield replace(
            segment, seq=segment.seq + offset & 0xFFFFFFFF, payload=segment.payload[offset : offset + size], flags=flags
        )
