"""Opening a connection from a segment (RFC 9293 sections 3.10.7.1 to 3.10.7.3, and SYN-RECEIVED of 3.10.7.4)."""

import cython
from cython.cimports.libc.errno import ECONNREFUSED
from cython.cimports.libc.stdint import int32_t, int64_t, uint8_t, uint16_t, uint32_t
from cython.cimports.libc.string import memcpy
from cython.cimports.neatstack.dataplane.channel.address import Address, is_v4
from cython.cimports.neatstack.dataplane.channel.atomic import load32, store64
from cython.cimports.neatstack.dataplane.channel.layout import (
    NEAT_FASTOPEN_LISTENERS,
    NEAT_FASTOPEN_SERVER,
    NEAT_FLAG_FASTOPEN,
    NEAT_TABLE_MOVED,
    NEAT_TABLE_MOVING,
)
from cython.cimports.neatstack.dataplane.driver.flowhash import bucket, flow_hash
from cython.cimports.neatstack.dataplane.driver.maps import SteerFlow
from cython.cimports.neatstack.dataplane.ip.output import default_mss, ip_header, link_mtu
from cython.cimports.neatstack.dataplane.stack import (
    DROP_ACCEPT_QUEUE,
    DROP_MOVED,
    DROP_NO_PORT,
    DROP_TCP_HEADER,
    DROP_TTL,
    HOLD_SIZE,
    NEWS_EVENT,
    NEWS_LINES,
    NEWS_OUTPUT,
    STRAYS,
    AcceptQueue,
    Channel,
    Listener,
    Stack,
    Strays,
)
from cython.cimports.neatstack.dataplane.tcp import congestion, rtt, table
from cython.cimports.neatstack.dataplane.tcp.ack import round_trip, take_window
from cython.cimports.neatstack.dataplane.tcp.bits import lowest
from cython.cimports.neatstack.dataplane.tcp.cookies import answer_with_cookie, cookies_expected, take_cookie
from cython.cimports.neatstack.dataplane.tcp.ecn import answered, offered
from cython.cimports.neatstack.dataplane.tcp.emit import limit_mss, refuse
from cython.cimports.neatstack.dataplane.tcp.errors import path_mss
from cython.cimports.neatstack.dataplane.tcp.fastopen import forget, learn, open_fast, take_text_of_syn
from cython.cimports.neatstack.dataplane.tcp.isn import beyond, initial_sequence, timestamp_offset, used_up
from cython.cimports.neatstack.dataplane.tcp.listen import find_listener, listener_numbered
from cython.cimports.neatstack.dataplane.tcp.options import overlook, parse
from cython.cimports.neatstack.dataplane.tcp.rtt import RTO_FALLBACK
from cython.cimports.neatstack.dataplane.tcp.send_buffer import expand
from cython.cimports.neatstack.dataplane.tcp.seq import after, least, most
from cython.cimports.neatstack.dataplane.tcp.state import become, end, mark
from cython.cimports.neatstack.dataplane.tcp.tally import timeout_repaired
from cython.cimports.neatstack.dataplane.tcp.tcb import (
    ECN_OK,
    NO_CHANNEL,
    TCB_ACK_NOW,
    TCB_DEFERRED,
    TCB_FASTOPEN,
    TCB_FIN_QUEUED,
    TCB_LEAST_TTL,
    TCB_LOOPBACK,
    TCB_PASSIVE,
    TCB_SACK,
    TCB_TIMESTAMPS,
    TCB_WINDOW_SCALING,
    TIMER_RETRANSMIT,
    State,
    Tcb,
)
from cython.cimports.neatstack.dataplane.tcp.timeouts import keepalive_start
from cython.cimports.neatstack.dataplane.tcp.timers import clear_timer
from cython.cimports.neatstack.dataplane.tcp.timestamps import STAMPS
from cython.cimports.neatstack.dataplane.tcp.tlp import restart
from cython.cimports.neatstack.dataplane.tcp.window import LEAST_RECEIVE_BUFFER, receive_shift
from cython.cimports.neatstack.dataplane.wire.headers import (
    ACK,
    CWR,
    ECE,
    ETHERNET_HEADER,
    FIN,
    IP_LONGEST,
    PROTOCOL_TCP,
    RST,
    SYN,
    TCP_HEADER,
    Options,
    Segment,
    hops_left,
)

LEAST_MSS = cython.declare(uint32_t, 48)  # below it a peer only wants us to send many headers; Linux's floor
LEAST_HALF_OPEN = cython.declare(uint32_t, 64)  # connections in SYN-RECEIVED that every listener may have


# ---- CLOSED and LISTEN ----


def no_connection(s: cython.pointer[Stack], seg: cython.pointer[cython.const[Segment]]) -> uint32_t:
    """A segment of no connection: for a listener (3.10.7.2), or for nobody (3.10.7.1).

    The connection in SYN-RECEIVED that it continues after all, having brought a cookie; 0: the segment is done with.
    """
    listener: cython.pointer[Listener]
    if not seg.remote_port_be:  # reserved: there is nobody to answer
        s.counters.drops[cython.cast(cython.int, DROP_TCP_HEADER)] += 1
        return 0
    if not seg.loopback and s.page.replicas > 1 and another_has_it(s, seg):
        s.counters.drops[cython.cast(cython.int, DROP_MOVED)] += 1
        return 0
    listener = find_listener(s, seg.local_be, seg.local_port_be)
    if listener == cython.NULL:
        s.counters.drops[cython.cast(cython.int, DROP_NO_PORT)] += 1
        if not seg.flags & RST:
            refuse(s, seg, seg.flags & ACK)
        return 0
    if (listener.least_ttl or listener.least_hops) and hops_left(seg.packet) < least_hops(listener, seg.local_be):
        s.counters.drops[cython.cast(cython.int, DROP_TTL)] += 1
        return 0
    if seg.flags & RST:  # First
        return 0
    if seg.flags & ACK:  # Second
        return acknowledges(s, listener, seg)
    # Third; with FIN it is no handshake, as for Linux. Fourth, anything else: drop
    if seg.flags & (SYN | FIN) == SYN:
        passive_open(s, listener, seg, 0)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def acknowledges(
    s: cython.pointer[Stack], listener: cython.pointer[Listener], seg: cython.pointer[cython.const[Segment]]
) -> uint32_t:
    """Second: an ACK to a listener, good only with a cookie. The connection; 0: there is none."""
    i: int32_t = -1
    if not seg.flags & SYN and cookies_expected(s):
        i = take_cookie(s, listener, seg)
    if i < 0:
        refuse(s, seg, True)
        return 0
    return i


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def another_has_it(s: cython.pointer[Stack], seg: cython.pointer[cython.const[Segment]]) -> cython.bint:
    """Whether the segment, of no connection here, is another replica's, which knows better what to answer.

    While the bucket moves it is not certain whose it is: only a SYN is for whoever it was steered to, and once the next
    owner is alone in the table, for that one. What is no SYN is put down for the manager.
    """
    entry: uint32_t = steering_entry(s, seg)
    if seg.flags & (SYN | ACK | RST) != SYN:
        put_down_stray(s, seg)
        return entry != s.replica
    return entry != s.replica and entry != NEAT_TABLE_MOVING and entry != NEAT_TABLE_MOVED | s.replica


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def steering_entry(s: cython.pointer[Stack], seg: cython.pointer[cython.const[Segment]]) -> uint32_t:
    """What the indirection table says about the flow."""
    hashed: uint32_t
    hashed = flow_hash(s.page.hash_key, seg.remote_be, seg.local_be, seg.remote_port_be, seg.local_port_be)
    return s.page.table[bucket(hashed)]


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def put_down_stray(s: cython.pointer[Stack], seg: cython.pointer[cython.const[Segment]]) -> cython.void:
    strays: cython.pointer[Strays] = cython.address(s.region.strays)
    flow: cython.pointer[SteerFlow] = cython.address(strays.flow[strays.total & (STRAYS - 1)])
    flow.source_be = seg.remote_be
    flow.destination_be = seg.local_be
    flow.source_port_be = seg.remote_port_be
    flow.destination_port_be = seg.local_port_be
    flow.protocol = PROTOCOL_TCP
    store64(cython.address(strays.total), strays.total + 1)


# rfc: 4987:3.3, 7413:2
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def passive_open(
    s: cython.pointer[Stack],
    listener: cython.pointer[Listener],
    seg: cython.pointer[cython.const[Segment]],
    least_iss: uint32_t,
) -> cython.void:
    """Third: a SYN to a listener. SYN-RECEIVED, or if there is no room for more of these, only an answer with a cookie.

    Text on the SYN is left for the peer to send again, but for TCP Fast Open.
    `least_iss` (0: any): our ISS shall lie beyond it, since the flow has just been used with numbers up to it.
    """
    i: uint32_t
    t: cython.pointer[Tcb]
    if listener.waiting > listener.backlog:  # Linux: sk_acceptq_is_full()
        s.counters.drops[cython.cast(cython.int, DROP_ACCEPT_QUEUE)] += 1
        listener.overflows += 1
        return
    if not least_iss and (  # else it takes the place of the connection that was in TIME-WAIT
        listener.half_open >= most(2 * listener.backlog, LEAST_HALF_OPEN) or s.half_open >= s.max_tcbs // 4
    ):
        answer_with_cookie(s, listener, seg)
        return
    i = table.allocate(s)
    if not i:
        answer_with_cookie(s, listener, seg)
        return
    t = cython.address(s.tcbs[i])
    new_connection(s, t, listener, seg)
    t.snd.iss = beyond(least_iss, initial_sequence(s, t.local_be, t.local_port_be, t.remote_be, t.remote_port_be))
    t.snd.una = t.snd.nxt = t.snd.max = t.snd.small = t.cc.recover = t.snd.iss
    take_syn(s, t, seg)
    if listener.save_syn:
        save_syn(s, i, seg, listener.save_syn)
    if offered(s, seg):
        t.ecn = ECN_OK
    rtt.start(t)
    if s.page.fastopen & NEAT_FASTOPEN_SERVER and (listener.fastopen or s.page.fastopen & NEAT_FASTOPEN_LISTENERS):
        open_fast(s, t, listener, seg)
    table.insert(s, i)
    become(s, i, State.SYN_RECEIVED)
    mark(s, i, NEWS_OUTPUT)
    if t.flags & TCB_FASTOPEN:
        take_text_of_syn(s, i, seg)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def save_syn(
    s: cython.pointer[Stack], i: uint32_t, seg: cython.pointer[cython.const[Segment]], how: uint8_t
) -> cython.void:
    """TCP_SAVE_SYN: keep the headers of the SYN, from IP's on (1) or from Ethernet's (2).

    What was put together from fragments has none of Ethernet.
    """
    start: cython.pointer[cython.const[uint8_t]] = seg.packet
    if how > 1 and start != s.reassembly.whole:
        start -= ETHERNET_HEADER
    length: int64_t = seg.options + seg.options_length - start
    if length <= cython.cast(int64_t, cython.sizeof(s.syns[i].headers)):
        memcpy(s.syns[i].headers, start, length)
        s.syns[i].length = cython.cast(uint16_t, length)
        s.tcbs[i].syn_saved = 1


# rfc: 1122:reply-source
def new_connection(
    s: cython.pointer[Stack],
    t: cython.pointer[Tcb],
    listener: cython.pointer[Listener],
    seg: cython.pointer[cython.const[Segment]],
) -> cython.void:
    """What a connection that a peer opens begins with: all but numbers, and what its SYN says."""
    t.local_be = seg.local_be
    t.remote_be = seg.remote_be
    t.local_port_be = seg.local_port_be
    t.remote_port_be = seg.remote_port_be
    t.channel = NO_CHANNEL
    t.listener = listener.number
    t.flags = TCB_PASSIVE | (TCB_LOOPBACK if seg.loopback else 0)
    t.tally.segments_in = 1  # its SYN, which may have come before there was a connection
    t.last_received = s.now
    t.stamps.offset = timestamp_offset(s, t.local_be, t.local_port_be, t.remote_be, t.remote_port_be)
    t.rcv.mss = our_mss(s, seg.loopback, seg.remote_be)
    congestion.choose(t, listener.congestion)
    limit_mss(t, listener.mss)
    t.rcv.wnd = first_room(s, listener)
    t.least_ttl = least_hops(listener, t.local_be)
    if t.least_ttl:
        t.flags |= TCB_LEAST_TTL


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def least_hops(listener: cython.pointer[cython.const[Listener]], local_be: Address) -> uint8_t:
    return listener.least_ttl if is_v4(local_be) else listener.least_hops


# rfc: 9293:MUST-67, 8200:8.3-mss
def our_mss(s: cython.pointer[Stack], loopback: cython.bint, remote_be: Address) -> uint16_t:
    """What the device's MTU leaves (RFC 9293 section 3.7.1), or the longest packet where there is no device.

    So a message that one program sends another on this stack comes in one piece, as over Linux's loopback interface.
    """
    mtu: uint32_t = IP_LONGEST if loopback else least(link_mtu(s, remote_be), IP_LONGEST)
    return cython.cast(uint16_t, mtu - ip_header(remote_be) - TCP_HEADER)


def first_room(s: cython.pointer[Stack], listener: cython.pointer[Listener]) -> uint32_t:
    """What a SYN-ACK may offer: of the ring of the program that waits for a connection, else the region's buffer."""
    queue: cython.pointer[AcceptQueue] = cython.address(s.queues[listener - s.listeners])
    ch: cython.pointer[Channel]
    channel: uint32_t
    limit: uint32_t
    room: uint32_t
    word: uint32_t
    for word in range(4):
        if queue.ready[word]:
            channel = 64 * word + lowest(queue.ready[word])
            ch = cython.address(s.channels[channel])
            limit = load32(cython.address(ch.sockets[queue.posted[channel] - 1].program.receive_buffer))
            room = least(ch.header.rx_size, 65535)
            return least(room, most(limit, LEAST_RECEIVE_BUFFER)) if limit else room
    return HOLD_SIZE


# rfc: 7323:2.2b, 1191:3.1a 3.1c
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def take_syn(
    s: cython.pointer[Stack], t: cython.pointer[Tcb], seg: cython.pointer[cython.const[Segment]]
) -> cython.void:
    """What a SYN says about its sender: numbers, window and options. t.rcv.mss and t.rcv.wnd are ours."""
    options: Options
    parse(seg.options, seg.options_length, cython.address(options))
    overlook(s.page, cython.address(options))
    take_offers(s, t, seg.seq, cython.address(options))
    t.snd.wnd = t.snd.max_wnd = seg.wnd  # of a SYN: not scaled (RFC 7323 section 2.2)
    t.snd.wl2 = seg.ack


# rfc: 9293:MUST-14 MUST-15 MUST-16, 7323:2.2a
def take_offers(
    s: cython.pointer[Stack], t: cython.pointer[Tcb], irs: uint32_t, options: cython.pointer[cython.const[Options]]
) -> cython.void:
    """The peer's initial sequence number, and what its options are to us."""
    t.rcv.irs = irs
    t.rcv.nxt = irs + 1
    t.rcv.up = irs
    t.rcv.adv = t.rcv.nxt + t.rcv.wnd
    t.snd.wl1 = irs
    t.snd.mss = cython.cast(
        uint16_t, most(least(options.mss if options.mss else default_mss(t.remote_be), t.rcv.mss), LEAST_MSS)
    )
    t.snd.mss = path_mss(s, t.remote_be, t.snd.mss)
    if options.has_wscale:
        t.flags |= TCB_WINDOW_SCALING
        t.snd.wscale = options.wscale
        t.rcv.wscale = receive_shift(s)
    if options.sack_permitted:
        t.flags |= TCB_SACK
    if options.has_timestamp:
        t.flags |= TCB_TIMESTAMPS
        t.stamps.recent = options.tsval
        t.stamps.recent_at = s.now
        t.snd.mss -= STAMPS  # RFC 6691: the MSS does not count options


# rfc: 9293:MAY-2 SHLD-4, 6191:2a 2b 2c 2e 2f
def opens_anew(s: cython.pointer[Stack], i: uint32_t, seg: cython.pointer[cython.const[Segment]]) -> cython.bint:
    """A SYN for a flow in TIME-WAIT: with a number beyond the old connection's it ends that (RFC 9293 3.6.1, MAY-2).

    Where there are timestamps those decide, and numbers only between equal ones (RFC 6191 section 2).

    False: the segment is the old connection's.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    listener: cython.pointer[Listener]
    newer: cython.bint
    if seg.flags & (SYN | ACK | RST | FIN) != SYN:
        return False
    if t.flags & TCB_TIMESTAMPS and seg.stamped:
        newer = after(seg.tsval, t.stamps.recent) or (seg.tsval == t.stamps.recent and after(seg.seq, t.rcv.nxt))
    else:
        newer = after(seg.seq, t.rcv.nxt)
    if not newer:
        return False
    listener = find_listener(s, seg.local_be, seg.local_port_be)
    if listener == cython.NULL:
        return False
    end(s, i, 0)
    passive_open(s, listener, seg, used_up(t))
    return True


# ---- SYN-SENT ----


# rfc: 9293:MUST-10
def syn_sent(s: cython.pointer[Stack], i: uint32_t, seg: cython.pointer[Segment]) -> cython.bint:
    """3.10.7.3. True: established, and the segment's text and FIN (sixth step and beyond) are still to be taken."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    # First, the ACK bit
    if seg.flags & ACK and (not after(seg.ack, t.snd.iss) or after(seg.ack, t.snd.max)):
        if not seg.flags & RST:
            refuse(s, seg, True)
        return False
    # Second, the RST bit: it counts only with an acceptable ACK
    if seg.flags & RST:
        if seg.flags & ACK:
            s.counters.connections_reset += 1
            end(s, i, ECONNREFUSED)
        return False
    # Third, security: none. Fifth, neither SYN nor RST: drop
    if not seg.flags & SYN:
        return False
    # Fourth, the SYN bit
    take_syn(s, t, seg)
    answered(t, seg)
    if s.views[i].options & NEAT_FLAG_FASTOPEN:
        learn(s, t, seg)
        if t.snd.backoff and t.flags & TCB_FASTOPEN:
            forget(s, t)
    seg.seq += 1
    seg.flags &= ~SYN
    if seg.flags & ACK:
        t.flags |= TCB_ACK_NOW
        established(s, i, seg.ack)
        return True
    become(s, i, State.SYN_RECEIVED)  # simultaneous open: the SYN is sent again, as SYN-ACK
    t.snd.nxt = t.snd.iss
    t.snd.backoff = 0
    clear_timer(s, i, TIMER_RETRANSMIT)
    mark(s, i, NEWS_LINES | NEWS_OUTPUT)
    return False


# rfc: 7413:4.2.1b
# rfc: 6298:5.7, 5681:3.1-LOST-SYN
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def established(s: cython.pointer[Stack], i: uint32_t, ack: uint32_t) -> cython.void:
    """Our SYN is acknowledged, and we have the peer's.

    If ours had to be sent again, the path is worse, or longer, than one thinks: text starts with a timeout of 3 s, for
    the round trip is not known (RFC 6298 (5.7)), and with one segment (RFC 5681 section 3.1).
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    round_trip(s, i, ack)
    t.snd.una = ack
    t.snd.nxt = t.snd.max  # a retransmission that has not left yet is not needed any more
    if t.flags & (TCB_FASTOPEN | TCB_PASSIVE) == TCB_FASTOPEN:  # but text on the SYN that was not taken is
        t.snd.nxt = ack
        if ack == t.snd.iss + 1:
            t.flags &= ~cython.cast(uint32_t, TCB_FASTOPEN)
    lost: cython.bint = t.snd.backoff != 0 and not t.flags & TCB_DEFERRED
    if lost and not t.rtt.srtt:
        t.rtt.rto = RTO_FALLBACK
    t.snd.backoff = 0
    timeout_repaired(t, s.now)
    t.cc.recover = ack
    clear_timer(s, i, TIMER_RETRANSMIT)
    if ack != t.snd.max:
        restart(s, i)
    congestion.start(t)
    if lost:
        t.cc.cwnd = t.snd.mss
    expand(cython.address(s.views[i]), t)
    become(s, i, State.ESTABLISHED)
    if t.flags & TCB_FIN_QUEUED:  # CLOSE was called before (3.10.4, SYN-RECEIVED)
        become(s, i, State.FIN_WAIT_1)
    keepalive_start(s, i)
    mark(s, i, NEWS_LINES | NEWS_EVENT | NEWS_OUTPUT)


# ---- SYN-RECEIVED ----


# rfc: 3168:6.1.1-5
def repeated_syn(s: cython.pointer[Stack], i: uint32_t, seg: cython.pointer[Segment]) -> cython.bint:
    """In SYN-RECEIVED, a segment whose SYN is the one that we know. True: that was all.

    A bare SYN comes again because our SYN-ACK was lost: send that again. A SYN-ACK is the other half of a simultaneous
    open (section 3.5, figure 8): without its SYN it is an ordinary acknowledgment.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    if seg.flags & (SYN | RST) != SYN or seg.seq != t.rcv.irs:
        return False
    if seg.flags & ACK:
        seg.seq += 1
        seg.flags &= ~SYN
        t.flags |= TCB_ACK_NOW
        return False
    if seg.flags & (ECE | CWR) != ECE | CWR:
        t.ecn = 0  # who asked for ECN has given that up, and will pass over marks (RFC 3168 section 6.1.1)
    t.snd.nxt = t.snd.iss
    rtt.stop_timing(t)
    mark(s, i, NEWS_OUTPUT)
    return True


def syn_received(s: cython.pointer[Stack], i: uint32_t, seg: cython.pointer[cython.const[Segment]]) -> cython.bint:
    """3.10.7.4, fifth, SYN-RECEIVED: the ACK that establishes the connection. False: the segment is to be dropped."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    listener: cython.pointer[Listener]
    if not after(seg.ack, t.snd.una) or after(seg.ack, t.snd.max):
        refuse(s, seg, True)
        return False
    if t.flags & (TCB_PASSIVE | TCB_FASTOPEN) == TCB_PASSIVE:
        listener = listener_numbered(s, t.listener)
        if listener != cython.NULL and listener.waiting > listener.backlog:
            # As Linux: forget the ACK; our SYN-ACK will be sent again, and by then a program may have accepted.
            s.counters.drops[cython.cast(cython.int, DROP_ACCEPT_QUEUE)] += 1
            listener.overflows += 1
            return False
        if listener != cython.NULL and t.snd.backoff < listener.defer and not seg.len and not seg.flags & FIN:
            # TCP_DEFER_ACCEPT: no program need wake before there is text. As Linux, the ACK is forgotten but for this
            t.flags |= TCB_DEFERRED
            return False
    established(s, i, seg.ack)
    take_window(s, i, seg)
    return True
