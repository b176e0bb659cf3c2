"""A packet in a line, much as tcpdump says it. Whatever comes is described as far as it can be read."""

import ipaddress
import struct
import time

FLAGS = ((2, "S"), (1, "F"), (4, "R"), (8, "P"), (16, "."), (32, "U"), (64, "E"), (128, "W"))
ETHERTYPES = {0x0800: "IP", 0x86DD: "IP6", 0x0806: "ARP", 0x8100: "802.1Q"}
TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
FRAGMENT = 44  # of IPv6, a header
EXTENSIONS = (0, 43, 60)  # of IPv6, which another header follows
ICMP_NAMES = {
    ICMP: {0: "echo reply", 3: "unreachable", 5: "redirect", 8: "echo request", 11: "time exceeded"},
    ICMP6: {
        1: "unreachable", 2: "packet too big", 3: "time exceeded", 128: "echo request", 129: "echo reply",
        130: "multicast listener query", 131: "multicast listener report", 132: "multicast listener done",
        133: "router solicitation", 134: "router advertisement", 135: "neighbor solicitation",
        136: "neighbor advertisement", 137: "redirect", 143: "multicast listener report",
    },
}  # fmt: skip
FLOWS = 65536  # whose first sequence numbers are remembered


def clock(ns: int) -> str:
    """The local time of a moment, ns since 1970."""
    return f"{time.strftime('%H:%M:%S', time.localtime(ns // 10**9))}.{ns % 10**9:09d}"


class Describer:
    """Remembers where connections began, so that sequence numbers are small."""

    def __init__(self) -> None:
        self.first: dict[bytes, int] = {}

    def describe(self, frame: bytes) -> str:
        """What a frame is."""
        try:
            return self._ethernet(frame)
        except (struct.error, IndexError, ValueError):
            return f"[truncated frame of {len(frame)} bytes]"

    def _ethernet(self, frame: bytes) -> str:
        (ethertype,) = struct.unpack_from("!H", frame, 12)
        name = ETHERTYPES.get(ethertype, f"ethertype 0x{ethertype:04x}")
        packet = frame[14:]
        if name == "ARP":
            return f"ARP, {self._arp(packet)}"
        if name == "IP":
            return self._ipv4(packet)
        if name == "IP6":
            return self._ipv6(packet)
        return f"{frame[6:12].hex(':')} > {frame[:6].hex(':')}, {name}, length {len(packet)}"

    @staticmethod
    def _arp(packet: bytes) -> str:
        kind, sender_mac, sender, _, target = struct.unpack_from("!6xH6s4s6s4s", packet)
        source, destination = ipaddress.IPv4Address(sender), ipaddress.IPv4Address(target)
        if kind == 1:
            return f"Request who-has {destination} tell {source}"
        return f"Reply {source} is-at {sender_mac.hex(':')}" if kind == 2 else f"operation {kind}"

    def _ipv4(self, packet: bytes) -> str:
        header, total, fragment, protocol = (packet[0] & 15) * 4, *struct.unpack_from("!H2xHxB", packet, 2)
        source, destination = packet[12:16], packet[16:20]
        text = packet[header:total]
        if fragment & 0x3FFF:
            more = "+" if fragment & 0x2000 else ""
            ends = f"{ipaddress.IPv4Address(source)} > {ipaddress.IPv4Address(destination)}"
            return f"IP {ends}: fragment {(fragment & 0x1FFF) * 8}{more}, protocol {protocol}, length {len(text)}"
        return f"IP {self._transport(source, destination, protocol, text)}"

    def _ipv6(self, packet: bytes) -> str:
        length, protocol = struct.unpack_from("!HB", packet, 4)
        text = packet[40 : 40 + length]
        while protocol in EXTENSIONS:
            protocol, text = text[0], text[(text[1] + 1) * 8 :]
        if protocol == FRAGMENT:
            protocol, place, text = text[0], *struct.unpack_from("!H", text, 2), text[8:]
            if place & 0xFFF9:  # else it is whole (RFC 6946)
                ends = f"{ipaddress.IPv6Address(packet[8:24])} > {ipaddress.IPv6Address(packet[24:40])}"
                more = "+" if place & 1 else ""
                return f"IP6 {ends}: fragment {place & 0xFFF8}{more}, protocol {protocol}, length {len(text)}"
        return f"IP6 {self._transport(packet[8:24], packet[24:40], protocol, text)}"

    def _transport(self, source: bytes, destination: bytes, protocol: int, text: bytes) -> str:
        ends = ipaddress.ip_address(source), ipaddress.ip_address(destination)
        if protocol not in (TCP, UDP):
            said = f"protocol {protocol}" if protocol not in ICMP_NAMES else self._icmp(protocol, text)
            return f"{ends[0]} > {ends[1]}: {said}, length {len(text)}"
        ports = struct.unpack_from("!HH", text)
        flow = f"{ends[0]}.{ports[0]} > {ends[1]}.{ports[1]}: "
        if protocol == UDP:
            return f"{flow}UDP, length {len(text) - 8}"
        return flow + self._tcp(source + text[:2], destination + text[2:4], text)

    @staticmethod
    def _icmp(protocol: int, text: bytes) -> str:
        name = "ICMP" if protocol == ICMP else "ICMP6"
        kind, code, ident, number = struct.unpack_from("!BB2xHH", text)
        said = ICMP_NAMES[protocol].get(kind, f"type {kind} code {code}")
        return f"{name} {said}, id {ident}, seq {number}" if "echo" in said else f"{name} {said}"

    def _tcp(self, source: bytes, destination: bytes, text: bytes) -> str:
        seq, ack, offset, flags, window, urgent = struct.unpack_from("!IIBBH2xH", text, 4)
        header = (offset >> 4) * 4
        length = len(text) - header
        there = source + destination
        if flags & 2 or there not in self.first:
            if len(self.first) >= FLOWS:
                self.first.pop(next(iter(self.first)))
            self.first[there] = seq
            shown = seq
        else:
            shown = (seq - self.first[there]) & 0xFFFFFFFF
        said = [f"Flags [{''.join(name for bit, name in FLAGS if flags & bit) or 'none'}]"]
        if length > 0 or flags & 7:
            said.append(f"seq {shown}:{(shown + length) & 0xFFFFFFFF}" if length > 0 else f"seq {shown}")
        if flags & 16:
            base = 0 if flags & 2 else self.first.get(destination + source, 0)
            said.append(f"ack {(ack - base) & 0xFFFFFFFF}")
        said.append(f"win {window}")
        if flags & 32:
            said.append(f"urg {urgent}")
        if header > 20:
            said.append(f"options [{','.join(tcp_options(text[20:header]))}]")
        return ", ".join([*said, f"length {length}"])


def tcp_options(data: bytes) -> list[str]:
    """What the options of a TCP header say."""
    found = []
    while data and data[0]:
        kind = data[0]
        if kind == 1:
            found.append("nop")
            data = data[1:]
            continue
        length = data[1] if len(data) > 1 else 0
        if not 2 <= length <= len(data):
            return [*found, "bad"]
        found.append(_option(kind, data[2:length]))
        data = data[length:]
    return found


def _option(kind: int, value: bytes) -> str:
    if kind == 2 and len(value) == 2:
        return f"mss {int.from_bytes(value, 'big')}"
    if kind == 3 and len(value) == 1:
        return f"wscale {value[0]}"
    if kind == 4:
        return "sackOK"
    if kind == 5 and len(value) % 8 == 0:
        edges = struct.unpack(f"!{len(value) // 4}I", value)
        return "sack " + "".join(f"{{{left}:{right}}}" for left, right in zip(edges[::2], edges[1::2], strict=True))
    if kind == 8 and len(value) == 8:
        return "TS val {} ecr {}".format(*struct.unpack("!II", value))
    return f"option-{kind} {value.hex()}".rstrip()
