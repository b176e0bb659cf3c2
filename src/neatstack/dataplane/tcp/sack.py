"""Selective acknowledgments that we send: what has arrived beyond a gap (RFC 2018), and what came twice (RFC 2883).

A segment whose text leaves no room for them goes without: the next bare ACK has them.
"""

import cython
from cython.cimports.libc.stdint import uint8_t, uint32_t
from cython.cimports.neatstack.dataplane.tcp.seq import after, before, earlier, later
from cython.cimports.neatstack.dataplane.tcp.tcb import RECENT, TCB_SACK, Range, Tcb
from cython.cimports.neatstack.dataplane.wire.bytes import put32

NOP = cython.declare(uint8_t, 1)
SACK = cython.declare(uint8_t, 5)
BLOCK = cython.declare(uint32_t, 8)  # bytes of one block
FRONT = cython.declare(uint32_t, 4)  # two NOPs, kind and length, so that blocks lie on words
MOST_BLOCKS = cython.declare(uint32_t, 4)  # that fit into 40 bytes of options


# rfc: 2883:4.2-FIRST
def arrived(t: cython.pointer[Tcb], left: uint32_t, right: uint32_t) -> cython.void:
    """Text [left, right) has come beyond a gap, and is about to be remembered (RFC 2018 section 4).

    What of it was there already is told as a duplicate (RFC 2883 section 4.1 and 4.2).
    """
    k: uint32_t
    for k in range(t.rcv.ranges):
        if before(left, t.late.range[k].right) and before(t.late.range[k].left, right):
            came_again(t, later(left, t.late.range[k].left), earlier(right, t.late.range[k].right))
            break
    if t.late.recent[0] != left:
        for k in range(RECENT - 1, 0, -1):
            t.late.recent[k] = t.late.recent[k - 1]
        t.late.recent[0] = left


# rfc: 2883:4-DUPLICATE 4-EDGES
def came_again(t: cython.pointer[Tcb], left: uint32_t, right: uint32_t) -> cython.void:
    """Text [left, right) has come a second time; the next ACK says so, once."""
    if t.flags & TCB_SACK:
        t.rcv.duplicate.left = left
        t.rcv.duplicate.right = right


# rfc: 2018:4-MUST-1 4-MANY 4-REPEAT 8-HELD, 2883:4-ONCE 4-HOLDER 4-OTHERS
def write_blocks(t: cython.pointer[Tcb], to: cython.pointer[uint8_t], room: uint32_t) -> uint32_t:
    """The SACK option (RFC 2018 section 3), the duplicate first, then what came last first, then the others."""
    count: uint32_t = 0
    most: uint32_t = (room - FRONT) // BLOCK if room > FRONT else 0
    written: uint32_t = 0  # bit k: range[k] is there already
    k: uint32_t
    n: uint32_t
    if most > MOST_BLOCKS:
        most = MOST_BLOCKS
    if not most:
        return 0
    if t.rcv.duplicate.left != t.rcv.duplicate.right:
        count = put_block(to, count, cython.address(t.rcv.duplicate))
        t.rcv.duplicate.left = t.rcv.duplicate.right = 0
    for n in range(RECENT + t.rcv.ranges):
        if count == most:
            break
        k = holder(t, t.late.recent[n]) if n < RECENT else n - RECENT
        if k < t.rcv.ranges and not written >> k & 1:
            written |= cython.cast(uint32_t, 1) << k
            count = put_block(to, count, cython.address(t.late.range[k]))
    to[0] = to[1] = NOP
    to[2] = SACK
    to[3] = cython.cast(uint8_t, 2 + BLOCK * count)
    return FRONT + BLOCK * count


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def holder(t: cython.pointer[cython.const[Tcb]], seq: uint32_t) -> uint32_t:
    """Which range holds `seq`; their number: none."""
    k: uint32_t
    for k in range(t.rcv.ranges):
        if not before(seq, t.late.range[k].left) and not after(seq, t.late.range[k].right - 1):
            return k
    return t.rcv.ranges


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def put_block(to: cython.pointer[uint8_t], count: uint32_t, block: cython.pointer[cython.const[Range]]) -> uint32_t:
    """Write a block behind `count` others; how many there are then."""
    put32(to + FRONT + BLOCK * count, block.left)
    put32(to + FRONT + BLOCK * count + 4, block.right)
    return count + 1
