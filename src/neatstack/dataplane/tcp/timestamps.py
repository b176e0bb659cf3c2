"""Timestamps that come in: found among a segment's options, and compared (PAWS, RFC 7323 section 5)."""

import cython
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.neatstack.dataplane.stack import Stack
from cython.cimports.neatstack.dataplane.tcp.options import parse
from cython.cimports.neatstack.dataplane.tcp.seq import before
from cython.cimports.neatstack.dataplane.tcp.tcb import TCB_TIMESTAMPS, Tcb
from cython.cimports.neatstack.dataplane.tcp.timestamps import STAMPS, STAMPS_FRONT, stamp
from cython.cimports.neatstack.dataplane.wire.bytes import get32
from cython.cimports.neatstack.dataplane.wire.headers import Options, Segment

DAY = cython.declare(uint64_t, 24 * 3600 * 1000000000)  # ns
LONGEST_ECHO = cython.declare(uint32_t, 60000)  # ms
GOOD_FOR = cython.declare(uint64_t, 24)  # days, after which half the numbers may have gone by (section 5.5)


def find_stamps(seg: cython.pointer[Segment]) -> cython.void:
    """Read the timestamps, if there are any: alone and aligned, as everybody sends them, or wherever they are."""
    options: Options
    if seg.options_length >= STAMPS and get32(seg.options) == STAMPS_FRONT:
        seg.stamped = 1
        seg.tsval = get32(seg.options + 4)
        seg.tsecr = get32(seg.options + 8)
        return
    parse(seg.options, seg.options_length, cython.address(options))
    seg.stamped = options.has_timestamp
    seg.tsval = options.tsval
    seg.tsecr = options.tsecr


def echoed(
    s: cython.pointer[cython.const[Stack]],
    t: cython.pointer[cython.const[Tcb]],
    seg: cython.pointer[cython.const[Segment]],
) -> uint32_t:
    """The round trip that the segment's echo says, ms, one at least; 0: it says none that can be."""
    ago: uint32_t = stamp(s, t) - seg.tsecr
    if not t.flags & TCB_TIMESTAMPS or not seg.stamped or ago > LONGEST_ECHO:
        return 0
    return ago if ago else 1


# rfc: 7323:5.2a 5.3a 5.5
def outdated(
    s: cython.pointer[Stack], t: cython.pointer[cython.const[Tcb]], seg: cython.pointer[cython.const[Segment]]
) -> cython.bint:
    """R1 of section 5.3: the segment is older than one that was taken, however its sequence number lies."""
    return before(seg.tsval, t.stamps.recent) and s.now - t.stamps.recent_at < GOOD_FOR * DAY
