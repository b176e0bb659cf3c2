"""ICMP errors (RFC 792, RFC 1122 section 3.2.2): what they say of our segments and datagrams, and those that we send.

The steering program has brought an error to the replica whose flow it quotes.
"""

import cython
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.neatstack.dataplane.channel.address import Address, mapped
from cython.cimports.neatstack.dataplane.driver.device import Outgoing
from cython.cimports.neatstack.dataplane.ip.icmp import PARAMETER_PROBLEM, QUOTED, TIME_EXCEEDED, TOO_LONG, UNREACHABLE
from cython.cimports.neatstack.dataplane.ip.output import begin, depart, is_group, is_own4
from cython.cimports.neatstack.dataplane.stack import Drop, Stack
from cython.cimports.neatstack.dataplane.tcp.errors import error_told
from cython.cimports.neatstack.dataplane.udp.error import datagram_failed
from cython.cimports.neatstack.dataplane.wire.bytes import get16, raw32, set16
from cython.cimports.neatstack.dataplane.wire.checksum import add, fold
from cython.cimports.neatstack.dataplane.wire.headers import (
    ETHERNET_HEADER,
    IP_HEADER,
    IP_OFFSET,
    PROTOCOL_ICMP,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    UDP_HEADER,
)

ICMP_HEADER = cython.declare(uint32_t, 8)
ICMP_AT = cython.declare(uint32_t, ETHERNET_HEADER + IP_HEADER)
ECHO = cython.declare(uint8_t, 8)
CONTROL = cython.declare(uint8_t, 0xC0)  # RFC 1812 section 4.3.2.5: precedence of an error
SECOND = cython.declare(uint32_t, 1000000000)  # ns


# rfc: 1122:errors-told icmp-unknown unreachable-told time-exceeded parameter redirect-ignored quench-ignored
# rfc: 792:checksum quoted unreachable
def error_arrives(
    s: cython.pointer[Stack], packet: cython.pointer[cython.const[uint8_t]], length: uint32_t
) -> cython.void:
    """Take an IPv4 packet of `length` bytes that has been found good and holds ICMP."""
    header: uint32_t = (packet[0] & 15) << 2
    icmp: cython.pointer[cython.const[uint8_t]] = packet + header
    quoted: cython.pointer[cython.const[uint8_t]] = icmp + ICMP_HEADER
    left: uint32_t = length - header
    mtu: uint32_t = 0
    if left < ICMP_HEADER + IP_HEADER + UDP_HEADER or fold(add(0, icmp, left)) != 0xFFFF:
        s.counters.drops[cython.cast(cython.int, Drop.DROP_ICMP)] += 1
        return
    left -= ICMP_HEADER
    if icmp[0] not in (UNREACHABLE, TIME_EXCEEDED, PARAMETER_PROBLEM) or not is_ours(s, quoted, left):
        s.counters.drops[cython.cast(cython.int, Drop.DROP_ICMP)] += 1
        return
    if icmp[0] == UNREACHABLE and icmp[1] == TOO_LONG:
        mtu = get16(icmp + 6)
    header = (quoted[0] & 15) << 2
    offender_be: Address = mapped(raw32(packet + 12))
    if quoted[9] == PROTOCOL_UDP:
        datagram_failed(s, quoted, header, left, icmp[0], icmp[1], offender_be, mtu)
    elif quoted[9] != PROTOCOL_TCP or not error_told(
        s, icmp[0], icmp[1], mtu, offender_be, quoted, quoted + header, left - header
    ):
        s.counters.drops[cython.cast(cython.int, Drop.DROP_ICMP)] += 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def is_ours(s: cython.pointer[Stack], quoted: cython.pointer[cython.const[uint8_t]], length: uint32_t) -> cython.bint:
    """Whether we can have sent what is quoted, and there is enough of it to know whose it was."""
    header: uint32_t = (quoted[0] & 15) << 2
    return (
        quoted[0] >> 4 == 4
        and header >= IP_HEADER
        and length >= header + UDP_HEADER
        and is_own4(s, raw32(quoted + 12))
        and not get16(quoted + 6) & IP_OFFSET
    )


# rfc: 4443:2.4-rate-option
def may_send(s: cython.pointer[Stack]) -> cython.bint:
    """A bounded number in each second, so that nobody can make us flood a third one (RFC 1122 section 3.2.2.1)."""
    second: uint32_t = cython.cast(uint32_t, s.now // SECOND)
    if s.errors_second != second:
        s.errors_second = second
        s.errors_sent = 0
    s.errors_sent += 1
    return s.errors_sent <= s.page.icmp_errors


# rfc: 1122:no-error-about-error error-quotes error-tos reply-source, 792:error-about-icmp unused quoted
def send_error(
    s: cython.pointer[Stack],
    packet: cython.pointer[cython.const[uint8_t]],
    length: uint32_t,
    kind: uint8_t,
    code: uint8_t,
) -> cython.void:
    """Answer an IPv4 packet from the wire, or what is quoted of one, with an error; never one that came to a group of
    hosts, nor an error (RFC 1122 section 3.2.2)."""
    out: cython.pointer[Outgoing]
    icmp: cython.pointer[uint8_t]
    header: uint32_t = (packet[0] & 15) << 2
    quoted: uint32_t = length if length < QUOTED else QUOTED
    if (
        is_group(s, mapped(raw32(packet + 16)))
        or (packet[9] == PROTOCOL_ICMP and packet[header] != ECHO)
        or not may_send(s)
    ):
        return
    out = begin(s, mapped(raw32(packet + 16)), mapped(raw32(packet + 12)), CONTROL, 0)
    if out == cython.NULL:
        return
    icmp = out.header + ICMP_AT
    memset(icmp, 0, ICMP_HEADER)
    icmp[0] = kind
    icmp[1] = code
    memcpy(icmp + ICMP_HEADER, packet, quoted)
    set16(icmp + 2, cython.cast(uint16_t, ~fold(add(0, icmp, ICMP_HEADER + quoted))))
    out.header[ETHERNET_HEADER + 9] = PROTOCOL_ICMP
    out.header_length = cython.cast(uint16_t, ICMP_AT + ICMP_HEADER + quoted)
    out.checksum_start = 0
    out.gso_size = 0
    depart(s, out, ICMP_HEADER + quoted)
