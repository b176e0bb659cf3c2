"""Acknowledgments that come in (RFC 9293 section 3.10.7.4, fifth), and the limit on those that answer blind attacks."""

import cython
from cython.cimports.libc.stdint import int32_t, uint8_t, uint32_t, uint64_t
from cython.cimports.neatstack.dataplane.stack import (
    DROP_BLIND_ATTACK,
    DROP_OLD_ACK,
    NEWS_LINES,
    NEWS_OUTPUT,
    PROBE_OUT,
    PROBE_UNMEASURED,
    Stack,
    View,
)
from cython.cimports.neatstack.dataplane.tcp import congestion, ecn, prr, rack, rtt, tlp
from cython.cimports.neatstack.dataplane.tcp.congestion import LARGEST
from cython.cimports.neatstack.dataplane.tcp.frto import answer
from cython.cimports.neatstack.dataplane.tcp.isn import random32
from cython.cimports.neatstack.dataplane.tcp.output import end_of_text
from cython.cimports.neatstack.dataplane.tcp.recovery import duplicate, repaired
from cython.cimports.neatstack.dataplane.tcp.scoreboard import prune, take_blocks
from cython.cimports.neatstack.dataplane.tcp.send_buffer import expand
from cython.cimports.neatstack.dataplane.tcp.seq import after, before, least
from cython.cimports.neatstack.dataplane.tcp.state import mark
from cython.cimports.neatstack.dataplane.tcp.tally import segments, take_sample, timeout_repaired, wait_for
from cython.cimports.neatstack.dataplane.tcp.tcb import (
    CHRONO_IDLE,
    ECN_REDUCED,
    TCB_ACK_NOW,
    TCB_FIN_SENT,
    TCB_RECOVERY,
    TCB_RTT_TIMING,
    TCB_SACK,
    TIMER_PERSIST,
    Tcb,
)
from cython.cimports.neatstack.dataplane.tcp.timers import SECOND, clear_timer
from cython.cimports.neatstack.dataplane.tcp.timestamps import echoed, more_than_stamps
from cython.cimports.neatstack.dataplane.wire.headers import ECE, FIN, SYN, Segment

FULL_AGAIN = cython.declare(uint64_t, 600)  # seconds of smaller segments after a black hole (RFC 4821 section 7.7)
CHALLENGE_PAUSE = cython.declare(uint64_t, 500000000)  # ns between two of one connection
CHALLENGES = cython.declare(uint32_t, 1000)  # at most, in a second (RFC 5961 section 7)


# rfc: 9293:MAY-12, 5961:5.2a 5.2b
def acknowledge(s: cython.pointer[Stack], i: uint32_t, seg: cython.pointer[cython.const[Segment]]) -> cython.bint:
    """SEG.ACK and SEG.WND of a synchronized connection. False: the segment is to be dropped.

    RFC 5961 section 5.2: an ACK of what was never sent, or older than any window could leave under way, is challenged.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    if after(seg.ack, t.snd.max) or before(seg.ack, t.snd.una - t.snd.max_wnd):
        challenge(s, i)
        return False
    if v.stretches or v.mending or t.flags & TCB_RECOVERY or t.ecn & ECN_REDUCED or more_than_stamps(seg):
        count_delivered(s, i, seg)
    else:
        take(s, i, seg)
    take_window(s, i, seg)
    return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def count_delivered(s: cython.pointer[Stack], i: uint32_t, seg: cython.pointer[cython.const[Segment]]) -> cython.void:
    """An ACK of or during a recovery, or that may begin one: PRR wants to know how much it says has arrived."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    recovering: cython.bint = t.flags & TCB_RECOVERY or t.ecn & ECN_REDUCED
    una: uint32_t = t.snd.una
    reached: uint32_t = una
    more: uint32_t
    if recovering:
        reached = prr.reached(s, i)
    elif v.stretches:
        reached += s.boards[i].sacked
    s.boards[i].found_lost = 0
    take(s, i, seg)
    if (recovering or v.mending) and (t.flags & TCB_RECOVERY or t.ecn & ECN_REDUCED):
        more = prr.reached(s, i) - reached
        if not recovering:
            t.cc.flight += more
        safe: cython.bint = t.snd.una != una and not s.boards[i].found_lost
        if 0 < cython.cast(int32_t, more):
            prr.delivered(s, i, more, safe)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def take(s: cython.pointer[Stack], i: uint32_t, seg: cython.pointer[cython.const[Segment]]) -> cython.void:
    """SEG.ACK, and what the options say of it."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    if cython.unlikely(seg.flags & ECE):
        ecn.echoed(s, i)
        if after(seg.ack, t.snd.una):
            t.tally.marked += segments(seg.ack - t.snd.una, t.snd.mss)
    if after(seg.ack, t.snd.una):
        advance(s, i, seg)
        selected(s, i, seg, True)
    elif seg.ack == t.snd.una:
        if not selected(s, i, seg, False) and is_duplicate(t, seg):
            duplicate(s, i)
    else:
        s.counters.drops[cython.cast(cython.int, DROP_OLD_ACK)] += 1  # only its ACK; text and blocks are taken
        if take_selected(s, i, seg):
            s.boards[i].dsack = 0


# rfc: 6675:2-DUPACK, 5681:3.2-LIMITED-SACK 2-DUPLICATE
@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def selected(
    s: cython.pointer[Stack], i: uint32_t, seg: cython.pointer[cython.const[Segment]], advanced: cython.bint
) -> cython.bint:
    """What the ACK says selectively, or by its time: what is lost? True: it says nothing by being a duplicate.

    From who permits SACK only news on the board count (RFC 6675 section 2, RFC 5681 section 3.2): a copy of an ACK, or
    a forged one, neither lets new text go nor means a loss.
    """
    v: cython.pointer[View] = cython.address(s.views[i])
    blocks: cython.bint = take_selected(s, i, seg)
    if v.frto:
        answer(s, i, seg, advanced)
    if v.probe & PROBE_OUT:
        tlp.acknowledged(s, i, seg, advanced)
    if blocks:
        s.boards[i].dsack = 0
    return s.tcbs[i].flags & TCB_SACK != 0


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def take_selected(s: cython.pointer[Stack], i: uint32_t, seg: cython.pointer[cython.const[Segment]]) -> cython.bint:
    """The blocks, if there are any (the answer), and what is lost by them; also of an overtaken ACK."""
    v: cython.pointer[View] = cython.address(s.views[i])
    blocks: cython.bint = s.tcbs[i].flags & TCB_SACK and more_than_stamps(seg)
    if blocks and take_blocks(s, i, seg):
        mark(s, i, NEWS_OUTPUT)
    if (v.stretches and (v.sacked or v.mending)) or (blocks and v.racked and s.boards[i].dsack):
        rack.detect(s, i)
    return blocks


# rfc: 5681:2-DUPLICATE
@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def is_duplicate(t: cython.pointer[Tcb], seg: cython.pointer[cython.const[Segment]]) -> cython.bint:
    """RFC 5681 section 2: something is outstanding, no text, no SYN or FIN, and the window is the same."""
    return (
        t.snd.una != t.snd.max and seg.len == 0 and not seg.flags & (SYN | FIN) and seg.wnd << t.snd.wscale == t.snd.wnd
    )


# rfc: 4821:7.7c, 6675:5-RESET
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def advance(s: cython.pointer[Stack], i: uint32_t, seg: cython.pointer[cython.const[Segment]]) -> cython.void:
    """SND.UNA < SEG.ACK =< SND.MAX: bytes are acknowledged for the first time."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    ack: uint32_t = seg.ack
    old_una: uint32_t = t.snd.una
    acked: uint32_t = ack - old_una
    flight: uint32_t = t.snd.max - t.snd.una
    known: uint32_t = 0  # to have arrived, of what is acknowledged
    round_trip(s, i, ack)
    t.snd.una = ack
    if v.stretches:
        known = s.boards[i].sacked
        prune(s, i, seg, old_una)
        known -= s.boards[i].sacked
    elif cython.unlikely(t.cc.dupacks != 0):
        known = least(t.cc.dupacks * t.snd.mss, acked - least(acked, t.snd.mss))
    if before(t.snd.nxt, ack):  # sent before a timeout stepped back, and arrived after all
        t.snd.nxt = ack
    t.snd.backoff = 0
    t.stalled_at = 0
    v.soft_error = 0
    if v.full_mss and s.now - v.smaller_at > FULL_AGAIN * SECOND:
        t.snd.mss = v.full_mss  # perhaps the path has changed; if not, it is found out again
        v.full_mss = 0
    if t.flags & TCB_RECOVERY:
        repaired(s, i, acked)
    else:
        t.cc.dupacks = 0
        if not before(ack, t.cc.recover):
            if v.mending:
                v.mending = 0
                rack.recovered(s, i)
            if cython.unlikely(t.tally.timeout_at != 0):
                timeout_repaired(t, s.now)
            t.cc.recover = ack  # keeps pace: else it would lie ahead again once 2 GiB have been sent without a loss
        if cython.unlikely(t.ecn & ECN_REDUCED):
            if not before(ack, t.cwr_end):
                ecn.window_passed(t)
        else:
            cwnd: uint32_t = t.cc.cwnd
            flight = most_under_way(v, t, flight, old_una)
            congestion.grow(t, s.now, acked - known, flight, echoed(s, t, seg) if t.cc.ssthresh == LARGEST else 0)
            if cython.unlikely(t.cc.cwnd != cwnd):
                expand(v, t)
    if t.snd.una == t.snd.max:
        take_sample(t, s.now, end_of_text(v, t))
        wait_for(t, s.now, CHRONO_IDLE)
        tlp.stop(s, i)
    else:
        if s.now - t.tally.sample_at >= cython.cast(uint64_t, t.rtt.srtt) * 1000:
            take_sample(t, s.now, end_of_text(v, t))
        tlp.restart(s, i)
    mark(s, i, NEWS_LINES | NEWS_OUTPUT)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def most_under_way(
    v: cython.pointer[View], t: cython.pointer[cython.const[Tcb]], flight: uint32_t, una: uint32_t
) -> uint32_t:
    """Most that was on its way with what begins at `una`, if that used the congestion window; now it is `flight`.

    Where the user sends no more, the last ACKs of a flight find little on its way, and yet it has shown that the path
    carries as much.
    """
    if flight > t.cc.cwnd // 2:
        if flight > v.used or not before(una, v.used_end):
            v.used = flight
            v.used_end = t.snd.max
        return v.used
    if cython.unlikely(v.used != 0):
        if before(una, v.used_end):
            return v.used
        v.used = 0
    return flight


# rfc: 9293:MUST-18, 6298:3-KARN 3-SAMPLE, 7323:3.2h
def round_trip(s: cython.pointer[Stack], i: uint32_t, ack: uint32_t) -> cython.void:
    """Take the round trip if `ack` covers the segment that is being timed (RFC 6298 section 3).

    Timestamps would also time what was sent again, but in milliseconds, and wrongly where ACKs were lost: what comes
    twice is not echoed anew (RFC 7323 section 5.3), so that the wait for a timeout would pass for the path's own.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    took: uint32_t
    if t.flags & TCB_RTT_TIMING and after(ack, t.rtt.seq):
        rtt.stop_timing(t)
        took = cython.cast(uint32_t, (s.now - t.rtt.sent_at) // 1000)
        rtt.measured(t, took)
        rack.least_round_trip(v, took, cython.cast(uint32_t, s.now // SECOND))
        v.probe &= ~cython.cast(uint8_t, PROBE_UNMEASURED)


# rfc: 9293:REC-1, 7323:2.3a
def take_window(s: cython.pointer[Stack], i: uint32_t, seg: cython.pointer[cython.const[Segment]]) -> cython.void:
    """SND.WND from a segment that is not older than the last one that set it: SND.WL1, SND.WL2.

    Text sent again has an old sequence number and may still bring news: whoever acknowledges more has sent it later.
    Otherwise the window of the older segment would count from the newer acknowledgment, and reach too far.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    window: uint32_t
    if before(seg.seq, t.snd.wl1):
        if not after(seg.ack, t.snd.wl2):
            return
    elif seg.seq == t.snd.wl1 and before(seg.ack, t.snd.wl2):
        return
    window = seg.wnd if seg.flags & SYN else seg.wnd << t.snd.wscale
    t.snd.wl1 = seg.seq
    t.snd.wl2 = seg.ack
    if window == t.snd.wnd:
        return
    if not t.snd.wnd:  # it opens: what the persist timer waited for
        t.snd.backoff = 0
        t.stalled_at = 0
        clear_timer(s, i, TIMER_PERSIST)
    t.snd.wnd = window
    if window > t.snd.max_wnd:
        t.snd.max_wnd = window
    mark(s, i, NEWS_LINES | NEWS_OUTPUT)


def fin_acknowledged(s: cython.pointer[Stack], i: uint32_t) -> cython.bint:
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    return t.flags & TCB_FIN_SENT and t.snd.una == t.snd.fin + 1


# rfc: 5961:7
def challenge(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Answer a segment that may be forged with <SEQ=SND.NXT><ACK=RCV.NXT><CTL=ACK>: a true peer will say what it means.

    At most CHALLENGES in a second for the whole stack (RFC 5961 section 7), and a random number fewer, so that the
    limit cannot be used to count how many others have caused (Cao et al., "Off-Path TCP Exploits", 2016). One
    connection has two in a second, as on Linux: it cannot use up what is for all, and two confused peers that answer
    each other do so at that pace.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    second: uint32_t = cython.cast(uint32_t, s.now // SECOND)
    s.counters.drops[cython.cast(cython.int, DROP_BLIND_ATTACK)] += 1
    if v.challenged_at and s.now - v.challenged_at < CHALLENGE_PAUSE:
        return
    if second != s.challenge_second:
        s.challenge_second = second
        s.challenges = random32(s) & 511
    if s.challenges >= CHALLENGES:
        return
    s.challenges += 1
    v.challenged_at = s.now
    t.flags |= TCB_ACK_NOW
    mark(s, i, NEWS_OUTPUT)
