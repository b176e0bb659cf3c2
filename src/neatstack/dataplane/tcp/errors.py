"""ICMP errors that quote a connection's segment: unreachable peers, and what a path can carry.

Only what quotes a sequence number that is on its way is believed (RFC 5927 section 4.1): who cannot see the connection
has to guess it. While it is being opened any error ends it; later none does (RFC 5461 section 3, RFC 5927 section 5),
it only says why, should the connection time out.

Path MTU (RFC 1191): a smaller one than ours makes segments smaller, and what is on its way is sent again (ip/path.py).
"""

import cython
from cython.cimports.libc.errno import (
    EACCES,
    ECONNREFUSED,
    EHOSTUNREACH,
    EMSGSIZE,
    ENETUNREACH,
    ENOPROTOOPT,
    EOPNOTSUPP,
    EPROTO,
)
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.neatstack.dataplane.channel.address import Address, get_address, mapped
from cython.cimports.neatstack.dataplane.channel.atomic import load32, store_release
from cython.cimports.neatstack.dataplane.channel.buffers import tx_tail
from cython.cimports.neatstack.dataplane.channel.layout import NEAT_DATAGRAM_ERROR, Datagram, SocketReplica
from cython.cimports.neatstack.dataplane.ip.icmp import PARAMETER_PROBLEM, TIME_EXCEEDED, TOO_LONG, UNREACHABLE
from cython.cimports.neatstack.dataplane.ip.icmp6 import TOO_BIG6
from cython.cimports.neatstack.dataplane.ip.output import ip_header
from cython.cimports.neatstack.dataplane.ip.path import learn_path, path_mtu
from cython.cimports.neatstack.dataplane.journal import commit, touch
from cython.cimports.neatstack.dataplane.stack import NEWS_EVENT, NEWS_LINES, NEWS_OUTPUT, Stack, View
from cython.cimports.neatstack.dataplane.tcp import prr, rtt, table
from cython.cimports.neatstack.dataplane.tcp.errors import MOST_QUOTED
from cython.cimports.neatstack.dataplane.tcp.seq import least
from cython.cimports.neatstack.dataplane.tcp.state import end, mark
from cython.cimports.neatstack.dataplane.tcp.tcb import (
    TCB_LOOPBACK,
    TCB_RECOVERY,
    TCB_RETRANSMIT,
    TCB_TIMESTAMPS,
    State,
    Tcb,
)
from cython.cimports.neatstack.dataplane.tcp.timestamps import STAMPS
from cython.cimports.neatstack.dataplane.wire.bytes import get16, get32, raw16, raw32
from cython.cimports.neatstack.dataplane.wire.headers import TCP_HEADER

EHOSTDOWN = cython.declare(cython.int, 112)  # which Cython does not know
ENONET = cython.declare(cython.int, 64)


# rfc: 9293:MUST-47 SHLD-20 SHLD-25 MUST-54 MUST-56 SHLD-26, 5927:4.1 5.2, 1122:unreachable-told unreachable-hint
# rfc: 1122:unreachable-port-tcp redirect-sent, 4443:3.2-code 5.2-validate
def error_told(
    s: cython.pointer[Stack],
    kind: uint8_t,
    code: uint8_t,
    mtu: uint32_t,
    offender_be: Address,
    quoted: cython.pointer[cython.const[uint8_t]],
    tcp: cython.pointer[cython.const[uint8_t]],
    length: uint32_t,
) -> cython.bint:
    """Act on an error about a segment that we have sent."""
    i: uint32_t
    error: cython.int
    large: cython.bint
    if quoted[0] >> 4 == 4:
        i = table.find(s, mapped(raw32(quoted + 12)), raw16(tcp), mapped(raw32(quoted + 16)), raw16(tcp + 2))
        error = errno_of(kind, code)
        large = kind == UNREACHABLE and code == TOO_LONG
    else:
        i = table.find(s, get_address(quoted + 8), raw16(tcp), get_address(quoted + 24), raw16(tcp + 2))
        error = errno_of6(kind, code)
        large = kind == TOO_BIG6
    t: cython.pointer[Tcb]
    if not i or not error:
        return False
    t = cython.address(s.tcbs[i])
    if get32(tcp + 4) - t.snd.una >= t.snd.max - t.snd.una:  # so with nothing on its way, too
        return False
    touch(s, i)
    if large:
        too_large(s, i, mtu, get16(quoted + 2))
    elif t.state == State.SYN_SENT:
        tell_story(s, i, error, kind, code, offender_be, tcp, length)
        end(s, i, error)
    else:
        tell_soft(s, i, error)
    commit(s)
    return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def tell_soft(s: cython.pointer[Stack], i: uint32_t, error: cython.int) -> cython.void:
    """The connection goes on. If we die before the program is told, nobody tells it."""
    v: cython.pointer[View] = cython.address(s.views[i])
    r: cython.pointer[SocketReplica] = v.replica
    v.soft_error = cython.cast(uint8_t, error)
    if r == cython.NULL:
        return
    r.soft_at = tx_tail(v, cython.address(s.tcbs[i]))
    store_release(cython.address(r.soft_error), ((load32(cython.address(r.soft_error)) >> 8) + 1) << 8 | v.soft_error)
    mark(s, i, NEWS_LINES | NEWS_EVENT)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def tell_story(
    s: cython.pointer[Stack],
    i: uint32_t,
    error: cython.int,
    kind: uint8_t,
    code: uint8_t,
    offender_be: Address,
    tcp: cython.pointer[cython.const[uint8_t]],
    length: uint32_t,
) -> cython.void:
    """Why it is never opened: into its receive ring, where nothing else will come."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    d: Datagram
    if v.replica == cython.NULL:
        return
    memset(cython.address(d), 0, cython.sizeof(d))
    d.length = least(length, MOST_QUOTED)
    d.flags = NEAT_DATAGRAM_ERROR
    d.remote = t.remote_be
    d.remote_port_be = t.remote_port_be
    d.local = offender_be
    d.error = cython.cast(uint16_t, error)
    d.icmp_type = kind
    d.icmp_code = code
    memcpy(v.rx, cython.address(d), cython.sizeof(d))
    memcpy(v.rx + cython.sizeof(d), tcp, d.length)
    store_release(cython.address(v.replica.soft_story), t.generation)


# rfc: 9293:MUST-55, 5927:6.1
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def errno_of(kind: uint8_t, code: uint8_t) -> cython.int:
    """As Linux translates them for programs; 0: no error, or one to be ignored (source quench, RFC 6633)."""
    if kind == TIME_EXCEEDED:
        return EHOSTUNREACH
    if kind == PARAMETER_PROBLEM:
        return EPROTO
    if kind != UNREACHABLE:
        return 0
    if code == 2:
        return ENOPROTOOPT
    if code == 3:
        return ECONNREFUSED
    if code == TOO_LONG:
        return EMSGSIZE
    if code == 5:
        return EOPNOTSUPP
    if code == 7:
        return EHOSTDOWN
    if code == 8:
        return ENONET
    return ENETUNREACH if code == 0 or code == 6 or code == 9 or code == 11 else EHOSTUNREACH


def errno_of6(kind: uint8_t, code: uint8_t) -> cython.int:
    """The same for ICMPv6 (RFC 4443 section 3); also of a type that is not known."""
    if kind == 1:
        if code == 0:
            return ENETUNREACH
        if code == 4:
            return ECONNREFUSED
        return EHOSTUNREACH if code == 2 or code == 3 else EACCES
    if kind == TOO_BIG6:
        return EMSGSIZE
    if kind == 3:
        return EHOSTUNREACH
    return EPROTO


# ---- path MTU ----


# rfc: 1191:3b 3d 3e 3g 6.4 6.4a, 5927:7.2, 8201:5.4-mss
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def too_large(s: cython.pointer[Stack], i: uint32_t, mtu: uint32_t, length: uint32_t) -> cython.void:
    """A router has dropped a packet that its next link could not carry.

    That is no sign of congestion (RFC 1191 section 6.5 says to retransmit): the window stays as it is.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    mss: uint32_t
    if not t.flags & TCB_LOOPBACK:
        mtu = learn_path(s, t.remote_be, mtu, length)
    if t.flags & TCB_LOOPBACK or not mtu:
        return
    mss = mtu - ip_header(t.remote_be) - TCP_HEADER
    if t.flags & TCB_TIMESTAMPS:
        mss -= STAMPS
    if t.state == State.SYN_SENT or t.state == State.SYN_RECEIVED or mss >= t.snd.mss:
        return
    t.snd.mss = cython.cast(uint16_t, mss)
    t.snd.nxt = t.snd.una
    prr.leave(t)
    t.cc.recover = t.snd.max
    t.cc.dupacks = 0
    s.views[i].sacked = s.views[i].mending = 0
    t.flags &= ~cython.cast(uint32_t, TCB_RECOVERY | TCB_RETRANSMIT)
    rtt.stop_timing(t)
    mark(s, i, NEWS_OUTPUT | NEWS_LINES)


# rfc: 1191:3c 3f
def path_mss(s: cython.pointer[Stack], remote_be: Address, mss: uint16_t) -> uint16_t:
    """What a segment to this peer may carry, without options, when it and our device take `mss`."""
    mtu: uint32_t = path_mtu(s, remote_be)
    return cython.cast(uint16_t, least(mss, mtu - ip_header(remote_be) - TCP_HEADER)) if mtu else mss
