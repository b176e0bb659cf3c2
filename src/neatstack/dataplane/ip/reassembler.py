"""Reassembly for Python: for link, and for tests."""

import cython
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.neatstack.dataplane.ip.reassembly import (
    WHOLE,
    Fragment,
    beginning,
    destroy_reassembly,
    expire,
    gather_packet,
    gather_packet6,
    init_reassembly,
    overdue,
    reassembly_deadline,
)
from cython.cimports.neatstack.dataplane.stack import FRAGMENT_HEADER, Counters, Drop, Partial, Reassembly
from cython.cimports.neatstack.dataplane.wire.headers import (
    FRAGMENT_HEADER6,
    IP6_HEADER,
    IP_HEADER,
    PROTOCOL_FRAGMENT,
)


@cython.final
@cython.cclass
class Reassembler:
    """One of its own. Times are in nanoseconds, and do not go back."""

    _r: Reassembly
    _counters: Counters

    def __cinit__(self, key: bytes):
        keys: object = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:16], "little")
        if init_reassembly(cython.address(self._r), cython.address(self._counters), keys[0], keys[1]) < 0:
            raise MemoryError

    def __dealloc__(self):
        destroy_reassembly(cython.address(self._r))

    def take(self, packet: bytes, now: int) -> bytes | None:
        """The datagram that this IPv4 packet, a fragment, has made complete. ValueError: its header is no good."""
        octets: cython.p_char = packet
        if len(packet) < IP_HEADER or packet[0] >> 4 != 4 or not IP_HEADER <= (packet[0] & 15) * 4 <= len(packet):
            raise ValueError("no IPv4 header")
        if not (packet[0] & 15) * 4 <= int.from_bytes(packet[2:4], "big") <= len(packet):
            raise ValueError("a wrong length")
        return self._made(gather_packet(cython.address(self._r), now, cython.cast(cython.pointer[uint8_t], octets)))

    # rfc: 6946:atomic others, 8200:4.5-atomic
    def take6(self, packet: bytes, now: int) -> bytes | None:
        """The same of an IPv6 packet whose fragment header is its first. One that is whole has waited for no other
        (RFC 6946 section 4)."""
        octets: cython.p_char = packet
        f: Fragment
        result: cython.int
        end: object = IP6_HEADER + int.from_bytes(packet[4:6], "big")
        if len(packet) < IP6_HEADER + FRAGMENT_HEADER6 or packet[0] >> 4 != 6 or packet[6] != PROTOCOL_FRAGMENT:
            raise ValueError("no fragment over IPv6")
        if not IP6_HEADER + FRAGMENT_HEADER6 <= end <= len(packet):
            raise ValueError("a wrong length")
        place: uint16_t = int.from_bytes(packet[42:44], "big")
        if not place & 0xFFF9:
            length: object = (end - IP6_HEADER - FRAGMENT_HEADER6).to_bytes(2, "big")
            return packet[:4] + length + packet[40:41] + packet[7:IP6_HEADER] + packet[48:end]
        f.offset = place & 0xFFF8
        f.more = place & 1
        f.data = cython.cast(cython.pointer[uint8_t], octets) + IP6_HEADER + FRAGMENT_HEADER6
        f.length = end - IP6_HEADER - FRAGMENT_HEADER6
        if (f.more and f.length & 7) or f.offset + f.length > 0xFFFF:
            result = Drop.DROP_FRAGMENT
        else:
            result = gather_packet6(
                cython.address(self._r), now, cython.address(f), cython.cast(cython.pointer[uint8_t], octets), 6, 40
            )
        return self._made(result)

    def _made(self, result: cython.int) -> bytes | None:
        """What is whole; what was dropped is counted."""
        if result >= 0:
            self._counters.drops[result] += 1
        if result != WHOLE:
            return None
        return cython.cast(cython.p_char, self._r.whole)[: self._r.whole_length]

    def expired(self, now: int) -> list[bytes]:
        """Give up what has waited too long; the beginnings of those that somebody is to be told of."""
        found: list = []
        quoted: uint8_t[FRAGMENT_HEADER]
        length: uint32_t
        p: cython.pointer[Partial] = overdue(cython.address(self._r), now)
        while p != cython.NULL:
            length = beginning(cython.address(self._r), p, quoted, FRAGMENT_HEADER)
            if length:
                found.append(cython.cast(cython.p_char, quoted)[:length])
            expire(cython.address(self._r), p)
            p = overdue(cython.address(self._r), now)
        return found

    def deadline(self) -> int | None:
        """When expired() has something to do."""
        at: uint64_t = reassembly_deadline(cython.address(self._r))
        return at if at else None

    def counters(self) -> dict[str, int]:
        """Datagrams put together, and what was dropped for which reason: names as of a replica's counters."""
        drops: cython.pointer[uint64_t] = self._counters.drops
        return {
            "reassembled": self._counters.reassembled,
            "drop_fragment": drops[cython.cast(cython.int, Drop.DROP_FRAGMENT)],
            "drop_fragment_again": drops[cython.cast(cython.int, Drop.DROP_FRAGMENT_AGAIN)],
            "drop_overlap": drops[cython.cast(cython.int, Drop.DROP_OVERLAP)],
            "drop_reassembly_time": drops[cython.cast(cython.int, Drop.DROP_REASSEMBLY_TIME)],
            "drop_reassembly_room": drops[cython.cast(cython.int, Drop.DROP_REASSEMBLY_ROOM)],
        }

    def held(self) -> tuple[int, int]:
        """Datagrams that wait, and chunks that they hold."""
        r: cython.pointer[Reassembly] = cython.address(self._r)
        datagrams: object = 0
        i: uint16_t = r.oldest
        while i:
            datagrams += 1
            i = r.partials[i - 1].newer
        return datagrams, r.chunks_used - r.free_chunk_count
