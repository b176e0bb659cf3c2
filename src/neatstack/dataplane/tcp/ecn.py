"""Explicit congestion notification (RFC 3168): a router marks what it would else have to drop.

The receiver of a marked segment echoes that (ECE) until the sender says that it has reduced its window (CWR), which it
does once for a window of text, as for a loss, and without anything to repair. The way down is proportional (prr.py).
"""

import cython
from cython.cimports.libc.stdint import uint8_t, uint32_t
from cython.cimports.neatstack.dataplane.stack import NEWS_OUTPUT, Stack
from cython.cimports.neatstack.dataplane.tcp import congestion, prr
from cython.cimports.neatstack.dataplane.tcp.seq import least
from cython.cimports.neatstack.dataplane.tcp.state import mark
from cython.cimports.neatstack.dataplane.tcp.tcb import (
    ECN_ASKED,
    ECN_DEMAND,
    ECN_OK,
    ECN_REDUCED,
    TCB_ACK_NOW,
    TCB_RECOVERY,
    Tcb,
)
from cython.cimports.neatstack.dataplane.wire.headers import ACK, CE, CWR, ECE, SYN, Segment


# rfc: 3168:6.1.1-3 6.1.1-4 6.1.1-8
def offered(s: cython.pointer[Stack], seg: cython.pointer[cython.const[Segment]]) -> cython.bint:
    """Whether a SYN asks for it, and we grant it (section 6.1.1).

    One that is itself marked as capable, which it must not be, has come through something that changes these bits.
    """
    return s.page.ecn != 0 and seg.flags & (SYN | ECE | CWR) == SYN | ECE | CWR and not seg.marks


# rfc: 3168:6.1.1-1 6.1.1-8
def answered(t: cython.pointer[Tcb], seg: cython.pointer[cython.const[Segment]]) -> cython.void:
    """The answer to our SYN: a SYN-ACK agrees with ECE alone (both bits are only sent back), another SYN with both."""
    wanted: uint8_t = ECE if seg.flags & ACK else ECE | CWR
    t.ecn = ECN_OK if t.ecn & ECN_ASKED and seg.flags & (ECE | CWR) == wanted else 0


# rfc: 3168:6.1.3-1 6.1.3-2 6.1.5-2 6.1.1-6 6.1.3-3
def text_came(s: cython.pointer[Stack], i: uint32_t, seg: cython.pointer[cython.const[Segment]]) -> cython.void:
    """Text within the window: has the peer reduced, is the segment marked (section 6.1.3)?"""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    if not t.ecn & ECN_OK:
        return
    if seg.flags & CWR:
        t.ecn &= ~cython.cast(uint8_t, ECN_DEMAND)
    if seg.flags & CE:
        if not t.ecn & ECN_DEMAND:  # the sender shall hear of it soon
            t.flags |= TCB_ACK_NOW
            mark(s, i, NEWS_OUTPUT)
        t.ecn |= ECN_DEMAND


# rfc: 3168:6.1.2-1 6.1.2-2 5-response
def echoed(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """An ACK has ECE: reduce, unless that was done within this window, or for a loss."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    if not t.ecn & ECN_OK or t.ecn & ECN_REDUCED or t.flags & TCB_RECOVERY or s.views[i].mending:
        return
    if t.snd.una == t.snd.max:  # nothing is on its way that could have been marked
        return
    congestion.reduce(t, least(t.snd.max - t.snd.una, t.cc.cwnd))
    prr.begin(s, i, 0)
    t.ecn |= ECN_REDUCED
    t.cwr_end = t.snd.max


def window_passed(t: cython.pointer[Tcb]) -> cython.void:
    """What was on its way when the window was reduced is acknowledged."""
    t.ecn &= ~cython.cast(uint8_t, ECN_REDUCED)
    t.cc.cwnd = t.cc.ssthresh
