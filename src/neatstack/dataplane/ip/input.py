"""A frame has come in: Ethernet and IPv4, checked (RFC 791, RFC 1122 section 3.2.1), and on to TCP or UDP.

IPv6 goes on in input6.py.
"""

import cython
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t
from cython.cimports.libc.string import memcmp
from cython.cimports.neatstack.dataplane.channel.address import mapped
from cython.cimports.neatstack.dataplane.driver.device import Frame
from cython.cimports.neatstack.dataplane.ip.icmp import QUOTED, REASSEMBLY, TIME_EXCEEDED, error_arrives, send_error
from cython.cimports.neatstack.dataplane.ip.icmp6 import REASSEMBLY6, TIME_EXCEEDED6, send_error6
from cython.cimports.neatstack.dataplane.ip.input6 import frame6_arrives
from cython.cimports.neatstack.dataplane.ip.output import is_group, is_own4
from cython.cimports.neatstack.dataplane.ip.reassembly import WHOLE, beginning, expire, gather_packet, overdue
from cython.cimports.neatstack.dataplane.stack import Drop, Partial, Stack
from cython.cimports.neatstack.dataplane.tcp.segment import segment_arrives
from cython.cimports.neatstack.dataplane.udp.input import datagram_arrives
from cython.cimports.neatstack.dataplane.wire.bytes import get16, raw32
from cython.cimports.neatstack.dataplane.wire.checksum import add, fold
from cython.cimports.neatstack.dataplane.wire.headers import (
    ETHERNET_HEADER,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    IP6_HEADER,
    IP_HEADER,
    IP_MF,
    IP_OFFSET,
    PROTOCOL_ICMP,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
)


# rfc: 9293:MUST-57, 1122:ethernet link-group broadcast-link counted, 6864:4.1-only 4.1-ignored
def frame_arrives(s: cython.pointer[Stack], frame: cython.pointer[Frame]) -> cython.void:
    """Take one frame from the device; it is not needed afterwards."""
    s.counters.packets_in += 1
    s.counters.bytes_in += frame.length
    if frame.length < ETHERNET_HEADER + IP_HEADER:
        s.counters.drops[cython.cast(cython.int, Drop.DROP_SHORT)] += 1
        return
    if cython.unlikely(get16(frame.data + 12) != ETHERTYPE_IPV4):
        if get16(frame.data + 12) == ETHERTYPE_IPV6 and s.page.mtu6:
            frame6_arrives(s, frame)
            return
        s.counters.drops[cython.cast(cython.int, Drop.DROP_ETHERTYPE)] += 1
        return
    packet: cython.pointer[uint8_t] = frame.data + ETHERNET_HEADER
    # RFC 9293 section 3.9.2.3, MUST-57: a segment to a broadcast or multicast address is dropped, also on the link.
    group: cython.bint = memcmp(frame.data, s.page.mac, 6) != 0
    if group and (not frame.data[0] & 1 or packet[9] != PROTOCOL_UDP):
        s.counters.drops[cython.cast(cython.int, Drop.DROP_NOT_OURS)] += 1
        return
    reason: cython.int = refuse_header(packet, frame.length - ETHERNET_HEADER)
    if reason < 0:
        reason = refuse_addresses(s, raw32(packet + 12), raw32(packet + 16), group)
    if reason < 0 and packet[9] not in (PROTOCOL_TCP, PROTOCOL_UDP, PROTOCOL_ICMP):
        reason = cython.cast(cython.int, Drop.DROP_PROTOCOL)
    if reason >= 0:
        s.counters.drops[reason] += 1
    elif cython.unlikely(get16(packet + 6) & (IP_MF | IP_OFFSET)):
        fragment_arrives(s, packet)
    else:
        packet_arrives(s, packet, frame.checked)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def packet_arrives(
    s: cython.pointer[Stack], packet: cython.pointer[cython.const[uint8_t]], checked: cython.bint
) -> cython.void:
    """Take a whole packet, which is for us, and of a protocol that we have."""
    if packet[9] == PROTOCOL_TCP:
        segment_arrives(s, packet, (packet[0] & 15) << 2, get16(packet + 2), checked, False)
    elif packet[9] == PROTOCOL_UDP:
        datagram_arrives(s, packet, (packet[0] & 15) << 2, get16(packet + 2), checked, False)
    else:
        error_arrives(s, packet, get16(packet + 2))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def fragment_arrives(s: cython.pointer[Stack], packet: cython.pointer[cython.const[uint8_t]]) -> cython.void:
    """What has been put together is a packet like any other, with the checksum still to be looked at."""
    result: cython.int = gather_packet(s.reassembly, s.now, packet)
    if result == WHOLE:
        packet_arrives(s, s.reassembly.whole, False)
    elif result >= 0:
        s.counters.drops[result] += 1


# rfc: 792:time-exceeded-reassembly, 1122:time-exceeded-reassembly
def expire_fragments(s: cython.pointer[Stack]) -> cython.void:
    """Give up what has waited too long for its last fragments, and say so to those whose first has come (RFC 792)."""
    quoted: uint8_t[QUOTED]
    length: uint32_t
    p: cython.pointer[Partial] = overdue(s.reassembly, s.now)
    while p != cython.NULL:
        length = beginning(s.reassembly, p, quoted, QUOTED)
        if length and p.version == 4:
            send_error(s, quoted, length, TIME_EXCEEDED, REASSEMBLY)
        elif length:
            send_error6(s, quoted, 0, length, TIME_EXCEEDED6, REASSEMBLY6, 0)
        expire(s.reassembly, p)
        p = overdue(s.reassembly, s.now)


def loopback_arrives(s: cython.pointer[Stack], frame: cython.pointer[Frame]) -> cython.void:
    """Take back a frame that this replica sent to itself: our own headers need no checks."""
    packet: cython.pointer[uint8_t] = frame.data + ETHERNET_HEADER
    s.counters.packets_in += 1
    s.counters.bytes_in += frame.length
    four: cython.bint = packet[0] >> 4 == 4
    header: uint32_t = IP_HEADER if four else IP6_HEADER
    length: uint32_t = get16(packet + 2) if four else IP6_HEADER + get16(packet + 4)
    if packet[9 if four else 6] == PROTOCOL_TCP:
        segment_arrives(s, packet, header, length, True, True)
    else:
        datagram_arrives(s, packet, header, length, True, True)


# rfc: 9293:MUST-50, 1122:version checksum ttl-short options-unknown, 791:header total-length, 792:parameter-discard
@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def refuse_header(packet: cython.pointer[cython.const[uint8_t]], length: uint32_t) -> cython.int:
    """Why an IPv4 header (RFC 791 section 3.1) of a packet of at most `length` bytes is no good; -1: it is good."""
    header: uint32_t = (packet[0] & 15) << 2
    total: uint16_t = get16(packet + 2)
    if packet[0] >> 4 != 4 or header < IP_HEADER or total < header or total > length:
        return cython.cast(cython.int, Drop.DROP_IP_HEADER)
    if fold(add(0, packet, header)) != 0xFFFF:
        return cython.cast(cython.int, Drop.DROP_IP_CHECKSUM)
    return -1


# rfc: 9293:MUST-57 MUST-63, 1122:destination bad-source no-error-nobody udp-bad-source broadcast-formats
# rfc: 791:several
@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def refuse_addresses(
    s: cython.pointer[Stack], source_be: uint32_t, destination_be: uint32_t, group: cython.bint
) -> cython.int:
    """Why a packet from the wire with these addresses is not for us; -1: it is.

    A source must be a unicast address of somebody else (RFC 1122 section 3.2.1.3): not our own (the LAND attack), not
    0/8, not 127/8, not multicast or reserved, not the broadcast address of our network. `group`: it came to a group
    of hosts on the link, and must be addressed to one.
    """
    host: uint32_t
    first: uint8_t = source_be & 0xFF
    if not is_group(s, mapped(destination_be)) if group else not is_own4(s, destination_be):
        return cython.cast(cython.int, Drop.DROP_NOT_OURS)
    if first == 0 or first == 127 or first >= 224 or is_own4(s, source_be):
        return cython.cast(cython.int, Drop.DROP_MARTIAN)
    if not (source_be ^ s.page.address_be) & s.page.netmask_be:
        host = source_be & ~s.page.netmask_be
        if host_bits(s.page.netmask_be) > 1 and (host == 0 or host == ~s.page.netmask_be):
            return cython.cast(cython.int, Drop.DROP_MARTIAN)
    return -1


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def host_bits(netmask_be: uint32_t) -> cython.int:
    """How many bits of an address name the host; networks with 0 or 1 have no broadcast address (RFC 3021)."""
    rest: uint32_t = ~netmask_be
    count: cython.int = 0
    while rest:
        rest &= rest - 1
        count += 1
    return count
