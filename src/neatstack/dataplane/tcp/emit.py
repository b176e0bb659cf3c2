"""Segments are built and planned: those of a connection, and the RST that answers a segment without one.

Callers have seen to it that the outbox has room. A segment whose next hop is not known counts as sent and lost.
"""

import cython
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t
from cython.cimports.neatstack.dataplane.channel.atomic import load16
from cython.cimports.neatstack.dataplane.channel.buffers import tx_span
from cython.cimports.neatstack.dataplane.channel.layout import (
    NEAT_FLAG_FASTOPEN,
    NEAT_WITHOUT_SACK,
    NEAT_WITHOUT_SCALING,
    NEAT_WITHOUT_TIMESTAMPS,
)
from cython.cimports.neatstack.dataplane.driver.device import Outgoing
from cython.cimports.neatstack.dataplane.ip.output import begin, commit, outbox_full
from cython.cimports.neatstack.dataplane.stack import NEWS_OUTPUT, Stack, View
from cython.cimports.neatstack.dataplane.tcp.ecn import ECN_ACTIVE, ECT_0, transports
from cython.cimports.neatstack.dataplane.tcp.emit import write_header
from cython.cimports.neatstack.dataplane.tcp.fastopen import write_fast
from cython.cimports.neatstack.dataplane.tcp.options import write_syn
from cython.cimports.neatstack.dataplane.tcp.sack import write_sack
from cython.cimports.neatstack.dataplane.tcp.seq import after, before, least
from cython.cimports.neatstack.dataplane.tcp.state import mark
from cython.cimports.neatstack.dataplane.tcp.tally import count_out
from cython.cimports.neatstack.dataplane.tcp.tcb import (
    ECN_ASKED,
    ECN_DEMAND,
    ECN_OK,
    ECN_QUEUED,
    TCB_ACK_DELAYED,
    TCB_ACK_NOW,
    TCB_COOKIE_OWED,
    TCB_SACK,
    TCB_TIMESTAMPS,
    TCB_URGENT_OUT,
    TCB_WINDOW_SCALING,
    TIMER_DELAYED_ACK,
    State,
    Tcb,
)
from cython.cimports.neatstack.dataplane.tcp.timers import clear_timer
from cython.cimports.neatstack.dataplane.tcp.timestamps import STAMPS, write_stamps
from cython.cimports.neatstack.dataplane.tcp.window import offer, offer_in_syn, receive_shift
from cython.cimports.neatstack.dataplane.wire.bytes import put16
from cython.cimports.neatstack.dataplane.wire.headers import ACK, CWR, ECE, FIN, RST, SYN, TCP_HEADER, URG, Segment

LONGEST_HEADER = cython.declare(uint32_t, 60)  # of TCP, with options
LEAST_MAXSEG = cython.declare(uint16_t, 88)  # bytes, as Linux's TCP_MAXSEG


# rfc: 9293:MUST-65, 7323:3.2b, 3168:6.1.1-2 6.1.4-1 6.1.5-1 6.1.6-1, 2018:4-NOT-PERMITTED 4-ALWAYS
def emit(s: cython.pointer[Stack], i: uint32_t, seq: uint32_t, length: uint32_t, flags: uint8_t) -> cython.void:
    """Plan a segment of a synchronized connection with `length` bytes of the send ring.

    It carries every ACK that is owed, and as many selective ones as it has room for.
    """
    header: uint32_t = TCP_HEADER
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    window: uint16_t = offer(v, t, s.now)
    out: cython.pointer[Outgoing]
    t.flags &= ~cython.cast(uint32_t, TCB_ACK_NOW | TCB_ACK_DELAYED)
    clear_timer(s, i, TIMER_DELAYED_ACK)
    capable: cython.bint = transports(t, seq, length)
    out = begin(s, t.local_be, t.remote_be, v.tos | ECT_0 if capable else v.tos, v.ttl)
    if out == cython.NULL:
        return
    if cython.unlikely(t.ecn & (ECN_DEMAND | ECN_QUEUED)):
        flags |= bits_of(t, capable)
    if t.flags & TCB_TIMESTAMPS:
        write_stamps(s, t, out.header + out.transport + TCP_HEADER)
        header += STAMPS
    if t.flags & TCB_SACK and length < t.snd.mss:
        header += write_sack(t, out.header + out.transport + header, least(t.snd.mss - length, LONGEST_HEADER - header))
    write_header(
        out.header + out.transport, t.local_port_be, t.remote_port_be, seq, t.rcv.nxt, header, flags | ACK, window
    )
    if cython.unlikely(t.flags & TCB_URGENT_OUT):
        point_to_urgent(t, out.header + out.transport, seq)
    if length:
        tx_span(
            v,
            seq - (t.snd.iss + 1),
            length,
            cython.address(out.first),
            cython.address(out.first_length),
            cython.address(out.second),
        )
        if out.first == cython.NULL:  # the ring has gone, so all of it has been acknowledged
            return
        out.second_length = length - out.first_length
    count_out(t, length)
    commit(s, out, header, length, t.snd.mss if length > t.snd.mss else 0)


# rfc: 3168:6.1.3-1 6.1.2-3 5-ect0 5.2-detected 6.1.2-4
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def bits_of(t: cython.pointer[Tcb], fresh: cython.bint) -> uint8_t:
    """ECE while there is a mark to echo; CWR once, on text that was not sent before."""
    flags: uint8_t = ECE if t.ecn & ECN_DEMAND else 0
    if fresh and t.ecn & ECN_QUEUED:
        t.ecn &= ~cython.cast(uint8_t, ECN_QUEUED)
        flags |= CWR
    return flags


# rfc: 9293:MUST-30 MUST-31 MUST-62
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def point_to_urgent(t: cython.pointer[Tcb], tcp: cython.pointer[uint8_t], seq: uint32_t) -> cython.void:
    """Urgent data has not all been acknowledged: point behind its last byte (RFC 9293 section 3.8.5, RFC 6093).

    What is too far for the pointer is announced as far as that goes.
    """
    if not before(t.snd.una, t.snd.up):
        t.flags &= ~cython.cast(uint32_t, TCB_URGENT_OUT)
    elif before(seq, t.snd.up):
        tcp[13] |= URG
        put16(tcp + 18, cython.cast(uint16_t, least(t.snd.up - seq, 65535)))


def emit_ack(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Plan <SEQ=SND.NXT><ACK=RCV.NXT><CTL=ACK> at once, or note that it is owed when there is no room.

    Or what `acceptable_number` has instead.
    """
    if outbox_full(s):
        s.tcbs[i].flags |= TCB_ACK_NOW
        mark(s, i, NEWS_OUTPUT)
        return
    emit(s, i, acceptable_number(cython.address(s.tcbs[i])), 0, 0)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def acceptable_number(t: cython.pointer[cython.const[Tcb]]) -> uint32_t:
    """The sequence number of a segment without text: SND.NXT.

    The RFC's never steps back as ours does after a timeout: that is snd.max here. A peer that had received all of it
    would drop an ACK with a lower number as old, and two peers that both do that would never hear each other. What went
    beyond the peer's window does not count, for it drops an ACK from there, too: a probe, or all beyond the edge of a
    window that has shrunk. But a scaled window that is rounded down hides up to a unit of what it had offered before.
    """
    edge: uint32_t = t.snd.una + t.snd.wnd
    hidden: uint32_t = cython.cast(uint32_t, 1) << t.snd.wscale
    if not t.snd.wnd and t.snd.max - t.snd.una <= 1:
        return t.snd.nxt
    return edge if after(t.snd.max, edge) and t.snd.max - edge >= hidden else t.snd.max


def limit_mss(t: cython.pointer[Tcb], mss: uint16_t) -> cython.void:
    """TCP_MAXSEG, which may lower what we announce, and so what we send; 0: not set."""
    if mss and mss < t.rcv.mss:
        t.rcv.mss = mss if mss > LEAST_MAXSEG else LEAST_MAXSEG


# rfc: 7323:2.2a 3.2a 3.2f, 2018:2-SYN-ONLY, 1191:3.1b
def emit_syn(s: cython.pointer[Stack], i: uint32_t) -> cython.bint:
    """Plan a SYN (SYN-SENT) or SYN-ACK (SYN-RECEIVED). False: the next hop is not known, nothing leaves."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    active: cython.bint = t.state == State.SYN_SENT
    wanted: uint16_t = ~s.page.without if active else 0  # a SYN-ACK has what both ends want
    scaling: cython.bint = wanted & NEAT_WITHOUT_SCALING or t.flags & TCB_WINDOW_SCALING
    sack: cython.bint = wanted & NEAT_WITHOUT_SACK or t.flags & TCB_SACK
    stamped: cython.bint = wanted & NEAT_WITHOUT_TIMESTAMPS or t.flags & TCB_TIMESTAMPS
    window: uint16_t
    text: uint32_t = 0
    if active and t.snd.max == t.snd.iss and v.program != cython.NULL:
        limit_mss(t, load16(cython.address(v.program.mss)))
    window = offer_in_syn(v, t)
    tcp: cython.pointer[uint8_t]
    length: uint32_t
    out: cython.pointer[Outgoing] = begin(s, t.local_be, t.remote_be, v.tos, v.ttl)
    if out == cython.NULL:
        return False
    tcp = out.header + out.transport
    if stamped:
        write_stamps(s, t, tcp + TCP_HEADER + 4)
    length = TCP_HEADER + write_syn(tcp + TCP_HEADER, t.rcv.mss, scaling, receive_shift(s), sack, stamped)
    if t.flags & TCB_COOKIE_OWED or v.options & NEAT_FLAG_FASTOPEN:
        length = write_fast(s, i, out, length, cython.address(text))
    write_header(
        tcp, t.local_port_be, t.remote_port_be, t.snd.iss, t.rcv.nxt, length, flags_of_syn(s, t, active), window
    )
    commit(s, out, length, text, 0)
    if active:  # as Linux, which has no socket yet where a SYN-ACK leaves
        count_out(t, text)
    else:
        t.flags &= ~cython.cast(uint32_t, TCB_ACK_NOW | TCB_ACK_DELAYED)
    return True


# rfc: 3168:6.1.1-1 6.1.1.1-1 6.1.1-5 6.1.1-7
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def flags_of_syn(s: cython.pointer[Stack], t: cython.pointer[Tcb], active: cython.bint) -> uint8_t:
    """ECN is asked for if the operator wants it, and granted if it was asked for.

    A SYN that was not answered may have met somebody whom these bits displease: the next one has none.
    """
    if not active:
        return SYN | ACK | ECE if t.ecn & ECN_OK else SYN | ACK
    t.ecn = ECN_ASKED if s.page.ecn == ECN_ACTIVE and not t.snd.backoff else 0
    return SYN | ECE | CWR if t.ecn else SYN


# rfc: 7323:3.2c
def emit_reset(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Plan the RST of a connection that we abort (RFC 9293 section 3.10.5), where the peer believes it."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    header: uint32_t = TCP_HEADER
    v: cython.pointer[View] = cython.address(s.views[i])
    out: cython.pointer[Outgoing] = begin(s, t.local_be, t.remote_be, v.tos, v.ttl)
    if out == cython.NULL:
        return
    if t.flags & TCB_TIMESTAMPS:
        write_stamps(s, t, out.header + out.transport + TCP_HEADER)
        header += STAMPS
    count_out(t, 0)
    seq: uint32_t = acceptable_number(t)
    write_header(out.header + out.transport, t.local_port_be, t.remote_port_be, seq, t.rcv.nxt, header, RST | ACK, 0)
    commit(s, out, header, 0, 0)


def refuse(
    s: cython.pointer[Stack], seg: cython.pointer[cython.const[Segment]], acknowledging: cython.bint
) -> cython.void:
    """Answer a segment with RST (RFC 9293 section 3.5.2).

    With an ACK: <SEQ=SEG.ACK><CTL=RST>; without: <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>.
    `acknowledging`: the segment has an ACK that counts. A full outbox loses the RST: the peer will try again.
    """
    out: cython.pointer[Outgoing] = begin(s, seg.local_be, seg.remote_be, 0, 0)
    length: uint32_t = seg.len
    if out == cython.NULL:
        return
    if seg.flags & SYN:
        length += 1
    if seg.flags & FIN:
        length += 1
    write_header(
        out.header + out.transport,
        seg.local_port_be,
        seg.remote_port_be,
        seg.ack if acknowledging else 0,
        0 if acknowledging else seg.seq + length,
        TCP_HEADER,
        RST if acknowledging else RST | ACK,
        0,
    )
    commit(s, out, TCP_HEADER, 0, 0)
