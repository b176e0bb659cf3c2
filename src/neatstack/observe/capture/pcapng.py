"""The pcapng file format (draft-ietf-opsawg-pcapng), as far as a capture of Ethernet frames needs it."""

import platform
import struct
from collections.abc import Iterable
from typing import IO

from neatstack import __version__

SECTION, INTERFACE, STATISTICS, PACKET = 0x0A0D0D0A, 1, 5, 6  # block types
BYTE_ORDER = 0x1A2B3C4D
ETHERNET = 1  # LINKTYPE_ETHERNET
INBOUND, OUTBOUND = 1, 2  # epb_flags
END, COMMENT = 0, 1  # options of every block
OS, APPLICATION = 3, 4
NAME, DESCRIPTION, RESOLUTION, FILTER = 2, 3, 9, 11
NANOSECONDS = 9  # of RESOLUTION: 10**-9 s
FLAGS = 2
START_TIME, END_TIME, RECEIVED, DROPPED, ACCEPTED, DELIVERED = 2, 3, 4, 5, 6, 8
PACKET_HEADER = struct.Struct("=7I")
PACKET_OPTIONS = {out: struct.pack("=HHIHH", FLAGS, 4, OUTBOUND if out else INBOUND, END, 0) for out in (False, True)}
LENGTH = struct.Struct("=I")


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def options(given: Iterable[tuple[int, bytes]]) -> bytes:
    return b"".join(struct.pack("=HH", code, len(data)) + padded(data) for code, data in given) + bytes(4)


def block(kind: int, body: bytes) -> bytes:
    length = len(body) + 12
    return struct.pack("=II", kind, length) + body + LENGTH.pack(length)


def halves(ns: int) -> bytes:
    return struct.pack("=II", ns >> 32, ns & 0xFFFFFFFF)


class Writer:
    """Writes to `file`, which is the caller's. Times are nanoseconds since 1970. OSError as write() fails."""

    def __init__(self, file: IO[bytes], snaplen: int, filter_text: str = "") -> None:
        self.file = file
        self.snaplen = snaplen
        self.filter_text = filter_text
        self.interfaces = 0
        system = f"{platform.system()} {platform.release()}".encode()
        about = options([(OS, system), (APPLICATION, f"neat capture {__version__}".encode())])
        file.write(block(SECTION, struct.pack("=IHHq", BYTE_ORDER, 1, 0, -1) + about))

    def interface(self, name: str, description: str) -> int:
        """One more interface; its number."""
        about = [(NAME, name.encode()), (DESCRIPTION, description.encode()), (RESOLUTION, bytes([NANOSECONDS]))]
        if self.filter_text:
            about.append((FILTER, b"\0" + self.filter_text.encode()))
        self.file.write(block(INTERFACE, struct.pack("=HHI", ETHERNET, 0, self.snaplen) + options(about)))
        self.interfaces += 1
        return self.interfaces - 1

    def packet(self, interface: int, at: int, data: bytes, outgoing: bool) -> None:
        """One packet; of it are kept `snaplen` bytes."""
        kept = data[: self.snaplen]
        room = len(kept) + -len(kept) % 4
        length = PACKET_HEADER.size + room + 16
        header = PACKET_HEADER.pack(PACKET, length, interface, at >> 32, at & 0xFFFFFFFF, len(kept), len(data))
        self.file.write(header + kept + bytes(room - len(kept)) + PACKET_OPTIONS[outgoing] + LENGTH.pack(length))

    def statistics(
        self, interface: int, started: int, ended: int, received: int, dropped: int, accepted: int, delivered: int
    ) -> None:
        """What became of an interface's packets: received in all, dropped of those, accepted by the filter, written."""
        counts = ((RECEIVED, received), (DROPPED, dropped), (ACCEPTED, accepted), (DELIVERED, delivered))
        about = [(START_TIME, halves(started)), (END_TIME, halves(ended))]
        about += [(code, struct.pack("=Q", count)) for code, count in counts]
        self.file.write(block(STATISTICS, struct.pack("=I", interface) + halves(ended) + options(about)))
