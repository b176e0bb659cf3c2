"""Echo requests that link sends (RFC 792, RFC 4443): for `neat ping`, which asks for one after the other."""

import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from neatstack.control import frames, frames6
from neatstack.control.frames6 import Packet

MOST = 256  # on their way at one time
LONGEST_WAIT = 60.0  # seconds
LONGEST = 65535  # bytes of an IPv4 packet, which may go in fragments
HEADERS = {4: 28, 16: 48}  # bytes of IP and ICMP, by those of an address
UNREACHABLE, TIME_EXCEEDED = 3, 11  # ICMP types
NO_HOST = {4: 1, 16: 3}  # codes of unreachable: the host, the address

BROADCAST = b"\xff" * 4

Answer = dict[str, Any]
Done = Callable[[Answer], None]


@dataclass
class Echo:
    """One on its way, or waiting for its next hop's hardware address."""

    destination: bytes
    sequence: int
    payload: bytes
    done: Done
    until: float  # monotonic seconds
    sent_ns: int = 0  # 0: not yet


class Pings:
    """Those of one stack. `own` is the address to speak with to another (itself, if it is ours), `route` says who takes
    packets for an address (None: nobody), `mac` whether it is known; `ttl` is that of packets to an address."""

    def __init__(
        self,
        own: Callable[[bytes], bytes],
        route: Callable[[bytes], bytes | None],
        mac: Callable[[bytes], bytes | None],
        send: Callable[[bytes, bytes], None],
        ttl: Callable[[bytes], int],
    ) -> None:
        self.own, self.ttl = own, ttl
        self._route, self._mac, self._send = route, mac, send
        self.ident = int.from_bytes(os.urandom(2), "big")
        self.under_way: dict[int, Echo] = {}  # by the sequence number on the wire

    # rfc: 1122:echo-client, 4443:4.1-client
    def start(self, message: dict[str, Any], done: Done) -> None:
        """`done` gets the answer, perhaps at once. Raises ValueError for what cannot be sent."""
        destination = ip_address(message["address"])
        most = LONGEST - HEADERS[len(destination.packed)]
        size, wait, sequence = message["size"], message["timeout"], message["sequence"]
        if type(size) is not int or not 0 <= size <= most:
            raise ValueError(f"{size} bytes do not go into one packet; at most {most} do")
        if type(sequence) is not int or not 0 < wait <= LONGEST_WAIT or len(self.under_way) >= MOST:
            raise ValueError("too many, or too long to wait")
        if destination.is_multicast or destination.packed == BROADCAST or destination.is_unspecified:
            raise ValueError(f"{destination} is no address of one host")
        echo = Echo(destination.packed, sequence & 0xFFFF, payload(size), done, time.monotonic() + wait)
        if destination.is_loopback or self.own(echo.destination) == echo.destination:
            self._to_ourselves(echo)
            return
        if self._route(echo.destination) is None or not self.own(echo.destination):
            done({"outcome": "no route"})
            return
        former = self.under_way.pop(echo.sequence, None)
        if former is not None:
            former.done({"outcome": "timeout"})
        self.under_way[echo.sequence] = echo
        self._try(echo)

    def _packet(self, echo: Echo) -> bytes:
        own = self.own(echo.destination)
        if len(own) == 16:
            message = frames6.echo(frames6.ECHO, self.ident, echo.sequence, echo.payload)
            return frames6.build(own, echo.destination, message, self.ttl(echo.destination))
        return frames.icmp_packet(own, echo.destination, self._message(echo), self.ttl(echo.destination))

    def _message(self, echo: Echo) -> bytes:
        return frames.echo(frames.ECHO, self.ident, echo.sequence, echo.payload)

    def _to_ourselves(self, echo: Echo) -> None:
        """What would go over the loopback: there is the one who answers, here."""
        sent = time.perf_counter_ns()
        reply = frames.reply_to(self._message(echo))
        self._arrived(echo, reply, self.ttl(echo.destination), time.perf_counter_ns() - sent)

    def _try(self, echo: Echo) -> None:
        hop = self._route(echo.destination)
        mac = self._mac(hop) if hop is not None else None
        if mac is None:
            return
        echo.sent_ns = time.monotonic_ns()
        self._send(mac, self._packet(echo))

    def found(self) -> None:
        """A neighbour may be known now."""
        for echo in self.under_way.values():
            if not echo.sent_ns:
                self._try(echo)

    def failed(self, hop: bytes) -> None:
        """Nobody answers for this next hop."""
        for sequence, echo in list(self.under_way.items()):
            if not echo.sent_ns and self._route(echo.destination) == hop:
                del self.under_way[sequence]
                own, code = ip_address(self.own(echo.destination)), NO_HOST[len(echo.destination)]
                echo.done({"outcome": "unreachable", "from": str(own), "code": code})

    def receive(self, packet: bytes) -> bool:
        """An ICMP packet over IPv4 for us; True: it was an answer."""
        if not self.under_way:
            return False
        now = time.monotonic_ns()
        header = (packet[0] & 15) * 4
        message, source = packet[header:], packet[12:16]
        if message[0] == frames.ECHO_REPLY:
            return self._replied(message, source, packet[8], now)
        if message[0] in (UNREACHABLE, TIME_EXCEEDED):
            quoted = message[8:]
            header = (quoted[0] & 15) * 4 if quoted else 0
            if len(quoted) < header + 8 or quoted[9:10] != b"\1" or quoted[12:16] != self.own(quoted[16:20]):
                return False
            outcome = "unreachable" if message[0] == UNREACHABLE else "time exceeded"
            return self._failed(quoted[header:], frames.ECHO, quoted[16:20], outcome, message[1], source)
        return False

    # rfc: 4443:4.2-passed
    def receive6(self, packet: Packet) -> bool:
        """The same over IPv6."""
        now = time.monotonic_ns()
        message = packet.message
        if packet.kind == frames6.ECHO_REPLY:
            return self._replied(message, packet.source, packet.hops, now)
        if packet.kind in (frames6.UNREACHABLE, frames6.TIME_EXCEEDED):
            quoted = message[8:]
            if len(quoted) < frames6.IP6.size + 8 or quoted[0] >> 4 != 6 or quoted[6] != frames6.ICMP6:
                return False
            outcome = "unreachable" if packet.kind == frames6.UNREACHABLE else "time exceeded"
            return self._failed(quoted[40:], frames6.ECHO, quoted[24:40], outcome, packet.code, packet.source)
        return False

    def _replied(self, message: bytes, source: bytes, hops: int, now: int) -> bool:
        ident, sequence = struct.unpack_from("!HH", message, 4)
        echo = self.under_way.get(sequence)
        if ident != self.ident or echo is None or source != echo.destination or not echo.sent_ns:
            return False
        del self.under_way[sequence]
        self._arrived(echo, message, hops, now - echo.sent_ns)
        return True

    def _failed(self, quoted: bytes, asked: int, to: bytes, outcome: str, code: int, source: bytes) -> bool:
        """An ICMP error that quotes a message to `to`: perhaps one of ours."""
        kind, ident, sequence = struct.unpack_from("!B3xHH", quoted)
        echo = self.under_way.get(sequence)
        if kind != asked or ident != self.ident or echo is None or to != echo.destination:
            return False
        del self.under_way[sequence]
        echo.done({"outcome": outcome, "from": str(ip_address(source)), "code": code})
        return True

    def _arrived(self, echo: Echo, message: bytes, ttl: int, took_ns: int) -> None:
        if message[8:] != echo.payload:
            echo.done({"outcome": "damaged"})
            return
        echo.done({"outcome": "reply", "rtt_ns": took_ns, "ttl": ttl, "bytes": len(message)})

    def run_timers(self, now: float) -> float | None:
        """Give up those whose time is over; when the next one's is (monotonic seconds)."""
        for sequence, echo in list(self.under_way.items()):
            if echo.until <= now:
                del self.under_way[sequence]
                echo.done({"outcome": "timeout"})
        return min((echo.until for echo in self.under_way.values()), default=None)


def payload(size: int) -> bytes:
    """Bytes that count up, as other pings send."""
    return bytes(range(256)) * (size // 256) + bytes(range(size % 256))
