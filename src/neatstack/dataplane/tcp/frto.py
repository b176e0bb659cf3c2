"""Timeouts that were not needed, found and undone (F-RTO, RFC 5682 section 3.1; the response: RFC 4015).

After a timeout one segment is sent again. If the next ACK goes on, new text is sent, not what is deemed lost; if then
something is acknowledged that was sent only once, before the timeout, it was late and not lost. What is needed for
undoing is in the Board, and an incarnation that does not know it takes the timeout for what it seemed.
"""

import cython
from cython.cimports.libc.stdint import uint32_t
from cython.cimports.neatstack.dataplane.stack import (
    FRTO_NEW,
    FRTO_SENT_AGAIN,
    MENDING_TIMEOUT,
    NEWS_OUTPUT,
    Board,
    Stack,
    View,
)
from cython.cimports.neatstack.dataplane.tcp.output import end_of_text
from cython.cimports.neatstack.dataplane.tcp.scoreboard import none_lost, pipe
from cython.cimports.neatstack.dataplane.tcp.seq import before, least, most
from cython.cimports.neatstack.dataplane.tcp.state import mark
from cython.cimports.neatstack.dataplane.tcp.tally import timeout_repaired
from cython.cimports.neatstack.dataplane.tcp.tcb import ECN_OK, Tcb
from cython.cimports.neatstack.dataplane.wire.headers import ECE, Segment


# rfc: 5682:3.1-STEP-1 3.1-IN-RECOVERY, 4015:3.1-ONCE
def timer_fires(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Step 1: the retransmission timer has fired, and nothing has changed for that yet.

    Only the first time: what has been sent after an earlier timeout says nothing about a later one.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    b: cython.pointer[Board] = cython.address(s.boards[i])
    v.frto = 0
    if t.snd.backoff or v.mending == MENDING_TIMEOUT or before(t.snd.una, t.cc.recover):
        return
    v.frto = FRTO_SENT_AGAIN
    b.undo_cwnd = t.cc.cwnd
    b.undo_ssthresh = t.cc.ssthresh
    b.undo_w_max = t.cc.w_max
    b.undo_cwnd_prior = t.cc.cwnd_prior


# rfc: 5682:3.1-STEP-2 3.1-STEP-3 3.1-NO-TEXT 3.1-STEP-3A, 4015:2-DETECTION
def answer(
    s: cython.pointer[Stack], i: uint32_t, seg: cython.pointer[cython.const[Segment]], advanced: cython.bint
) -> cython.void:
    """Steps 2 and 3: an ACK after the timeout; `advanced`: it has acknowledged something.

    Its blocks were taken, its window not yet.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    b: cython.pointer[Board] = cython.address(s.boards[i])
    if v.mending != MENDING_TIMEOUT:  # all that was sent before is acknowledged, at once: that says nothing
        v.frto = 0
    elif v.frto == FRTO_NEW:
        v.frto = 0
        if b.original:
            undo(s, i, seg.flags & ECE and t.ecn & ECN_OK)
    elif not advanced or not new_text_fits(s, i, seg.wnd << t.snd.wscale):
        v.frto = 0  # a duplicate, or there is nothing new that could be sent: as if there were no F-RTO
    else:
        v.frto = FRTO_NEW
        t.cc.cwnd = least(t.cc.cwnd, pipe(s, i) + 2 * t.snd.mss)
    b.original = 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def new_text_fits(s: cython.pointer[Stack], i: uint32_t, window: uint32_t) -> cython.bint:
    """Whether a full segment of text that was never sent can go now; `window` is the peer's from snd.una on."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    end: uint32_t = end_of_text(cython.address(s.views[i]), t)
    after_it: uint32_t = t.snd.nxt + t.snd.mss
    return not before(end, after_it) and window >= after_it - t.snd.una and t.cc.cwnd >= pipe(s, i) + t.snd.mss


# rfc: 5682:3.1-STEP-3, 4015:3.1-RESTORE 3.1-RESUME 3.1-ECE, 9438:4.9-restore
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def undo(s: cython.pointer[Stack], i: uint32_t, marked: cython.bint) -> cython.void:
    """The timeout was spurious (RFC 4015 section 3.1): nothing is lost, and the windows are what they were.

    But not if a router has marked what was sent: that asks for smaller ones, too.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    b: cython.pointer[Board] = cython.address(s.boards[i])
    none_lost(s, i)
    s.views[i].mending = 0
    timeout_repaired(t, s.now)
    t.cc.recover = t.snd.una
    mark(s, i, NEWS_OUTPUT)
    if marked:
        return
    t.cc.cwnd = most(t.cc.cwnd, b.undo_cwnd)
    t.cc.ssthresh = most(t.cc.ssthresh, b.undo_ssthresh)
    t.cc.w_max = b.undo_w_max  # CUBIC aims at the same window again, from now on (RFC 9438 section 4.9)
    t.cc.cwnd_prior = b.undo_cwnd_prior
    t.cc.epoch = 0
