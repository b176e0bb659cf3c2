"""The retransmission timer of text, and the tail loss probe that comes before it (RFC 6298, RFC 8985 section 7).

One deadline serves both, and RACK's reordering timer: TIMER_RETRANSMIT, and flags say what it is for. View.rto_at is
when a retransmission is due in any case. An incarnation that does not know it begins with a whole RTO.
"""

import cython
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t
from cython.cimports.neatstack.dataplane.ip.output import outbox_full
from cython.cimports.neatstack.dataplane.stack import (
    PROBE_AGAIN,
    PROBE_OUT,
    PROBE_UNMEASURED,
    Board,
    Stack,
    View,
)
from cython.cimports.neatstack.dataplane.tcp import congestion, rtt
from cython.cimports.neatstack.dataplane.tcp.output import end_of_text, send, up_to_border
from cython.cimports.neatstack.dataplane.tcp.seq import after, before, least
from cython.cimports.neatstack.dataplane.tcp.tcb import (
    TCB_FIN_SENT,
    TCB_PROBE_TIMER,
    TCB_RECOVERY,
    TCB_REORDER_TIMER,
    TCB_SACK,
    TIMER_RETRANSMIT,
    Tcb,
)
from cython.cimports.neatstack.dataplane.tcp.timeouts import retransmission_timeout
from cython.cimports.neatstack.dataplane.tcp.timers import MILLISECOND, SECOND, clear_timer, set_timer
from cython.cimports.neatstack.dataplane.tcp.timestamps import more_than_stamps
from cython.cimports.neatstack.dataplane.wire.headers import FIN, Segment

MAX_ACK_DELAY = cython.declare(uint64_t, 200)  # ms: TLP.max_ack_delay, of a peer whose delay is not known
LEAST = cython.declare(uint64_t, 10)  # ms: shorter probes would race with what a busy peer takes to answer


# rfc: 6298:5.1 5.3 5-EARLY 1-AGGRESSIVE
def restart(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """RFC 6298 (5.1) and (5.3): a whole RTO from now on, for what is outstanding."""
    s.views[i].rto_at = s.now + retransmission_timeout(s, i)
    schedule(s, i)


# rfc: 6298:5.2
def stop(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """RFC 6298 (5.2): nothing is outstanding."""
    s.tcbs[i].flags &= ~cython.cast(uint32_t, TCB_PROBE_TIMER | TCB_REORDER_TIMER)
    clear_timer(s, i, TIMER_RETRANSMIT)


# rfc: 8985:7.2-SHOULD-1 7.2-PTO 8-ONE
def schedule(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Set the timer for a probe where there may be one (RFC 8985 section 7.2), else for the retransmission."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    at: uint64_t
    if not v.rto_at:
        v.rto_at = s.now + retransmission_timeout(s, i)
    at = v.rto_at
    t.flags &= ~cython.cast(uint32_t, TCB_PROBE_TIMER | TCB_REORDER_TIMER)
    if (
        t.flags & (TCB_SACK | TCB_RECOVERY) == TCB_SACK
        and not v.mending
        and not v.sacked
        and not v.probe & (PROBE_OUT | PROBE_UNMEASURED)
        and not t.snd.backoff
        and t.snd.wnd
    ):
        t.flags |= TCB_PROBE_TIMER
        at = least_of(s.now + probe_timeout(t), at)
    set_timer(s, i, TIMER_RETRANSMIT, at)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def least_of(a: uint64_t, b: uint64_t) -> uint64_t:
    return a if a < b else b


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def probe_timeout(t: cython.pointer[cython.const[Tcb]]) -> uint64_t:
    """TLP_calc_PTO(), ns: two round trips; for one segment also what its receiver may wait for a second."""
    pto: uint64_t = 2000 * cython.cast(uint64_t, t.rtt.srtt) if t.rtt.srtt else SECOND
    if t.snd.max - t.snd.una <= t.snd.mss and t.rtt.srtt:
        pto += MAX_ACK_DELAY * MILLISECOND
    return pto if pto > LEAST * MILLISECOND else LEAST * MILLISECOND


# rfc: 8985:7.3-PROBE, 8985:7.3-MUST-2, 8985:7.3-MUST-3, 8985:7.3-MUST-4
def probe(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """The probe timer has fired (section 7.3): send new text, or the last segment again, whatever the window for it.

    One probe at a time, and not before a round trip was measured since the last; then a retransmission is waited for.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    end: uint32_t = end_of_text(v, t)
    length: uint32_t = 0
    piece: uint32_t
    seq: uint32_t = t.snd.max
    fin: uint8_t = 0
    if t.snd.una == t.snd.max:
        return
    if v.probe & (PROBE_OUT | PROBE_UNMEASURED) or t.snd.nxt != t.snd.max:
        set_timer(s, i, TIMER_RETRANSMIT, v.rto_at if v.rto_at else s.now + retransmission_timeout(s, i))
        return
    if outbox_full(s):
        t.flags |= TCB_PROBE_TIMER
        set_timer(s, i, TIMER_RETRANSMIT, s.now + MILLISECOND)
        return
    v.probe = PROBE_OUT | PROBE_UNMEASURED
    if before(seq, end) and t.snd.wnd > seq - t.snd.una:
        length = least(least(end - seq, t.snd.mss), t.snd.wnd - (seq - t.snd.una))
        piece = up_to_border(s, i, seq, length, end)
        if piece:
            length = piece
            end = seq + length
        t.snd.nxt += length
    else:
        v.probe |= PROBE_AGAIN
        rtt.stop_timing(t)
        fin = FIN if t.flags & TCB_FIN_SENT else 0
        length = least(seq - t.snd.una - (1 if fin else 0), t.snd.mss)
        seq -= length + (1 if fin else 0)
        piece = up_to_border(s, i, seq, length - 1, end) if length else 0
        while piece:
            seq += piece
            length -= piece
            piece = up_to_border(s, i, seq, length - 1, end)
    send(s, i, seq, length, fin, end)
    s.boards[i].probe_end = t.snd.max
    restart(s, i)


# rfc: 8985:7.4-MUST-1 7.4-MUST-2 7.4-RESPONSE
def acknowledged(
    s: cython.pointer[Stack], i: uint32_t, seg: cython.pointer[cython.const[Segment]], advanced: cython.bint
) -> cython.void:
    """TLP_process_ack() (section 7.4.2): the probe has been answered, if the ACK goes that far.

    If what it had sent again was lost, it has repaired that, and cwnd has to hear of it.
    `advanced`: the ACK has acknowledged something.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    b: cython.pointer[Board] = cython.address(s.boards[i])
    if before(seg.ack, b.probe_end) or v.mending or t.flags & TCB_RECOVERY:
        return
    if v.probe & PROBE_AGAIN:
        if b.dsack and b.probe_end - b.duplicate.right <= 1:  # a FIN is not told of
            pass  # both have arrived
        elif after(seg.ack, b.probe_end):
            congestion.reduce(t, least(t.snd.max - t.snd.una, t.cc.cwnd))
            t.cc.cwnd = t.cc.ssthresh
            t.cc.recover = t.snd.max
        elif advanced or seg.len or more_than_stamps(seg):
            return  # not a bare duplicate ACK, which tells that both have arrived, too
    v.probe &= ~cython.cast(uint8_t, PROBE_OUT | PROBE_AGAIN)
