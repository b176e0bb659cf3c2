"""Which groups of IPv4 the stack listens to (RFC 3376, IGMPv3, and for older routers RFC 2236 and RFC 1112)."""

import struct
from collections.abc import Callable

from neatstack.control import frames
from neatstack.control.membership import Membership, scaled

PROTOCOL = 2
QUERY, REPORT1, REPORT2, LEAVE2, REPORT3 = 0x11, 0x12, 0x16, 0x17, 0x22
ALL_HOSTS, ALL_ROUTERS, REPORTS = (bytes((224, 0, 0, n)) for n in (1, 2, 22))
ROUTER_ALERT = bytes((0x94, 4, 0, 0))  # RFC 2113
INTERNETWORK_CONTROL = 0xC0  # precedence, section 4
OLDER_QUERY, QUERY3 = 8, 12  # bytes, of the older versions and at least of the newest
LONGEST_WAIT = 10.0  # seconds: RFC 1112's queries do not tell
MOST_RECORDS = 150  # in one report: 1200 bytes


class Igmp(Membership):
    """The groups of the stack, whose address is `source`. `send` takes a group and an IPv4 packet for it."""

    newest = 3
    everything = bytes(4)

    def __init__(self, mac: bytes, source: bytes, send: Callable[[bytes, bytes], None]) -> None:
        super().__init__()
        self.mac, self.source = mac, source
        self._send = send

    # rfc: 3376:4.1.12-1 7.1-1 9.1-1
    def receive(self, frame: bytes, now: float) -> None:
        """What a router asks. All else, and what is not exactly right, is dropped."""
        packet = frames.parse_packet(frame, self.mac)
        if packet is None or packet[9] != PROTOCOL or int.from_bytes(packet[6:8], "big") & frames.FRAGMENT:
            return
        header = (packet[0] & 15) * 4
        options, message = packet[frames.IP.size : header], packet[header:]
        if packet[8] != 1 or len(message) < OLDER_QUERY or message[0] != QUERY or frames.checksum(message):
            return
        code, group, destination = message[1], message[4:8], packet[16:20]
        version = 3 if len(message) >= QUERY3 else 2 if code else 1
        # from elsewhere, or by no router
        if (version > 1 and ROUTER_ALERT not in options) or OLDER_QUERY < len(message) < QUERY3:
            return
        if destination != (ALL_HOSTS if group == self.everything else group) and destination != self.source:
            return
        if group == self.everything and destination != ALL_HOSTS:
            return
        tenths = code if version == 2 else scaled(code, 8)
        self._query(version, group, LONGEST_WAIT if version == 1 else tenths / 10, now)

    # rfc: 3376:5-1
    def _is_told(self, group: bytes) -> bool:
        return group != ALL_HOSTS

    def _report(self, records: list[tuple[int, bytes]]) -> None:
        for first in range(0, len(records), MOST_RECORDS):
            some = records[first : first + MOST_RECORDS]
            packed = [bytes((kind, 0, 0, 0)) + group for kind, group in some]
            self._put(REPORTS, struct.pack("!BBHHH", REPORT3, 0, 0, 0, len(packed)) + b"".join(packed))

    def _report_older(self, version: int, group: bytes, joined: bool) -> None:
        if joined:
            self._put(group, bytes((REPORT1 if version == 1 else REPORT2, 0, 0, 0)) + group)
        elif version == 2:
            self._put(ALL_ROUTERS, bytes((LEAVE2, 0, 0, 0)) + group)

    # rfc: 3376:4-1
    def _put(self, group: bytes, message: bytes) -> None:
        message = message[:2] + frames.checksum(message).to_bytes(2, "big") + message[4:]
        length = frames.IP.size + len(ROUTER_ALERT) + len(message)
        header = frames.IP.pack(0x46, INTERNETWORK_CONTROL, length, 0, 0, 1, PROTOCOL, 0, self.source, group)
        header += ROUTER_ALERT
        self._send(group, header[:10] + frames.checksum(header).to_bytes(2, "big") + header[12:] + message)
