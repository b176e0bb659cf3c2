"""Programs hear what ICMP says of their datagrams (RFC 1122 section 4.1.3.3).

A connected socket is told of what is final; with IP_RECVERR every socket is told of everything, and may read the whole
story from its receive ring.
"""

import cython
from cython.cimports.libc.errno import (
    ECONNREFUSED,
    EHOSTDOWN,
    EHOSTUNREACH,
    EMSGSIZE,
    ENETUNREACH,
    ENOPROTOOPT,
    EOPNOTSUPP,
    EPROTO,
)
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.neatstack.dataplane.channel.address import Address, get_address, is_v4, mapped
from cython.cimports.neatstack.dataplane.channel.atomic import load16, load32, store_release
from cython.cimports.neatstack.dataplane.channel.layout import (
    NEAT_DATAGRAM_ERROR,
    NEAT_DATAGRAM_TIME,
    NEAT_FLAG_ERRORS,
    Datagram,
    Socket,
)
from cython.cimports.neatstack.dataplane.ip.icmp import (
    HOST,
    PARAMETER_PROBLEM,
    PORT,
    PROTOCOL,
    TIME_EXCEEDED,
    TOO_LONG,
    UNREACHABLE,
)
from cython.cimports.neatstack.dataplane.ip.icmp6 import ADDRESS6, TOO_BIG6, UNREACHABLE6
from cython.cimports.neatstack.dataplane.ip.output import is_local
from cython.cimports.neatstack.dataplane.ip.path import learn_path
from cython.cimports.neatstack.dataplane.stack import Endpoint, Stack
from cython.cimports.neatstack.dataplane.tcp.errors import MOST_QUOTED, errno_of6
from cython.cimports.neatstack.dataplane.tcp.seq import least
from cython.cimports.neatstack.dataplane.udp.endpoint import ENDPOINT_RECEIVED, endpoint_numbered, find_endpoint, told
from cython.cimports.neatstack.dataplane.udp.input import deliver
from cython.cimports.neatstack.dataplane.udp.output import Payload, source_of
from cython.cimports.neatstack.dataplane.wire.bytes import get16, raw16, raw32
from cython.cimports.neatstack.dataplane.wire.headers import UDP_HEADER


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def errno_of(kind: uint8_t, code: uint8_t) -> uint16_t:
    """What Linux makes of it (icmp_err_convert); 0: nothing."""
    if kind == TIME_EXCEEDED:
        return EHOSTUNREACH
    if kind == PARAMETER_PROBLEM:
        return EPROTO
    if kind != UNREACHABLE or code > 15:
        return 0
    if code == PORT:
        return ECONNREFUSED
    if code == PROTOCOL:
        return ENOPROTOOPT
    if code == TOO_LONG:
        return EMSGSIZE
    if code == 5:
        return EOPNOTSUPP
    if code == 7:
        return EHOSTDOWN
    return ENETUNREACH if code in (0, 6, 9, 11) else EHOSTUNREACH


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def is_final(kind: uint8_t, code: uint8_t) -> cython.bint:
    """Sending on will not help."""
    return kind == PARAMETER_PROBLEM or (kind == UNREACHABLE and code not in (0, HOST, 5, 11, 12))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def is_final6(kind: uint8_t, code: uint8_t) -> cython.bint:
    """The same of ICMPv6."""
    return kind == 4 or (kind == 1 and code in (1, 4, 5, 6))


# rfc: 1122:udp-errors unreachable-hint, 1191:6.2a
def datagram_failed(
    s: cython.pointer[Stack],
    packet: cython.pointer[cython.const[uint8_t]],
    before: uint32_t,
    length: uint32_t,
    kind: uint8_t,
    code: uint8_t,
    offender_be: Address,
    mtu: uint32_t,
) -> cython.void:
    """ICMP says that a datagram of ours came to nothing. What does not concern any socket is forgotten."""
    udp: cython.pointer[cython.const[uint8_t]] = packet + before
    header: uint32_t = before + UDP_HEADER
    four: cython.bint = packet[0] >> 4 == 4
    number: uint16_t = errno_of(kind, code) if four else cython.cast(uint16_t, errno_of6(kind, code))
    local_be: Address = mapped(raw32(packet + 12)) if four else get_address(packet + 8)
    remote_be: Address = mapped(raw32(packet + 16)) if four else get_address(packet + 24)
    i: uint32_t = find_endpoint(s, local_be, raw16(udp), remote_be, raw16(udp + 2))
    final: cython.bint
    d: Datagram
    if not i or not number:
        return
    if ((kind == UNREACHABLE and code == TOO_LONG) if four else kind == TOO_BIG6) and not is_local(s, remote_be):
        learn_path(s, remote_be, mtu, get16(packet + 2))
    memset(cython.address(d), 0, cython.sizeof(d))
    d.length = length - header
    d.error = number
    d.icmp_type = kind
    d.icmp_code = code
    d.mtu = mtu
    d.remote_port_be = raw16(udp + 2)
    d.remote = remote_be
    d.local = offender_be
    final = is_final(kind, code) if four else is_final6(kind, code)
    tell(s, i, cython.address(d), packet + header, final)


# rfc: 4861:7.2.2-4, 4443:3.1-own
def neighbour_failed(
    s: cython.pointer[Stack],
    e: cython.pointer[cython.const[Endpoint]],
    sent: cython.pointer[cython.const[Datagram]],
    payload: cython.pointer[cython.const[uint8_t]],
) -> cython.void:
    """A datagram of ours has waited in vain for a hardware address: as on Linux, we are who reports it unreachable.

    `e` is what its socket was when it was sent.
    """
    i: uint32_t = endpoint_numbered(s, e.number)
    four: cython.bint = is_v4(sent.remote)
    d: Datagram
    if not i:
        return
    memset(cython.address(d), 0, cython.sizeof(d))
    d.length = sent.length
    d.error = EHOSTUNREACH
    d.icmp_type = UNREACHABLE if four else UNREACHABLE6
    d.icmp_code = HOST if four else ADDRESS6
    d.remote_port_be = sent.remote_port_be
    d.remote = sent.remote
    d.local = source_of(s, e, sent, sent.remote)
    tell(s, i, cython.address(d), payload, False)


def datagram_timed(
    s: cython.pointer[Stack],
    e: cython.pointer[cython.const[Endpoint]],
    sent: cython.pointer[cython.const[Datagram]],
    p: cython.pointer[cython.const[Payload]],
) -> cython.void:
    """A datagram of ours leaves with this batch, and its socket, which was `e`, wants to know (SO_TIMESTAMPING)."""
    i: uint32_t = endpoint_numbered(s, e.number)
    payload: uint8_t[512]
    first: uint32_t
    d: Datagram
    if not i:
        return
    d = sent[0]
    d.flags = NEAT_DATAGRAM_ERROR | NEAT_DATAGRAM_TIME
    d.length = least(sent.length, MOST_QUOTED)
    d.local = source_of(s, e, sent, sent.remote)
    d.local_port_be = e.port_be
    d.error = 0
    d.time_ns = s.now
    first = least(p.first_length, d.length)
    memcpy(payload, p.first, first)
    memcpy(payload + first, p.second, d.length - first)
    deliver(s, i, cython.address(d), payload)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def tell(
    s: cython.pointer[Stack],
    i: uint32_t,
    d: cython.pointer[Datagram],
    payload: cython.pointer[cython.const[uint8_t]],
    final: cython.bint,
) -> cython.void:
    """Tell socket i of an error: `d` says what, who has reported it (`local`), and where the datagram went."""
    e: cython.pointer[Endpoint] = cython.address(s.udp.ends[i])
    lines: cython.pointer[Socket]
    if not e.attached:
        return
    lines = cython.address(s.channels[e.channel].sockets[e.socket])
    if load16(cython.address(lines.program.flags)) & NEAT_FLAG_ERRORS:
        d.flags = NEAT_DATAGRAM_ERROR
        if d.length > MOST_QUOTED:
            d.length = MOST_QUOTED
        d.time_ns = s.now
        deliver(s, i, d, payload)
    elif not e.connected or not final:
        return
    lines.replica.error = d.error
    store_release(cython.address(lines.replica.listener), load32(cython.address(lines.replica.listener)) + 1)
    told(s, i, ENDPOINT_RECEIVED)
