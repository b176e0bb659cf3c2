"""Lay out, check and map a state region.

Header, counters, listeners, TCBs, saved SYNs, hold buffers and received frames, each on pages of its own. A new
region is zero bytes, of which nothing but the header is touched: all else costs memory when it is first used.
"""

import cython
from cython.cimports.libc.errno import EINVAL, ENOSPC
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t
from cython.cimports.libc.string import memset
from cython.cimports.neatstack.dataplane.channel.layout import Syn
from cython.cimports.neatstack.dataplane.channel.region import REGION_MAGIC, REGION_VERSION
from cython.cimports.neatstack.dataplane.driver.device import FRAME_BYTES, FRAME_ROOM
from cython.cimports.neatstack.dataplane.stack import (
    HOLD_BUFFERS,
    HOLD_SIZE,
    MAX_LISTENERS,
    Counters,
    Listener,
    RegionHeader,
    Stack,
)
from cython.cimports.neatstack.dataplane.tcp.tcb import Tcb

LARGEST_MAX_TCBS = 1 << 22


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
@cython.inline
def pages(size: uint64_t) -> uint64_t:
    return (size + 4095) & ~cython.cast(uint64_t, 4095)


def layout(header: cython.pointer[RegionHeader], max_tcbs: uint32_t) -> uint64_t:
    """Offsets and size of a region of this version for `max_tcbs` connections."""
    at: uint64_t = pages(cython.sizeof(RegionHeader))
    header.max_tcbs = max_tcbs
    header.counters_at = at
    at += pages(cython.sizeof(Counters))
    header.listeners_at = at
    at += pages(MAX_LISTENERS * cython.sizeof(Listener))
    header.tcbs_at = at
    at += pages(cython.cast(uint64_t, max_tcbs) * cython.sizeof(Tcb))
    header.syns_at = at
    at += pages(cython.cast(uint64_t, max_tcbs) * cython.sizeof(Syn))
    header.holds_at = at
    at += cython.cast(uint64_t, HOLD_BUFFERS) * HOLD_SIZE
    header.frames_at = at
    at += pages(FRAME_BYTES + FRAME_ROOM)
    header.size = at
    return at


def valid(header: cython.pointer[cython.const[RegionHeader]], size: uint64_t) -> cython.bint:
    """Whether this is a whole region that this version can map: what it says of itself is what layout() says."""
    expected: RegionHeader
    if header.magic != REGION_MAGIC or header.version != REGION_VERSION:
        return False
    if header.max_tcbs < 2:
        return False
    layout(cython.address(expected), header.max_tcbs)
    return (
        header.size == expected.size
        and header.size <= size
        and header.counters_at == expected.counters_at
        and header.listeners_at == expected.listeners_at
        and header.tcbs_at == expected.tcbs_at
        and header.syns_at == expected.syns_at
        and header.holds_at == expected.holds_at
        and header.frames_at == expected.frames_at
    )


def map_region(
    s: cython.pointer[Stack], memory: cython.p_void, size: uint64_t, max_tcbs: uint32_t, keep: cython.bint
) -> cython.int:
    """Point the stack into the region, which is laid out if it is new (all zero).

    A region in use keeps its counters and the key of initial sequence numbers, so that those go on where the last
    incarnation left off, and with `keep` its connections. Listeners are forgotten: the manager tells them again.
    0; -EINVAL: not a region for `max_tcbs` connections of this version; -ENOSPC: `size` bytes do not hold it.
    """
    base: cython.pointer[uint8_t] = cython.cast(cython.pointer[uint8_t], memory)
    header: cython.pointer[RegionHeader] = cython.cast(cython.pointer[RegionHeader], memory)
    expected: RegionHeader
    if layout(cython.address(expected), max_tcbs) > size:
        return -ENOSPC
    s.region = header
    if header.magic == 0:
        layout(header, max_tcbs)
        header.version = REGION_VERSION
        header.tcbs_used = header.tcbs_used_again = 1  # index 0 means none
        header.magic = REGION_MAGIC  # last: a region that was not finished is laid out again
    elif not valid(header, size) or header.max_tcbs != max_tcbs:
        return -EINVAL
    s.max_tcbs = max_tcbs
    s.counters = cython.cast(cython.pointer[Counters], base + header.counters_at)
    s.listeners = cython.cast(cython.pointer[Listener], base + header.listeners_at)
    s.tcbs = cython.cast(cython.pointer[Tcb], base + header.tcbs_at)
    s.syns = cython.cast(cython.pointer[Syn], base + header.syns_at)
    s.holds = base + header.holds_at
    s.frames = base + header.frames_at
    s.tcbs_used = header.tcbs_used = header.tcbs_used_again = used(header)
    if header.incarnation:
        memset(s.listeners, 0, MAX_LISTENERS * cython.sizeof(Listener))
    if not keep:
        empty(s)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def used(header: cython.pointer[RegionHeader]) -> uint32_t:
    """How many TCBs may have been used. Two copies that differ by more than an unfinished step are not believed."""
    a: uint32_t = header.tcbs_used
    b: uint32_t = header.tcbs_used_again
    if 0 < a <= header.max_tcbs and (a == b or a == b + 1):
        return a
    return header.max_tcbs


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def empty(s: cython.pointer[Stack]) -> cython.void:
    """Forget all connections."""
    header: cython.pointer[RegionHeader] = s.region
    header.undo_valid = 0
    header.retired_count = 0
    header.inbox.count = header.inbox.done = header.inbox.next = 0
    if s.tcbs_used > 1:
        memset(s.tcbs, 0, cython.cast(uint64_t, s.tcbs_used) * cython.sizeof(Tcb))
    s.tcbs_used = 1
    header.tcbs_used = header.tcbs_used_again = 1
    s.counters.connections = 0


def region_size(max_tcbs: int) -> int:
    """Bytes of the region of a replica that can have `max_tcbs` - 1 connections at one time."""
    if not 2 <= max_tcbs <= LARGEST_MAX_TCBS:
        raise ValueError(f"max_tcbs must be from 2 to {LARGEST_MAX_TCBS}, not {max_tcbs}")
    header: RegionHeader
    return layout(cython.address(header), max_tcbs)
