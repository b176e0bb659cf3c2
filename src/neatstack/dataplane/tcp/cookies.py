"""SYN cookies (RFC 4987 section 3.6): under pressure a SYN is answered without keeping anything.

All that the connection will need comes back with the peer's ACK. Our initial sequence number says which MSS the peer
has, and nobody else can make it:

    cookie = F(flow) + SEG.SEQ + (counter << 24) + ((G(flow, SEG.SEQ, counter) + index of MSS) mod 2^24)

F and G are SipHash with the secret that all replicas of the stack share, so that an ACK may reach another one than its
SYN has, when buckets move; the counter goes on every COOKIE_SECONDS. Window scale, SACK-permitted and ECN stand in the
last bits of our timestamp, which the peer echoes; a peer without timestamps gets none of them.
"""

import cython
from cython.cimports.libc.stdint import int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.neatstack.dataplane.channel.atomic import store64
from cython.cimports.neatstack.dataplane.driver.device import Outgoing
from cython.cimports.neatstack.dataplane.ip.output import begin, commit, default_mss, outbox_full
from cython.cimports.neatstack.dataplane.stack import (
    DROP_ACCEPT_QUEUE,
    DROP_NO_MEMORY,
    DROP_SYN_QUEUE,
    Listener,
    Stack,
)
from cython.cimports.neatstack.dataplane.tcp import rtt, table
from cython.cimports.neatstack.dataplane.tcp.cookies import COOKIE_SECONDS
from cython.cimports.neatstack.dataplane.tcp.ecn import offered
from cython.cimports.neatstack.dataplane.tcp.emit import write_header
from cython.cimports.neatstack.dataplane.tcp.handshake import first_room, new_connection, our_mss, take_offers
from cython.cimports.neatstack.dataplane.tcp.isn import flow_words, siphash, timestamp_offset
from cython.cimports.neatstack.dataplane.tcp.options import overlook, parse, write_syn
from cython.cimports.neatstack.dataplane.tcp.seq import least
from cython.cimports.neatstack.dataplane.tcp.state import become
from cython.cimports.neatstack.dataplane.tcp.tcb import ECN_OK, State, Tcb
from cython.cimports.neatstack.dataplane.tcp.timers import SECOND
from cython.cimports.neatstack.dataplane.tcp.timestamps import STAMPS_FRONT
from cython.cimports.neatstack.dataplane.tcp.window import receive_shift
from cython.cimports.neatstack.dataplane.wire.bytes import put32
from cython.cimports.neatstack.dataplane.wire.headers import ACK, ECE, SYN, TCP_HEADER, Options, Segment

GOOD_FOR = cython.declare(uint32_t, 2)  # values of the counter
LOW = cython.declare(uint32_t, 0xFFFFFF)
SIZES = cython.declare(uint16_t[8])  # of MSS; a peer's own is rounded down
NO_SCALING = cython.declare(uint8_t, 15)  # in the four bits of the window scale, which is 14 at most
SACK_BIT = cython.declare(uint8_t, 16)
ECN_BIT = cython.declare(uint8_t, 32)
STAMP_BITS = cython.declare(uint32_t, 63)

# The least that is ever used, Internet minimum, IPv6 minimum, tunnels, PPPoE, Ethernet, jumbo frames
for _place, _size in enumerate((48, 536, 1220, 1360, 1420, 1440, 1460, 8940)):
    SIZES[_place] = _size


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def counter(s: cython.pointer[Stack]) -> uint32_t:
    """CLOCK_MONOTONIC is the same for all replicas."""
    return cython.cast(uint32_t, s.now // (COOKIE_SECONDS * SECOND))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def base(s: cython.pointer[Stack], seg: cython.pointer[cython.const[Segment]], irs: uint32_t) -> uint32_t:
    """F(flow) + SEG.SEQ."""
    words: uint64_t[4]
    count: uint32_t = flow_words(words, seg.local_be, seg.remote_be)
    ports: uint64_t = cython.cast(uint64_t, seg.local_port_be) << 16 | seg.remote_port_be
    return cython.cast(uint32_t, siphash(s.secret, words, count, ports | tag(14))) + irs


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def low_part(
    s: cython.pointer[Stack], seg: cython.pointer[cython.const[Segment]], irs: uint32_t, count: uint32_t
) -> uint32_t:
    """G(flow, SEG.SEQ, counter)."""
    words: uint64_t[5]
    at: uint32_t = flow_words(words, seg.local_be, seg.remote_be)
    ports: uint64_t = cython.cast(uint64_t, seg.local_port_be) << 16 | seg.remote_port_be
    words[at] = cython.cast(uint64_t, irs) << 32 | count
    return cython.cast(uint32_t, siphash(s.secret, words, at + 1, ports | tag(15)))


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def tag(number: uint32_t) -> uint64_t:
    """In the byte that SipHash has for the length: what the digest is for."""
    return cython.cast(uint64_t, number) << 56


# ---- the SYN ----


# rfc: 4987:3.6a
def answer_with_cookie(
    s: cython.pointer[Stack], listener: cython.pointer[Listener], seg: cython.pointer[cython.const[Segment]]
) -> cython.void:
    """Send a SYN-ACK with a cookie, and forget the SYN."""
    options: Options
    out: cython.pointer[Outgoing]
    tcp: cython.pointer[uint8_t]
    length: uint32_t
    store64(cython.address(s.region.pressure_at), s.now)
    if outbox_full(s):
        s.counters.drops[cython.cast(cython.int, DROP_SYN_QUEUE)] += 1
        return
    out = begin(s, seg.local_be, seg.remote_be, 0, 0)
    if out == cython.NULL:
        return
    parse(seg.options, seg.options_length, cython.address(options))
    overlook(s.page, cython.address(options))
    if not options.has_timestamp:
        options.has_wscale = options.sack_permitted = 0
    tcp = out.header + out.transport
    if options.has_timestamp:
        put32(tcp + TCP_HEADER + 4, STAMPS_FRONT)
        put32(tcp + TCP_HEADER + 8, stamp_of(s, seg, cython.address(options)))
        put32(tcp + TCP_HEADER + 12, options.tsval)
    length = TCP_HEADER + write_syn(
        tcp + TCP_HEADER,
        our_mss(s, seg.loopback, seg.remote_be),
        options.has_wscale,
        receive_shift(s),
        options.sack_permitted,
        options.has_timestamp,
    )
    write_header(
        tcp,
        seg.local_port_be,
        seg.remote_port_be,
        cookie(s, seg, options.mss if options.mss else default_mss(seg.remote_be)),
        seg.seq + 1,
        length,
        SYN | ACK | ECE if options.has_timestamp and offered(s, seg) else SYN | ACK,
        cython.cast(uint16_t, least(first_room(s, listener), 65535)),
    )
    commit(s, out, length, 0, 0)
    s.counters.cookies_sent += 1


# rfc: 4987:3.6b
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def cookie(s: cython.pointer[Stack], seg: cython.pointer[cython.const[Segment]], mss: uint32_t) -> uint32_t:
    count: uint32_t = counter(s)
    index: uint32_t = 7
    while index and SIZES[index] > mss:
        index -= 1
    return base(s, seg, seg.seq) + (count << 24) + ((low_part(s, seg, seg.seq, count) + index) & LOW)


# rfc: 4987:3.6e
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def stamp_of(
    s: cython.pointer[Stack],
    seg: cython.pointer[cython.const[Segment]],
    options: cython.pointer[cython.const[Options]],
) -> uint32_t:
    """Our timestamp, put back a little so that its last bits say what the SYN has offered."""
    clock: uint32_t = cython.cast(uint32_t, s.now // 1000000) + timestamp_offset(
        s, seg.local_be, seg.local_port_be, seg.remote_be, seg.remote_port_be
    )
    bits: uint32_t = options.wscale if options.has_wscale else NO_SCALING
    if options.sack_permitted:
        bits |= SACK_BIT
    if offered(s, seg):
        bits |= ECN_BIT
    return clock - STAMP_BITS + ((bits - (clock - STAMP_BITS)) & STAMP_BITS)


# ---- the ACK ----


def cookies_expected(s: cython.pointer[Stack]) -> cython.bint:
    """Whether an ACK may hold a cookie: one was sent not long ago, or buckets have moved here from who sent some."""
    span: uint64_t = GOOD_FOR * COOKIE_SECONDS * SECOND
    if s.page_generation != s.page.generation:
        s.page_generation = s.page.generation
        s.page_changed_at = s.now
    return (s.region.pressure_at != 0 and s.now - s.region.pressure_at < span) or (
        s.page_changed_at != 0 and s.now - s.page_changed_at < span
    )


# rfc: 4987:3.6c 3.6d
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def opened(s: cython.pointer[Stack], seg: cython.pointer[cython.const[Segment]]) -> int32_t:
    """The index of the MSS in the cookie that the segment acknowledges; -1: that is none of ours, or too old."""
    irs: uint32_t = seg.seq - 1
    left: uint32_t = seg.ack - 1 - base(s, seg, irs)
    now: uint32_t = counter(s)
    age: uint32_t = (now - (left >> 24)) & 0xFF
    index: uint32_t
    if age >= GOOD_FOR:
        return -1
    index = (left - low_part(s, seg, irs, now - age)) & LOW
    return cython.cast(int32_t, index) if index < 8 else -1


def take_cookie(
    s: cython.pointer[Stack], listener: cython.pointer[Listener], seg: cython.pointer[cython.const[Segment]]
) -> int32_t:
    """The connection in SYN-RECEIVED that the segment, an ACK to a listener, continues, if its cookie is good.

    -1: it is not. 0: there is no room; a peer that has text to send will try again.
    """
    index: int32_t = opened(s, seg)
    options: Options
    t: cython.pointer[Tcb]
    i: uint32_t
    if index < 0:
        s.counters.cookies_refused += 1
        return -1
    if listener.waiting > listener.backlog:
        s.counters.drops[cython.cast(cython.int, DROP_ACCEPT_QUEUE)] += 1
        listener.overflows += 1
        return 0
    i = table.allocate(s)
    if not i:
        s.counters.drops[cython.cast(cython.int, DROP_NO_MEMORY)] += 1
        return 0
    t = cython.address(s.tcbs[i])
    new_connection(s, t, listener, seg)
    options.mss = SIZES[index]
    options.has_timestamp = seg.stamped
    options.tsval = seg.tsval
    options.wscale = cython.cast(uint8_t, seg.tsecr & 15) if seg.stamped else NO_SCALING
    options.has_wscale = options.wscale != NO_SCALING
    options.sack_permitted = seg.stamped and seg.tsecr & SACK_BIT
    if seg.stamped and seg.tsecr & ECN_BIT and s.page.ecn:
        t.ecn = ECN_OK
    overlook(s.page, cython.address(options))
    t.snd.iss = seg.ack - 1
    take_offers(s, t, seg.seq - 1, cython.address(options))
    t.snd.wnd = t.snd.max_wnd = seg.wnd
    t.snd.una = t.snd.small = t.cc.recover = t.snd.iss
    t.snd.nxt = t.snd.max = t.snd.iss + 1
    rtt.start(t)
    table.insert(s, i)
    become(s, i, State.SYN_RECEIVED)
    s.counters.cookies_taken += 1
    return i
