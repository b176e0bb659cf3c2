"""Which groups of IPv4 the stack listens to (RFC 9776, IGMPv3, and for older routers RFC 2236 and RFC 1112)."""

import struct
from collections.abc import Callable, Sequence

from neatstack.control import frames
from neatstack.control.membership import QUERY_EVERY, ROBUSTNESS, Membership, scaled

PROTOCOL = 2
QUERY, REPORT1, REPORT2, LEAVE2, REPORT3 = 0x11, 0x12, 0x16, 0x17, 0x22
ALL_HOSTS, ALL_ROUTERS, REPORTS = (bytes((224, 0, 0, n)) for n in (1, 2, 22))
ROUTER_ALERT = bytes((0x94, 4, 0, 0))  # RFC 2113
INTERNETWORK_CONTROL = 0xC0  # precedence, section 4
OLDER_QUERY, QUERY3 = 8, 12  # bytes, of the older versions and at least of the newest
LONGEST_WAIT = 10.0  # seconds: RFC 1112's queries do not tell
MOST_RECORDS = 150  # in one report: 1200 bytes


class Igmp(Membership):
    """The groups of the stack, which speaks with the first of its `addresses`. `send` takes a group and an IPv4 packet
    for it."""

    newest = 3
    everything = bytes(4)

    def __init__(self, mac: bytes, addresses: Sequence[bytes], send: Callable[[bytes, bytes], None]) -> None:
        super().__init__()
        self.mac, self.addresses = mac, addresses
        self._send = send

    # rfc: 9776:4-unknown 4.1.2-checksum 4.1.10-more 4.1.12-anywhere 7.1-version 7.2.1-linear 9.1-alert 9.1-general
    def receive(self, frame: bytes, now: float) -> None:
        """What a router asks. All else, and what is not exactly right, is dropped."""
        packet = frames.parse_packet(frame, self.mac)
        if packet is None or packet[9] != PROTOCOL or int.from_bytes(packet[6:8], "big") & frames.FRAGMENT:
            return
        header = (packet[0] & 15) * 4
        options, message = packet[frames.IP.size : header], packet[header:]
        if packet[8] != 1 or len(message) < OLDER_QUERY or message[0] != QUERY or frames.checksum(message):
            return
        code, destination = message[1], packet[16:20]
        version = 3 if len(message) >= QUERY3 else 2 if code else 1
        # from elsewhere, or by no router
        if (version > 1 and ROUTER_ALERT not in options) or OLDER_QUERY < len(message) < QUERY3:
            return
        group = message[4:8] if version > 1 else self.everything  # RFC 1112 appendix I: ignored
        if destination != ALL_HOSTS and destination not in self.addresses:
            if group == self.everything or destination not in self.groups:
                return
        tenths = code if version == 2 else scaled(code, 8)
        self._query(version, group, LONGEST_WAIT if version == 1 else tenths / 10, now)

    # rfc: 9776:8.12-older
    def _older_for(self, wait: float) -> float:
        return ROBUSTNESS * QUERY_EVERY + 10 * wait

    # rfc: 9776:5-all-hosts
    def _is_told(self, group: bytes) -> bool:
        return group != ALL_HOSTS

    # rfc: 9776:4.2.11-auxiliary 4.2.12-more 4.2.17-size
    def _report(self, records: list[tuple[int, bytes]]) -> None:
        for first in range(0, len(records), MOST_RECORDS):
            some = records[first : first + MOST_RECORDS]
            packed = [bytes((kind, 0, 0, 0)) + group for kind, group in some]
            self._put(REPORTS, struct.pack("!BBHHH", REPORT3, 0, 0, 0, len(packed)) + b"".join(packed))

    # rfc: 9776:4-older
    def _report_older(self, version: int, group: bytes, joined: bool) -> None:
        if joined:
            self._put(group, bytes((REPORT1 if version == 1 else REPORT2, 0, 0, 0)) + group)
        elif version == 2:
            self._put(ALL_ROUTERS, bytes((LEAVE2, 0, 0, 0)) + group)

    # rfc: 9776:4-header 4.2.14-source
    def _put(self, group: bytes, message: bytes) -> None:
        message = message[:2] + frames.checksum(message).to_bytes(2, "big") + message[4:]
        length = frames.IP.size + len(ROUTER_ALERT) + len(message)
        fixed = INTERNETWORK_CONTROL, length, 0, frames.DONT_FRAGMENT, 1, PROTOCOL, 0  # the identification is free then
        header = frames.IP.pack(0x46, *fixed, self.addresses[0], group) + ROUTER_ALERT
        self._send(group, header[:10] + frames.checksum(header).to_bytes(2, "big") + header[12:] + message)
