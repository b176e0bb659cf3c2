"""ICMPv6 messages that come in fragments (RFC 8200 section 4.5): large echo requests, and replies to ours."""

import secrets
import time
from collections.abc import Callable

from neatstack.control import frames6
from neatstack.control.packets import ERRORS, Limit, now_ns
from neatstack.dataplane.ip.reassembler import Reassembler


class Fragments6:
    """What waits to be complete. `send` takes source, destination and message; `is_own` knows our addresses."""

    def __init__(
        self, send: Callable[[bytes, bytes, bytes], None], is_own: Callable[[bytes], bool], errors: int = ERRORS
    ) -> None:
        self._send, self._is_own = send, is_own
        self._errors = Limit(errors)
        self._reassembler = Reassembler(secrets.token_bytes(16))

    def take(self, packet: bytes) -> bytes | None:
        """The packet that this fragment has made complete."""
        return self._reassembler.take6(packet, now_ns()) if self._is_own(packet[24:40]) else None

    # rfc: 4443:2.4-no-error 2.4-rate, 8200:4.5-minute
    def run_timers(self) -> float | None:
        """Give up what is not complete in time, and tell its source (RFC 4443 section 3.3); when the next is due."""
        for quoted in self._reassembler.expired(now_ns()):
            informational = quoted[frames6.IP6.size] >= frames6.ECHO
            if informational and self._is_own(quoted[24:40]) and self._errors.allows():
                self._errors.take()
                message = bytes((frames6.TIME_EXCEEDED, frames6.REASSEMBLY)) + bytes(6) + quoted
                self._send(quoted[24:40], quoted[8:24], message)
        deadline = self._reassembler.deadline()
        return None if deadline is None else time.monotonic() + (deadline - now_ns()) / 1e9
