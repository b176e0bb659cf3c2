"""What to send now (RFC 9293 section 3.8): called for a connection when something about it has changed.

Sequence numbers of the sending side:   una ........ nxt ........ max ........ end
                                        acknowledged | on its way | sent before | in the ring, never sent
nxt is max except after a retransmission timeout, when it steps back to una and all is sent again as the windows allow.
"""

import cython
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t
from cython.cimports.neatstack.dataplane.channel.atomic import load32, load_acquire
from cython.cimports.neatstack.dataplane.channel.layout import (
    NEAT_BORDERS,
    NEAT_FLAG_BORDERS,
    NEAT_FLAG_CORK,
    NEAT_FLAG_NODELAY,
    NEAT_WITHOUT_RESTART,
    Borders,
)
from cython.cimports.neatstack.dataplane.ip.output import outbox_full
from cython.cimports.neatstack.dataplane.stack import FRTO_NEW, NEWS_OUTPUT, Stack, View
from cython.cimports.neatstack.dataplane.tcp import congestion
from cython.cimports.neatstack.dataplane.tcp.congestion import LARGEST
from cython.cimports.neatstack.dataplane.tcp.emit import emit, emit_ack, emit_reset, emit_syn
from cython.cimports.neatstack.dataplane.tcp.rtt import begin_timing
from cython.cimports.neatstack.dataplane.tcp.scoreboard import close_stretch, next_lost, pipe, resent
from cython.cimports.neatstack.dataplane.tcp.seq import after, before, earlier, later, least, most
from cython.cimports.neatstack.dataplane.tcp.state import mark
from cython.cimports.neatstack.dataplane.tcp.tally import begin_sample, goes, wait_for
from cython.cimports.neatstack.dataplane.tcp.tcb import (
    CHRONO_WINDOW,
    ECN_REDUCED,
    TCB_ACK_NOW,
    TCB_ANSWERS,
    TCB_FASTOPEN,
    TCB_FIN_QUEUED,
    TCB_FIN_SENT,
    TCB_FORCE,
    TCB_HEARD,
    TCB_PACED,
    TCB_PASSIVE,
    TCB_PROBE_TIMER,
    TCB_RECOVERY,
    TCB_RESET_OWED,
    TCB_RETRANSMIT,
    TCB_SACK,
    TCB_URGENT_OUT,
    TIMER_PERSIST,
    TIMER_RETRANSMIT,
    Range,
    State,
    Tcb,
)
from cython.cimports.neatstack.dataplane.tcp.timeouts import retransmission_timeout
from cython.cimports.neatstack.dataplane.tcp.timers import MILLISECOND, clear_timer, set_timer
from cython.cimports.neatstack.dataplane.tcp.tlp import restart, schedule
from cython.cimports.neatstack.dataplane.wire.headers import FIN, IP_HEADER, IP_LONGEST, PSH, TCP_HEADER

LONGEST_TEXT = cython.declare(uint32_t, IP_LONGEST - IP_HEADER - TCP_HEADER)
PACING_LATE = cython.declare(uint64_t, 4000000)  # ns that a timer may be late, at most: as much as goes at once then


# rfc: 9293:MUST-58 MUST-59, 7413:4.2.2d
def output(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Plan what connection i has to send. When the outbox is full the rest stays in its news, for the next batch."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    if t.state == State.CLOSED:
        output_reset(s, i)
        return
    if t.state == State.SYN_SENT or t.state == State.SYN_RECEIVED:
        output_syn(s, i)
        if t.flags & (TCB_FASTOPEN | TCB_PASSIVE) == TCB_FASTOPEN | TCB_PASSIVE and t.snd.nxt != t.snd.iss:
            output_text(s, i)  # RFC 7413 section 3: the answer need not wait for the handshake's last ACK
    elif t.state != State.FREE and t.state != State.TIME_WAIT:
        output_text(s, i)
    if t.flags & TCB_ACK_NOW:
        emit_ack(s, i)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def output_reset(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    if not t.flags & TCB_RESET_OWED:
        return
    if outbox_full(s):
        mark(s, i, NEWS_OUTPUT)
        return
    emit_reset(s, i)
    s.views[i].reset_sent = 1  # owed still, until it has left: see publish.py


# rfc: 1122:arp-no-error
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def output_syn(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Send SYN or SYN-ACK if snd.nxt stands before it. While the next hop is not known, try again soon instead."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    wait: uint64_t
    if t.snd.nxt != t.snd.iss:
        return
    if outbox_full(s):
        mark(s, i, NEWS_OUTPUT)
        return
    if not emit_syn(s, i):
        wait = (s.now - t.last_received) // 2
        if wait < 2 * MILLISECOND:
            wait = 2 * MILLISECOND
        set_timer(s, i, TIMER_RETRANSMIT, s.now + (wait if wait < 250 * MILLISECOND else 250 * MILLISECOND))
        return
    if not t.snd.backoff:
        begin_timing(t, t.snd.iss, s.now)
    t.snd.nxt = t.snd.iss + 1
    t.snd.max = later(t.snd.max, t.snd.nxt)
    set_timer(s, i, TIMER_RETRANSMIT, s.now + retransmission_timeout(s, i))


# ---- text and FIN ----


def end_of_text(v: cython.pointer[cython.const[View]], t: cython.pointer[cython.const[Tcb]]) -> uint32_t:
    """The sequence number after the last byte that the user has given us: that of the FIN, once there is one."""
    return t.snd.fin if t.flags & TCB_FIN_QUEUED else t.snd.iss + 1 + v.tx_head


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def output_text(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Send what the windows and the rules against small segments allow, then see to the persist timer."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    end: uint32_t = end_of_text(v, t)
    length: uint32_t
    piece: uint32_t
    at: uint32_t
    fin: uint8_t
    if t.flags & TCB_RETRANSMIT and not resend_first(s, i, end):
        return
    if v.mending and v.frto != FRTO_NEW and not mend(s, i, end):
        return
    if t.snd.una == t.snd.max and s.now - t.last_sent > cython.cast(uint64_t, t.rtt.rto) * 1000:
        if not s.page.without & NEAT_WITHOUT_RESTART:
            congestion.idle(t)
    while True:
        length = sendable(s, i, end)
        fin = FIN if fin_follows(t, t.snd.nxt + length, end) else 0
        if not length and not fin:
            break
        if outbox_full(s):
            mark(s, i, NEWS_OUTPUT)
            return
        if cython.unlikely((v.pacing_rate | (v.options & NEAT_FLAG_BORDERS)) != 0):
            if v.pacing_rate:
                if waits(s, i):
                    return
                if length > burst(v, t):
                    length = burst(v, t)
                    fin = 0
            piece = up_to_border(s, i, t.snd.nxt, length, end)
            if piece:
                t.snd.nxt += piece
                send(s, i, t.snd.nxt - piece, piece, 0, t.snd.nxt)
                continue
        at = t.snd.nxt
        t.snd.nxt += length + fin
        send(s, i, at, length, fin, end)
    see_to_persist(s, i, end)


# rfc: 9293:MUST-34 SHLD-15, 7323:2.4c, 5681:2-WINDOW 3.2-LIMITED 3.2-LIMITED-BOUND 3.2-LIMITED-CWND 3.2-NEW
# rfc: 6675:4-NEXTSEG-NEW
@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def usable(s: cython.pointer[Stack], i: uint32_t) -> uint32_t:
    """Bytes that the peer's window and the congestion window leave beyond snd.nxt.

    Limited transmit (RFC 3042): the first two duplicate ACKs each let a new segment go beyond the congestion window.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    congested: uint32_t = t.cc.cwnd
    flight: uint32_t = t.snd.nxt - t.snd.una
    window: uint32_t
    if s.views[i].sacked or s.views[i].mending:  # what has arrived, or is lost, is not on its way (RFC 6675)
        congested += flight - pipe(s, i)
    if t.cc.dupacks and not t.flags & TCB_RECOVERY:
        congested += least(t.cc.dupacks, 2) * t.snd.mss
    window = least(t.snd.wnd, congested)
    return window - flight if window > flight else 0


# rfc: 9293:MUST-38 SHLD-16 SHLD-27 SHLD-28 MAY-16
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def sendable(s: cython.pointer[Stack], i: uint32_t, end: uint32_t) -> uint32_t:
    """How many bytes from snd.nxt should leave now as one (large) segment; 0: none.

    Silly window avoidance of the sender (RFC 9293 section 3.8.6.2.1) and Nagle (3.7.4): full segments always; less than
    one if that is all there is and no rule holds it, if it is half of what the peer can ever take, or when it is
    overdue.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    waiting: uint32_t = end - t.snd.nxt if before(t.snd.nxt, end) else 0
    window: uint32_t = usable(s, i)
    length: uint32_t = least(waiting, window)
    tail: uint32_t
    if not length:
        if waiting and t.snd.wnd < t.cc.cwnd:
            wait_for(t, s.now, CHRONO_WINDOW)
        return 0
    if length > t.snd.mss:  # one division for as many segments as it carries
        if cython.unlikely(t.flags & TCB_URGENT_OUT):  # the pointer counts from each segment's start
            return t.snd.mss
        length = least(length, LONGEST_TEXT)
        tail = length % t.snd.mss
        return length - tail if length < waiting or held(s, i, end) else length
    if length == t.snd.mss or before(t.snd.nxt, t.snd.max) or t.flags & TCB_FORCE:
        return length
    if length == waiting:
        return 0 if held(s, i, end) else length
    if 2 * length >= t.snd.max_wnd:
        return length
    if t.snd.wnd < t.cc.cwnd:
        wait_for(t, s.now, CHRONO_WINDOW)
    return 0


# rfc: 9293:SHLD-7 MUST-17
@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def held(s: cython.pointer[Stack], i: uint32_t, end: uint32_t) -> cython.bint:
    """Whether a last piece shorter than a segment has to wait.

    TCP_CORK holds it; Nagle's algorithm does while an earlier short one is not acknowledged (Minshall's form, as Linux
    has it: full segments on their way do not count). A FIN takes it along; an overdue, repeated or urgent one goes, and
    one that ends a message (MSG_EOR) and has more behind it.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    if t.flags & (TCB_FIN_QUEUED | TCB_FORCE | TCB_URGENT_OUT) or before(t.snd.nxt, t.snd.max):
        return False
    if v.options & (NEAT_FLAG_CORK | NEAT_FLAG_BORDERS):
        if up_to_border(s, i, t.snd.nxt, end - t.snd.nxt, end):
            return False
        if v.options & NEAT_FLAG_CORK:
            return True
    if v.options & NEAT_FLAG_NODELAY:
        return False
    return after(t.snd.small, t.snd.una) and not after(t.snd.small, t.snd.nxt)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def fin_follows(t: cython.pointer[cython.const[Tcb]], at: uint32_t, end: uint32_t) -> cython.bint:
    """Whether our FIN is next at sequence number `at`.

    It needs no buffer, so any window but a closed one has room for it.
    """
    return t.flags & TCB_FIN_QUEUED and at == end and t.snd.wnd != 0 and t.state != State.SYN_RECEIVED


# rfc: 9293:MUST-61, 8985:7.3-RACK, 9937:6-out
def send(
    s: cython.pointer[Stack], i: uint32_t, seq: uint32_t, length: uint32_t, fin: uint8_t, end: uint32_t
) -> cython.void:
    """Plan [seq, seq + length) and perhaps FIN (1 or 0), and keep the books: what is new, what is sent again.

    PSH ends what is queued; and, as on Linux, what leaves as one: its receiver joins it to one again, and then need not
    wait for more before it passes that on. A single segment with more behind it has none: where the window lets no more
    go at once, ACKs that are put off a little do no harm. Where cwnd is less than four segments Linux sends all alone.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    after_text: uint32_t = seq + length
    flags: uint8_t = fin
    fresh: uint32_t
    if cython.unlikely(s.views[i].pacing_rate != 0):
        charge(s, cython.address(s.views[i]), length)
    if length and (after_text == end or (length > t.snd.mss and t.cc.cwnd >= 4 * t.snd.mss)):
        flags |= PSH
    emit(s, i, seq, length, flags)
    if before(seq, t.snd.max):
        t.cc.retransmits += 1 if length <= t.snd.mss else (length + t.snd.mss - 1) // t.snd.mss
        s.counters.retransmits += 1
        t.tally.bytes_again += earlier(after_text, t.snd.max) - seq
        if t.flags & TCB_SACK:
            resent(s, i, seq, earlier(after_text + fin, t.snd.max))
    elif t.snd.una == t.snd.max:
        begin_sample(t, s.now)
    elif t.last_sent != s.now and t.flags & TCB_SACK:
        close_stretch(s, i)
    if after(after_text, t.snd.max):
        fresh = after_text - later(seq, t.snd.max)
        t.bytes_out += fresh
        if t.flags & TCB_HEARD:
            t.flags = t.flags & ~cython.cast(uint32_t, TCB_HEARD) | TCB_ANSWERS
        if not before(seq, t.snd.max):
            begin_timing(t, seq, s.now)
        if length < t.snd.mss or length % t.snd.mss:
            t.snd.small = after_text
    if fin:
        t.flags |= TCB_FIN_SENT
    t.snd.max = later(t.snd.max, after_text + fin)
    t.last_sent = s.now
    goes(s, i, t, after_text - t.snd.una)
    if t.flags & TCB_RECOVERY or t.ecn & ECN_REDUCED:
        t.cc.out = least(t.cc.out + length, LARGEST)
    if not t.timers[cython.cast(cython.int, TIMER_RETRANSMIT)]:
        restart(s, i)
    elif t.flags & TCB_PROBE_TIMER:
        schedule(s, i)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def resend_first(s: cython.pointer[Stack], i: uint32_t, end: uint32_t) -> cython.bint:
    """Fast retransmit: the segment at snd.una. False: the outbox is full."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    length: uint32_t = least(least(end - t.snd.una, t.snd.mss), t.snd.max - t.snd.una)
    piece: uint32_t
    fin: uint8_t = 0
    if outbox_full(s):
        mark(s, i, NEWS_OUTPUT)
        return False
    t.flags &= ~cython.cast(uint32_t, TCB_RETRANSMIT)
    if t.flags & TCB_FIN_SENT and t.snd.una + length == end:
        fin = FIN
    if length or fin:
        piece = up_to_border(s, i, t.snd.una, length, end)
        if piece:
            send(s, i, t.snd.una, piece, 0, t.snd.una + piece)
        else:
            send(s, i, t.snd.una, length, fin, end)
    return True


# rfc: 6675:5-SEND, 8985:9.3-WINDOW
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def mend(s: cython.pointer[Stack], i: uint32_t, end: uint32_t) -> cython.bint:
    """Send again what is lost, as far as cwnd goes (RFC 6675 section 5, C). False: the outbox is full.

    What only may be lost is not (NextSeg, rules 3 and 4): time tells soon enough.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    hole: Range
    under_way: uint32_t = pipe(s, i)
    length: uint32_t
    piece: uint32_t
    fin: uint8_t
    while t.cc.cwnd >= under_way + t.snd.mss:
        if not next_lost(s, i, cython.address(hole)):
            break
        if outbox_full(s):
            mark(s, i, NEWS_OUTPUT)
            return False
        if cython.unlikely(s.views[i].pacing_rate != 0 and waits(s, i)):
            return False
        length = least(t.cc.cwnd - under_way, LONGEST_TEXT)
        length = least(hole.right - hole.left, length - length % t.snd.mss)
        if t.flags & TCB_URGENT_OUT:
            length = least(length, t.snd.mss)
        if cython.unlikely(s.views[i].options & NEAT_FLAG_BORDERS != 0):
            piece = up_to_border(s, i, hole.left, length, end)
            if piece:
                send(s, i, hole.left, piece, 0, hole.left + piece)
                under_way += piece
                continue
        fin = 0
        if t.flags & TCB_FIN_SENT and hole.left + length == t.snd.fin + 1:
            length -= 1
            fin = FIN
        send(s, i, hole.left, length, fin, end)
        under_way += length + fin
    return True


# ---- MSG_EOR ----


def up_to_border(s: cython.pointer[Stack], i: uint32_t, seq: uint32_t, length: uint32_t, end: uint32_t) -> uint32_t:
    """Bytes of [seq, seq + length) up to where the program has ended a message; 0: that is nowhere, or only at `end`.

    What the program has written there is only compared: at worst it cuts its own segments short.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    first: uint32_t = 0
    borders: cython.pointer[Borders]
    head: uint32_t
    at: uint32_t
    k: uint32_t
    if not s.views[i].options & NEAT_FLAG_BORDERS:
        return 0
    borders = cython.address(s.channels[t.channel].asides[t.socket].borders)
    head = load_acquire(cython.address(borders.head))
    for k in range(least(head, NEAT_BORDERS)):
        at = t.snd.iss + 1 + load32(cython.address(borders.at[(head - 1 - k) & (NEAT_BORDERS - 1)]))
        if at != end and 0 < at - seq <= length:
            length = first = at - seq
    return first


# ---- SO_MAX_PACING_RATE ----


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def waits(s: cython.pointer[Stack], i: uint32_t) -> cython.bint:
    """Whether what was sent takes longer at that rate than has passed. Then a timer is set for the rest."""
    if s.views[i].paced_until <= s.now:
        return False
    s.tcbs[i].flags |= TCB_PACED
    set_timer(s, i, TIMER_PERSIST, s.views[i].paced_until)
    return True


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def burst(v: cython.pointer[cython.const[View]], t: cython.pointer[cython.const[Tcb]]) -> uint32_t:
    """Bytes that may go at once: as Linux, what the rate carries in a millisecond, and two segments at least."""
    return most(v.pacing_rate // 1000 // most(t.snd.mss, 1), 2) * t.snd.mss


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def charge(s: cython.pointer[Stack], v: cython.pointer[View], length: uint32_t) -> cython.void:
    """So many bytes go: when may the next? What a late timer has missed goes, too, or the rate would be lower."""
    if v.paced_until + PACING_LATE < s.now:
        v.paced_until = s.now
    v.paced_until += cython.cast(uint64_t, length) * 1000000000 // v.pacing_rate


# ---- nothing may go ----


# rfc: 9293:SHLD-29 MUST-60
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def see_to_persist(s: cython.pointer[Stack], i: uint32_t, end: uint32_t) -> cython.void:
    """With something to send and nothing on its way no ACK will come to wake us: the persist timer must.

    It covers the closed window (RFC 9293 section 3.8.6.1), the silly window and the cork; when it has fired (TCB_FORCE)
    and still nothing could be sent, the window is probed.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    forced: cython.bint = t.flags & TCB_FORCE
    wait: uint64_t
    t.flags &= ~cython.cast(uint32_t, TCB_FORCE)
    if t.snd.nxt != t.snd.una or not unsent(t, end):
        clear_timer(s, i, TIMER_PERSIST)
        return
    if forced:
        probe(s, i, end)
    if not t.timers[cython.cast(cython.int, TIMER_PERSIST)]:
        wait = retransmission_timeout(s, i)
        if t.snd.wnd and wait > 200 * MILLISECOND:
            wait = 200 * MILLISECOND  # RFC 9293 section 3.8.6.2.1: the override, 0.1 - 1 s; Linux's cork
        t.flags &= ~cython.cast(uint32_t, TCB_PACED)
        set_timer(s, i, TIMER_PERSIST, s.now + wait)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def unsent(t: cython.pointer[cython.const[Tcb]], end: uint32_t) -> cython.bint:
    """Whether text or our FIN lies at or beyond snd.nxt."""
    return before(t.snd.nxt, end) or (t.flags & TCB_FIN_QUEUED and t.snd.nxt == end)


# rfc: 9293:MUST-36
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def probe(s: cython.pointer[Stack], i: uint32_t, end: uint32_t) -> cython.void:
    """Send the next byte, or the FIN, into a closed window (RFC 9293 section 3.8.6.1).

    Nothing counts on its arrival: snd.nxt stays.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    length: uint32_t = 1 if before(t.snd.una, end) else 0
    if outbox_full(s):
        return
    emit(s, i, t.snd.una, length, 0 if length else FIN)
    if t.snd.una == t.snd.max:
        t.bytes_out += length
    if not length:
        t.flags |= TCB_FIN_SENT
    t.snd.max = later(t.snd.max, t.snd.una + 1)
