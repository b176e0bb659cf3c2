"""A TCP segment has come in: RFC 9293 section 3.10.7, in its order.

Handled elsewhere: no connection, SYN-SENT and SYN-RECEIVED in handshake.py, acknowledgments in ack.py, text and FIN in
receive.py.
"""

import cython
from cython.cimports.libc.errno import ECONNREFUSED, ECONNRESET, EPIPE
from cython.cimports.libc.stdint import int32_t, uint8_t, uint32_t, uint64_t
from cython.cimports.neatstack.dataplane.channel.address import get_address, mapped
from cython.cimports.neatstack.dataplane.journal import touch
from cython.cimports.neatstack.dataplane.stack import (
    DROP_SEQUENCE,
    DROP_TCP_CHECKSUM,
    DROP_TCP_HEADER,
    DROP_TTL,
    NEWS_EVENT,
    NEWS_LINES,
    NEWS_OUTPUT,
    Stack,
)
from cython.cimports.neatstack.dataplane.tcp import table
from cython.cimports.neatstack.dataplane.tcp.ack import acknowledge, challenge, fin_acknowledged
from cython.cimports.neatstack.dataplane.tcp.ecn import text_came
from cython.cimports.neatstack.dataplane.tcp.handshake import (
    no_connection,
    opens_anew,
    repeated_syn,
    syn_received,
    syn_sent,
)
from cython.cimports.neatstack.dataplane.tcp.receive import fin, text
from cython.cimports.neatstack.dataplane.tcp.sack import came_again
from cython.cimports.neatstack.dataplane.tcp.seq import after, before, least
from cython.cimports.neatstack.dataplane.tcp.state import TIME_WAIT_SECONDS, become, end, mark, receives
from cython.cimports.neatstack.dataplane.tcp.tally import count_capable, count_in
from cython.cimports.neatstack.dataplane.tcp.tcb import (
    ECN_SEEN,
    TCB_ACK_NOW,
    TCB_DETACHED,
    TCB_FASTOPEN,
    TCB_FIN_SEEN,
    TCB_LEAST_TTL,
    TCB_PASSIVE,
    TCB_READ_SHUT,
    TCB_TIMESTAMPS,
    TCB_URGENT_IN,
    TIMER_TIME_WAIT,
    State,
    Tcb,
)
from cython.cimports.neatstack.dataplane.tcp.timers import SECOND, set_timer
from cython.cimports.neatstack.dataplane.tcp.timestamps import find_stamps, outdated
from cython.cimports.neatstack.dataplane.tcp.user import abort, fin_wait_2_limit
from cython.cimports.neatstack.dataplane.tcp.window import acknowledged
from cython.cimports.neatstack.dataplane.wire.bytes import get16, get32, raw16, raw32
from cython.cimports.neatstack.dataplane.wire.checksum import add, fold, pseudo_header
from cython.cimports.neatstack.dataplane.wire.headers import (
    ACK,
    CE,
    CWR,
    ECE,
    FIN,
    PROTOCOL_TCP,
    RST,
    SYN,
    TCP_HEADER,
    URG,
    Segment,
    hops_left,
)


def segment_arrives(
    s: cython.pointer[Stack],
    packet: cython.pointer[cython.const[uint8_t]],
    ip_header: uint32_t,
    length: uint32_t,
    checked: cython.bint,
    loopback: cython.bint,
) -> cython.void:
    """Take an IP packet of `length` bytes that has been found good; `checked`: so is its TCP checksum.

    `ip_header` bytes of headers stand before TCP's.
    """
    seg: Segment
    i: uint32_t
    if not parse(s, packet, ip_header, length, checked, cython.address(seg)):
        return
    seg.loopback = loopback
    i = table.find(s, seg.local_be, seg.local_port_be, seg.remote_be, seg.remote_port_be)
    if cython.unlikely(not i):
        seg.packet = packet
        i = no_connection(s, cython.address(seg))
        if not i:
            return
    touch(s, i)
    count_in(cython.address(s.tcbs[i]), seg.len)
    if cython.likely(predicted(cython.address(s.tcbs[i]), cython.address(seg))):
        heard(s, i, cython.address(seg))
        if acknowledge(s, i, cython.address(seg)):
            take_stamp(s, cython.address(s.tcbs[i]), seg.tsval, seg.seq)
            if seg.len:
                text(s, i, cython.address(seg))
    else:
        seg.packet = packet
        if cython.unlikely(s.tcbs[i].flags & TCB_LEAST_TTL and hops_left(packet) < s.tcbs[i].least_ttl):
            s.counters.drops[cython.cast(cython.int, DROP_TTL)] += 1
            return
        in_its_order(s, i, cython.address(seg))


# rfc: 9293:MUST-3 MUST-1
@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def parse(
    s: cython.pointer[Stack],
    packet: cython.pointer[cython.const[uint8_t]],
    ip_header: uint32_t,
    length: uint32_t,
    checked: cython.bint,
    seg: cython.pointer[Segment],
) -> cython.bint:
    """Read the header (RFC 9293 section 3.1); False: it is no good, and was counted."""
    tcp: cython.pointer[cython.const[uint8_t]] = packet + ip_header
    header: uint32_t
    pseudo: uint64_t
    length -= ip_header
    if length < TCP_HEADER:
        s.counters.drops[cython.cast(cython.int, DROP_TCP_HEADER)] += 1
        return False
    header = cython.cast(uint32_t, tcp[12] >> 4) << 2
    if header < TCP_HEADER or header > length:
        s.counters.drops[cython.cast(cython.int, DROP_TCP_HEADER)] += 1
        return False
    if cython.likely(packet[0] >> 4 == 4):
        seg.remote_be = mapped(raw32(packet + 12))
        seg.local_be = mapped(raw32(packet + 16))
    else:
        seg.remote_be = get_address(packet + 8)
        seg.local_be = get_address(packet + 24)
    pseudo = pseudo_header(seg.remote_be, seg.local_be, PROTOCOL_TCP, length)
    if not checked and fold(add(pseudo, tcp, length)) != 0xFFFF:
        s.counters.drops[cython.cast(cython.int, DROP_TCP_CHECKSUM)] += 1
        return False
    seg.remote_port_be = raw16(tcp)
    seg.local_port_be = raw16(tcp + 2)
    seg.seq = get32(tcp + 4)
    seg.ack = get32(tcp + 8)
    seg.flags = tcp[13] & (FIN | SYN | RST | ACK | URG | ECE | CWR)  # PSH says nothing: all text is delivered at once
    seg.marks = (packet[1] if packet[0] >> 4 == 4 else packet[1] >> 4) & 3
    if cython.unlikely(seg.marks == 3):
        seg.flags |= CE
    seg.wnd = get16(tcp + 14)
    seg.up = get16(tcp + 18)
    seg.text = tcp + header
    seg.len = length - header
    seg.options = tcp + TCP_HEADER
    seg.options_length = header - TCP_HEADER
    seg.stamped = 0
    if seg.options_length:
        find_stamps(seg)
    return True


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def predicted(t: cython.pointer[cython.const[Tcb]], seg: cython.pointer[cython.const[Segment]]) -> cython.bint:
    """Header prediction (Jacobson 1990): the connection is established, and the segment comes next, within the window.

    Then the steps before the fifth have nothing to find.
    """
    return (
        t.state == State.ESTABLISHED
        and seg.flags == ACK
        and seg.seq == t.rcv.nxt
        and seg.len <= t.rcv.adv - t.rcv.nxt
        and not t.flags & (TCB_FIN_SEEN | TCB_LEAST_TTL)
        and (not t.flags & TCB_TIMESTAMPS or (seg.stamped and not before(seg.tsval, t.stamps.recent)))
    )


# rfc: 7323:4.3
@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def take_stamp(s: cython.pointer[Stack], t: cython.pointer[Tcb], tsval: uint32_t, seq: uint32_t) -> cython.void:
    """RFC 7323 section 4.3 (2): echo what came with the text that we acknowledge next, or has been there already."""
    if t.flags & TCB_TIMESTAMPS and not after(seq, acknowledged(t)):
        t.stamps.recent = tsval
        t.stamps.recent_at = s.now


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def heard(s: cython.pointer[Stack], i: uint32_t, seg: cython.pointer[cython.const[Segment]]) -> cython.void:
    """The peer is alive."""
    s.tcbs[i].last_received = s.now
    s.tcbs[i].keep_probes = 0
    if cython.unlikely(seg.marks != 0):
        s.tcbs[i].ecn |= ECN_SEEN
        count_capable(cython.address(s.tcbs[i]), seg.marks, seg.len)


# rfc: 9293:MUST-5 MUST-66, 7323:5.2b 3.2g 5.2c, 5961:4.2a 4.2b, 7413:4.1.1b
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def in_its_order(s: cython.pointer[Stack], i: uint32_t, seg: cython.pointer[Segment]) -> cython.void:
    """3.10.7.3 and 3.10.7.4, step by step."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    seq: uint32_t = seg.seq
    if t.state == State.SYN_SENT:
        heard(s, i, seg)
        if syn_sent(s, i, seg):
            take_text_and_fin(s, i, seg)
        return
    if t.state == State.TIME_WAIT and opens_anew(s, i, seg):
        return
    if t.state == State.SYN_RECEIVED and repeated_syn(s, i, seg):
        return
    # Fourth, the SYN bit, before the first: wherever it lies, it is challenged (RFC 5961 section 4.2)
    if seg.flags & (SYN | RST) == SYN:
        challenge(s, i)
        return
    # First, the sequence number. Second, the RST bit
    if seg.flags & RST:
        reset(s, i, seg)
        return
    if t.flags & TCB_TIMESTAMPS and not in_time(s, i, seg):
        return
    if not acceptable(s, i, seg):
        return
    heard(s, i, seg)
    # Third, security: none. Fifth, the ACK field
    if not seg.flags & ACK or not take_ack(s, i, seg):
        return
    take_stamp(s, t, seg.tsval, seq)  # only now: one that acknowledges what cannot be must not move the echo
    # Sixth, the URG bit
    if seg.flags & URG:
        urgent(s, i, seq + (seg.up - 1 if seg.up else 0))
    take_text_and_fin(s, i, seg)


# ---- first and second ----


# rfc: 7323:3.2d 3.2e 5.3a
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def in_time(s: cython.pointer[Stack], i: uint32_t, seg: cython.pointer[cython.const[Segment]]) -> cython.bint:
    """Before the first: timestamps. A segment without is nobody's (RFC 7323 section 3.2); an old one is answered."""
    if not seg.stamped:
        s.counters.drops[cython.cast(cython.int, DROP_SEQUENCE)] += 1
        return False
    if outdated(s, cython.address(s.tcbs[i]), seg):
        return unacceptable(s, i, seg)
    return True


# rfc: 9293:MUST-66, 7323:2.4a
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def acceptable(s: cython.pointer[Stack], i: uint32_t, seg: cython.pointer[Segment]) -> cython.bint:
    """First: does part of the segment lie in the window? Cut off what does not.

    False: it is dropped, and answered with an ACK.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    window: uint32_t = t.rcv.adv - t.rcv.nxt
    length: uint32_t = seg.len + (1 if seg.flags & FIN else 0)
    old: int32_t = t.rcv.nxt - seg.seq  # bytes before the window
    ahead: uint32_t
    if length == 0:
        # An ACK that text has overtaken on the way says nothing wrong, so anything since our last ACK will do, as for
        # Linux; and the right edge itself, where a peer is that has filled the window.
        if not before(seg.seq, acknowledged(t)) and not after(seg.seq, t.rcv.adv):
            return True
        # Where both ends have probed and both probes were taken, neither counts its own: each would for ever drop the
        # other's ACK, which says so. RFC 9293 section 3.10.7.4 refers to draft-gont-tcpm-tcp-seq-validation
        if seg.seq == t.rcv.nxt - 1 and seg.flags & ACK and t.state != State.SYN_RECEIVED and not take_ack(s, i, seg):
            return False
        return unacceptable(s, i, seg)
    if old > 0:
        if seg.len:  # RFC 2883: the peer shall know that it sent this in vain
            came_again(t, seg.seq, seg.seq + least(seg.len, old))
        if cython.cast(uint32_t, old) >= length:
            return unacceptable(s, i, seg)
        seg.text += old
        seg.seq += old
        seg.len -= old
    ahead = seg.seq - t.rcv.nxt
    if ahead == 0 and window == 0:  # "special allowance should be made to accept valid ACKs"
        s.counters.drops[cython.cast(cython.int, DROP_SEQUENCE)] += 1
        seg.len = 0
        seg.flags &= ~FIN
        t.flags |= TCB_ACK_NOW
        mark(s, i, NEWS_OUTPUT)
        return True
    if ahead >= window:
        return unacceptable(s, i, seg)
    if seg.len > window - ahead or (seg.flags & FIN and seg.len == window - ahead):
        seg.len = window - ahead
        seg.flags &= ~FIN
    return True


# rfc: 7323:5.3b
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def unacceptable(s: cython.pointer[Stack], i: uint32_t, seg: cython.pointer[cython.const[Segment]]) -> cython.bint:
    """Answer with <SEQ=SND.NXT><ACK=RCV.NXT><CTL=ACK>. False, for the caller to return.

    For segments without text the number of answers is limited, lest two confused peers answer each other for ever.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    s.counters.drops[cython.cast(cython.int, DROP_SEQUENCE)] += 1
    if not seg.len and not seg.flags & FIN:
        challenge(s, i)
        return False
    if t.state == State.TIME_WAIT and seg.flags & FIN:  # our ACK was lost: "restart the 2 MSL time-wait timeout"
        table.wait_remove(s, i)
        table.wait_add(s, i)
        set_timer(s, i, TIMER_TIME_WAIT, s.now + TIME_WAIT_SECONDS * SECOND)
    t.flags |= TCB_ACK_NOW
    mark(s, i, NEWS_OUTPUT)
    return False


# rfc: 9293:MUST-11 SHLD-2 MUST-12, 5961:3.2a 3.2b 3.2c
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def reset(s: cython.pointer[Stack], i: uint32_t, seg: cython.pointer[cython.const[Segment]]) -> cython.void:
    """Second: RST.

    RFC 5961 section 3.2: believed at exactly rcv.nxt, challenged elsewhere in the window, dropped outside.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    if t.state == State.TIME_WAIT:  # RFC 1337: it must not end TIME-WAIT
        return
    if seg.seq != t.rcv.nxt:
        if seg.seq - t.rcv.nxt < t.rcv.adv - t.rcv.nxt:
            challenge(s, i)
        else:
            s.counters.drops[cython.cast(cython.int, DROP_SEQUENCE)] += 1
        return
    if t.state == State.SYN_RECEIVED and t.flags & (TCB_PASSIVE | TCB_FASTOPEN) == TCB_PASSIVE:
        end(s, i, 0)  # back to LISTEN; no program has heard of it
        return
    s.counters.connections_reset += 1
    if t.state == State.SYN_RECEIVED and not t.flags & TCB_PASSIVE:
        end(s, i, ECONNREFUSED)
    elif t.state == State.CLOSE_WAIT:
        end(s, i, EPIPE)  # as Linux: the peer's FIN has been seen, only our sending fails
    elif t.state == State.CLOSING or t.state == State.LAST_ACK:
        end(s, i, 0)
    else:
        end(s, i, ECONNRESET)


# ---- fifth and later ----


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def take_ack(s: cython.pointer[Stack], i: uint32_t, seg: cython.pointer[cython.const[Segment]]) -> cython.bint:
    """Fifth: the ACK field, in each state. False: the segment goes no further."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    if t.state == State.SYN_RECEIVED:
        return syn_received(s, i, seg)
    if not acknowledge(s, i, seg):
        return False
    if t.state == State.FIN_WAIT_1 and fin_acknowledged(s, i):
        become(s, i, State.FIN_WAIT_2)
        mark(s, i, NEWS_LINES | NEWS_EVENT)
        if t.flags & TCB_DETACHED:
            fin_wait_2_limit(s, i)
    elif t.state == State.CLOSING and fin_acknowledged(s, i):
        become(s, i, State.TIME_WAIT)
        mark(s, i, NEWS_LINES | NEWS_EVENT)
        return False
    elif t.state == State.LAST_ACK and fin_acknowledged(s, i):
        end(s, i, 0)
        return False
    return True


# rfc: 9293:MUST-30 MUST-31 MUST-32 MUST-33
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def urgent(s: cython.pointer[Stack], i: uint32_t, last: uint32_t) -> cython.void:
    """Sixth: the last urgent byte is `last`, the one before that which the pointer names (RFC 6093 section 2.1).

    The program is told of it at once, also before it comes; the bytes are part of the stream (section 3.1).
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    known: cython.bint = t.flags & TCB_URGENT_IN and not before(t.rcv.up, t.rcv.nxt)
    if not receives(t.state) or before(last, t.rcv.nxt) or (known and not after(last, t.rcv.up)):
        return
    t.rcv.up = last
    t.flags |= TCB_URGENT_IN
    mark(s, i, NEWS_LINES | NEWS_EVENT)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def take_text_and_fin(s: cython.pointer[Stack], i: uint32_t, seg: cython.pointer[Segment]) -> cython.void:
    """Seventh, the segment text, and eighth, the FIN bit: only where the peer has not said FIN yet."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    if not receives(t.state):
        if seg.len:  # ignored, but the peer is told where we stand
            challenge(s, i)
        return
    if seg.len:
        if seg.flags & (CE | CWR):
            text_came(s, i, seg)
        if t.flags & TCB_DETACHED or (t.flags & TCB_READ_SHUT and t.state != State.ESTABLISHED):
            abort(s, i, ECONNRESET)  # nobody will read it: the peer shall know (RFC 2525 section 2.17)
            return
        text(s, i, seg)
    if seg.flags & FIN or t.flags & TCB_FIN_SEEN:
        fin(s, i, seg)
