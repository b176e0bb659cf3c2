"""Which groups of IPv6 the stack listens to (RFC 9777, MLDv2, and for older routers RFC 2710)."""

from collections.abc import Callable

from neatstack.control import frames6
from neatstack.control.frames6 import Packet
from neatstack.control.membership import QUERY_EVERY, ROBUSTNESS, Membership, scaled

MOST_RECORDS = 60  # in one report: 1200 bytes
QUERY1, QUERY2 = 24, 28  # bytes, of MLDv1 and at least of MLDv2
RESPONSE = 10.0  # seconds (RFC 9777 section 9.3): for which routers let hosts answer
LINK = 2  # scope of groups (RFC 4291 section 2.7)


class Listeners(Membership):
    """The groups of the stack. `source` is its link-local address, or the unspecified one until there is one; `send`
    takes a source, a group and an ICMPv6 message."""

    newest = 2
    everything = frames6.UNSPECIFIED

    def __init__(self, source: Callable[[], bytes], send: Callable[[bytes, bytes, bytes], None]) -> None:
        super().__init__()
        self._source, self._send = source, send

    # rfc: 9777:5.1.1-code 5.1.12-more 5.1.15-anywhere 5.1.14-source 6.2-valid 8.1-version 8.2.1-linear
    def query(self, packet: Packet, now: float) -> bool:
        """A router asks (RFC 9777 section 5.1); False: not validly."""
        message = packet.message
        if packet.hops != 1 or not packet.alert or not frames6.is_link_local(packet.source):
            return False
        if len(message) != QUERY1 and len(message) < QUERY2:  # section 8.1
            return False
        version = 1 if len(message) == QUERY1 else 2
        code = int.from_bytes(message[4:6], "big")
        self._query(version, message[8:24], (code if version == 1 else scaled(code, 16)) / 1000, now)
        return True

    # rfc: 9777:9.12-older
    def _older_for(self, wait: float) -> float:
        return ROBUSTNESS * QUERY_EVERY + RESPONSE

    # rfc: 9777:6-told
    def _is_told(self, group: bytes) -> bool:
        """Not of what does not leave the host, nor of all nodes (RFC 9777 section 6)."""
        return group != frames6.ALL_NODES and group[1] & 15 >= LINK

    # rfc: 9777:5.2.16-size
    def _report(self, records: list[tuple[int, bytes]]) -> None:
        for first in range(0, len(records), MOST_RECORDS):
            message = frames6.report(records[first : first + MOST_RECORDS])
            self._send(self._source(), frames6.REPORTS, message)

    # rfc: 9777:5-older
    def _report_older(self, version: int, group: bytes, joined: bool) -> None:
        message = bytes((frames6.REPORT1 if joined else frames6.DONE1, 0, 0, 0)) + bytes(4) + group
        self._send(self._source(), group if joined else frames6.ALL_ROUTERS, message)
