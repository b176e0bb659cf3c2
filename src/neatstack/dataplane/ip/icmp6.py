"""ICMPv6 errors (RFC 4443): what they say of our segments and datagrams, and those that we send.

The steering program has brought an error to the replica whose flow it quotes.
"""

import cython
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy
from cython.cimports.neatstack.dataplane.channel.address import Address, get_address, is_any, is_multicast
from cython.cimports.neatstack.dataplane.driver.device import Outgoing
from cython.cimports.neatstack.dataplane.ip.icmp import may_send
from cython.cimports.neatstack.dataplane.ip.icmp6 import OPTION6, PARAMETER6, TOO_BIG6, UNREACHABLE6
from cython.cimports.neatstack.dataplane.ip.output import begin, depart, is_own, set_protocol
from cython.cimports.neatstack.dataplane.stack import Drop, Stack
from cython.cimports.neatstack.dataplane.tcp.errors import error_told
from cython.cimports.neatstack.dataplane.udp.error import datagram_failed
from cython.cimports.neatstack.dataplane.wire.bytes import get16, get32, put32, set16
from cython.cimports.neatstack.dataplane.wire.checksum import add, fold, pseudo_header
from cython.cimports.neatstack.dataplane.wire.headers import (
    DESTINATION,
    FRAGMENT_HEADER6,
    HOP_BY_HOP,
    IP6_HEADER,
    PROTOCOL_FRAGMENT,
    PROTOCOL_ICMP6,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    ROUTING,
    UDP_HEADER,
)

ICMP_HEADER = cython.declare(uint32_t, 8)
INFORMATIONAL = cython.declare(uint8_t, 128)  # types from here on are no errors
REDIRECT = cython.declare(uint8_t, 137)
MOST_QUOTED = cython.declare(uint32_t, 1280 - 40 - 8)  # RFC 4443 section 3: all that fits into the least MTU
MOST_COPIED = cython.declare(uint32_t, 64)  # of a packet that will not stay where it is until the batch leaves


# rfc: 4443:3-told 2.4-unknown 2.4-whose 2.1-checksum
def error6_arrives(
    s: cython.pointer[Stack], packet: cython.pointer[cython.const[uint8_t]], header: uint32_t, length: uint32_t
) -> cython.void:
    """Take an IPv6 packet of `length` bytes, found good, with ICMPv6 after `header` bytes."""
    icmp: cython.pointer[cython.const[uint8_t]] = packet + header
    left: uint32_t = length - header
    quoted: cython.pointer[cython.const[uint8_t]] = icmp + ICMP_HEADER
    at: uint32_t = IP6_HEADER
    mtu: uint32_t
    protocol: uint8_t
    pseudo: uint64_t = pseudo_header(get_address(packet + 8), get_address(packet + 24), PROTOCOL_ICMP6, left)
    told: cython.bint = False
    if left < ICMP_HEADER + IP6_HEADER + UDP_HEADER or fold(add(pseudo, icmp, left)) != 0xFFFF:
        s.counters.drops[cython.cast(cython.int, Drop.DROP_ICMP)] += 1
        return
    left -= ICMP_HEADER
    mtu = get32(icmp + 4) if icmp[0] == TOO_BIG6 else 0
    protocol = quoted[6]
    if protocol == PROTOCOL_FRAGMENT and left >= IP6_HEADER + FRAGMENT_HEADER6 + UDP_HEADER:
        if not get16(quoted + IP6_HEADER + 2) & 0xFFF8:
            protocol = quoted[IP6_HEADER]
            at += FRAGMENT_HEADER6
    if UNREACHABLE6 <= icmp[0] < INFORMATIONAL and quoted[0] >> 4 == 6 and is_own(s, get_address(quoted + 8)):
        if protocol == PROTOCOL_UDP:
            told = True
            datagram_failed(s, quoted, at, left, icmp[0], icmp[1], get_address(packet + 8), mtu)
        elif protocol == PROTOCOL_TCP:
            told = error_told(s, icmp[0], icmp[1], mtu, get_address(packet + 8), quoted, quoted + at, left - at)
    if not told:
        s.counters.drops[cython.cast(cython.int, Drop.DROP_ICMP)] += 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def may_answer(
    packet: cython.pointer[cython.const[uint8_t]], length: uint32_t, kind: uint8_t, code: uint8_t
) -> cython.bint:
    """RFC 4443 section 2.4 (e): no error about an error, a redirect, or what came to or from more than one host."""
    source: Address = get_address(packet + 8)
    upper: uint8_t = packet[6]
    at: uint32_t = IP6_HEADER
    size: uint32_t
    if is_any(source) or is_multicast(source):
        return False
    if is_multicast(get_address(packet + 24)) and kind != TOO_BIG6 and not (kind == PARAMETER6 and code == OPTION6):
        return False
    while upper in (HOP_BY_HOP, ROUTING, DESTINATION, PROTOCOL_FRAGMENT) and at + 8 <= length:
        size = (cython.cast(uint32_t, packet[at + 1]) + 1) << 3 if upper != PROTOCOL_FRAGMENT else FRAGMENT_HEADER6
        upper = packet[at]
        at += size
    if upper == PROTOCOL_ICMP6 and at < length:
        return packet[at] >= INFORMATIONAL and packet[at] != REDIRECT
    return True


# rfc: 4443:2.4-quoted 2.4-no-error 2.4-rate 3.1-port 3.4-parameter 2.2-source 3.1-congestion 3-source
# rfc: 4443:3.1-unused
def send_error6(
    s: cython.pointer[Stack],
    packet: cython.pointer[cython.const[uint8_t]],
    header: uint32_t,
    length: uint32_t,
    kind: uint8_t,
    code: uint8_t,
    value: uint32_t,
) -> cython.void:
    """Answer an IPv6 packet from the wire with an error.

    What is quoted is sent from where it lies: the frames of a batch stay until it has left. What was put together, or
    is the caller's own, does not, and less of it is copied.
    """
    out: cython.pointer[Outgoing]
    icmp: cython.pointer[uint8_t]
    local_be: Address = get_address(packet + 24)
    stays: cython.bint = header != 0 and packet != s.reassembly.whole
    quoted: uint32_t = length
    total: uint32_t
    pseudo: uint64_t
    if not may_answer(packet, length, kind, code) or not may_send(s):
        return
    if is_multicast(local_be):
        local_be = s.page.own[0].address
        for k in range(s.page.own_count):
            if is_own(s, s.page.own[k].address) and s.page.own[k].address.hi:
                local_be = s.page.own[k].address
    out = begin(s, local_be, get_address(packet + 8), 0, 0)
    if out == cython.NULL:
        return
    if quoted > (MOST_QUOTED if stays else MOST_COPIED):
        quoted = MOST_QUOTED if stays else MOST_COPIED
    icmp = out.header + out.transport
    icmp[0] = kind
    icmp[1] = code
    set16(icmp + 2, 0)
    put32(icmp + 4, value)
    total = ICMP_HEADER + quoted
    pseudo = pseudo_header(local_be, get_address(packet + 8), PROTOCOL_ICMP6, total)
    pseudo = add(add(pseudo, icmp, ICMP_HEADER), packet, quoted)
    set16(icmp + 2, cython.cast(uint16_t, ~fold(pseudo)))
    out.header_length = cython.cast(uint16_t, out.transport + ICMP_HEADER)
    if stays:
        out.first = packet
        out.first_length = quoted
    else:
        memcpy(icmp + ICMP_HEADER, packet, quoted)
        out.header_length += cython.cast(uint16_t, quoted)
    set_protocol(out, PROTOCOL_ICMP6)
    out.checksum_start = 0
    out.gso_size = 0
    depart(s, out, total)
