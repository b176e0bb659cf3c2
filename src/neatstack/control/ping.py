"""Echo requests that link sends (RFC 792): for `neat ping`, which asks for one after the other."""

import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from neatstack.control import frames

MOST = 256  # on their way at one time
LONGEST_WAIT = 60.0  # seconds
HEADERS = 28  # bytes of IPv4 and ICMP
LONGEST = 65535  # bytes of an IPv4 packet, which may go in fragments
UNREACHABLE, TIME_EXCEEDED = 3, 11  # ICMP types
LOOPBACK = 127

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
    """Those of one stack. `route` says who takes packets for an address (None: nobody), `mac` whether it is known."""

    def __init__(
        self,
        own: bytes,
        route: Callable[[bytes], bytes | None],
        mac: Callable[[bytes], bytes | None],
        send: Callable[[bytes, bytes], None],
    ) -> None:
        self.own = own
        self._route, self._mac, self._send = route, mac, send
        self.ident = int.from_bytes(os.urandom(2), "big")
        self.under_way: dict[int, Echo] = {}  # by the sequence number on the wire

    def start(self, message: dict[str, Any], done: Done) -> None:
        """`done` gets the answer, perhaps at once. Raises ValueError for what cannot be sent."""
        destination = IPv4Address(message["address"])
        size, wait, sequence = message["size"], message["timeout"], message["sequence"]
        if type(size) is not int or not 0 <= size <= LONGEST - HEADERS:
            raise ValueError(f"{size} bytes do not go into one packet; at most {LONGEST - HEADERS} do")
        if type(sequence) is not int or not 0 < wait <= LONGEST_WAIT or len(self.under_way) >= MOST:
            raise ValueError("too many, or too long to wait")
        if destination.is_multicast or int(destination) == 0xFFFFFFFF or destination.is_unspecified:
            raise ValueError(f"{destination} is no address of one host")
        echo = Echo(destination.packed, sequence & 0xFFFF, payload(size), done, time.monotonic() + wait)
        if echo.destination == self.own or echo.destination[0] == LOOPBACK:
            self._to_ourselves(echo)
            return
        if self._route(echo.destination) is None:
            done({"outcome": "no route"})
            return
        former = self.under_way.pop(echo.sequence, None)
        if former is not None:
            former.done({"outcome": "timeout"})
        self.under_way[echo.sequence] = echo
        self._try(echo)

    def _message(self, echo: Echo) -> bytes:
        return frames.echo(frames.ECHO, self.ident, echo.sequence, echo.payload)

    def _to_ourselves(self, echo: Echo) -> None:
        """What would go over the loopback: there is the one who answers, here."""
        sent = time.perf_counter_ns()
        reply = frames.reply_to(self._message(echo))
        self._arrived(echo, reply, frames.TTL, time.perf_counter_ns() - sent)

    def _try(self, echo: Echo) -> None:
        hop = self._route(echo.destination)
        mac = self._mac(hop) if hop is not None else None
        if mac is None:
            return
        echo.sent_ns = time.monotonic_ns()
        self._send(mac, frames.icmp_packet(self.own, echo.destination, self._message(echo)))

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
                echo.done({"outcome": "unreachable", "from": str(IPv4Address(self.own)), "code": 1})

    def receive(self, packet: bytes) -> bool:
        """An ICMP packet over IPv4 for us; True: it was an answer."""
        if not self.under_way:
            return False
        now = time.monotonic_ns()
        header = (packet[0] & 15) * 4
        message, source = packet[header:], packet[12:16]
        if message[0] == frames.ECHO_REPLY:
            ident, sequence = struct.unpack_from("!HH", message, 4)
            echo = self.under_way.get(sequence)
            if ident != self.ident or echo is None or source != echo.destination or not echo.sent_ns:
                return False
            del self.under_way[sequence]
            self._arrived(echo, message, packet[8], now - echo.sent_ns)
            return True
        if message[0] in (UNREACHABLE, TIME_EXCEEDED):
            return self._error(message, source)
        return False

    def _arrived(self, echo: Echo, message: bytes, ttl: int, took_ns: int) -> None:
        if message[8:] != echo.payload:
            echo.done({"outcome": "damaged"})
            return
        echo.done({"outcome": "reply", "rtt_ns": took_ns, "ttl": ttl, "bytes": len(message)})

    def _error(self, message: bytes, source: bytes) -> bool:
        """An ICMP error that quotes one of ours."""
        quoted = message[8:]
        header = (quoted[0] & 15) * 4 if quoted else 0
        if len(quoted) < header + 8 or quoted[9:10] != b"\1" or quoted[12:16] != self.own:
            return False
        kind, ident, sequence = struct.unpack_from("!B3xHH", quoted, header)
        echo = self.under_way.get(sequence)
        if kind != frames.ECHO or ident != self.ident or echo is None or quoted[16:20] != echo.destination:
            return False
        del self.under_way[sequence]
        outcome = "unreachable" if message[0] == UNREACHABLE else "time exceeded"
        echo.done({"outcome": outcome, "from": str(IPv4Address(source)), "code": message[1]})
        return True

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
