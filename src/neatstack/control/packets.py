"""IPv4 packets as link has them: fragments put together and cut, and errors about what nobody here takes (RFC 792)."""

import secrets
import time
from collections.abc import Callable

from neatstack.control import frames
from neatstack.dataplane.ip.reassembler import Reassembler

ERRORS = 200  # a second, as of a replica (RFC 1122 section 3.2.2.1)
QUOTED = 128  # bytes of what an error is about
UNREACHABLE, PROTOCOL = 3, 2  # type and code
TIME_EXCEEDED, REASSEMBLY = 11, 1
IGMP, TCP, UDP = 2, 6, 17  # TCP and UDP come here only when they are too short to be told apart


class Limit:
    """So many a second, and no more at one time."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.left = float(rate)
        self.at = time.monotonic()

    def allows(self) -> bool:
        """Whether there may be one more now; take() says that there was."""
        now = time.monotonic()
        self.left = min(float(self.rate), self.left + (now - self.at) * self.rate)
        self.at = now
        return self.left >= 1

    def take(self) -> None:
        self.left -= 1


def now_ns() -> int:
    return round(time.monotonic() * 1e9)


class Packets:
    """Those of one address. `send` takes an IPv4 packet and who it is for; `errors` may leave in a second."""

    def __init__(
        self, mac: bytes, address: bytes, send: Callable[[bytes, bytes], None], ttl: int, errors: int = ERRORS
    ) -> None:
        self.mac = mac
        self.address = address
        self.ttl = ttl
        self._send = send
        self._errors = Limit(errors)
        self._reassembler = Reassembler(secrets.token_bytes(16))

    # rfc: 1122:echo-whole protocol-unreachable, 792:unreachable-sent
    def whole(self, frame: bytes) -> bytes | None:
        """The frame of a whole ICMP packet that this one is, or makes complete; None: nothing to be answered."""
        packet = frames.parse_ip(frame, self.mac, self.address)
        if packet is None:
            return None
        fragment = int.from_bytes(packet[6:8], "big")
        if packet[9] != frames.ICMP:
            if packet[9] not in (IGMP, TCP, UDP) and not fragment & frames.OFFSET:
                self._error(UNREACHABLE, PROTOCOL, packet)
            return None
        if not fragment & frames.FRAGMENT:
            return frame
        made = self._reassembler.take(packet, now_ns())
        return None if made is None else frame[: frames.ETHERNET.size] + made

    # rfc: 1122:time-exceeded-reassembly, 792:reassembly-discard
    def run_timers(self) -> float | None:
        """Give up datagrams that are not complete in time; seconds until there is the next such."""
        now = now_ns()
        for quoted in self._reassembler.expired(now):
            self._error(TIME_EXCEEDED, REASSEMBLY, quoted)
        deadline = self._reassembler.deadline()
        return None if deadline is None else (deadline - now) / 1e9

    # rfc: 1122:no-error-about-error error-quotes, 792:error-about-icmp error-first unused
    def _error(self, kind: int, code: int, packet: bytes) -> None:
        """Tell the source; never about an error (RFC 1122 section 3.2.2)."""
        header = (packet[0] & 15) * 4
        if packet[9] == frames.ICMP and packet[header : header + 1] != bytes([frames.ECHO]):
            return
        if not self._errors.allows():
            return
        self._errors.take()
        message = frames.error(kind, code, packet[:QUOTED])
        self._send(frames.icmp_packet(self.address, packet[12:16], message, self.ttl), packet[12:16])
