"""What the peer has acknowledged selectively, and what that says about the rest (RFC 6675).

Private to the incarnation: a successor begins with an empty board, as after a timeout (RFC 2018 section 8 lets a
receiver take its word back, so nothing is forgotten that has not been acknowledged).
"""

import cython
from cython.cimports.libc.stdint import uint32_t
from cython.cimports.neatstack.dataplane.stack import BOARD, Board, Stack, View
from cython.cimports.neatstack.dataplane.tcp.options import parse
from cython.cimports.neatstack.dataplane.tcp.seq import after, before, earlier, later
from cython.cimports.neatstack.dataplane.tcp.tcb import Range, Tcb
from cython.cimports.neatstack.dataplane.wire.bytes import get32
from cython.cimports.neatstack.dataplane.wire.headers import Options, Segment

THRESHOLD = cython.declare(uint32_t, 3)  # DupThresh


def take_blocks(s: cython.pointer[Stack], i: uint32_t, seg: cython.pointer[cython.const[Segment]]) -> cython.bint:
    """Update() of section 4: put the segment's blocks on the board. True: they say something new.

    A block that is not within what is on its way says nothing: a duplicate (RFC 2883), an old one, or a lie.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    options: Options
    block: Range
    new: cython.bint = False
    k: uint32_t
    parse(seg.options, seg.options_length, cython.address(options))
    for k in range(options.sack_blocks):
        block.left = get32(seg.options + options.sack_at + 8 * k)
        block.right = get32(seg.options + options.sack_at + 8 * k + 4)
        if (
            before(block.left, block.right)
            and after(block.left, t.snd.una)
            and not before(block.left, seg.ack)
            and not after(block.right, t.snd.max)
        ):
            new |= put(cython.address(s.views[i]), cython.address(s.boards[i]), cython.address(block))
    return new


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def put(v: cython.pointer[View], b: cython.pointer[Board], block: cython.pointer[cython.const[Range]]) -> cython.bint:
    """Add a block, joining those that it touches. False: it was there, or there is no place for another."""
    first: uint32_t = 0
    last: uint32_t
    k: uint32_t
    while first < v.sacked and before(b.range[first].right, block.left):
        first += 1
    last = first
    while last < v.sacked and not after(b.range[last].left, block.right):
        last += 1  # ranges [first, last) touch the new one
    if first == last:
        if v.sacked == BOARD:
            return False
        for k in range(v.sacked, first, -1):
            b.range[k] = b.range[k - 1]
        v.sacked += 1
        b.range[first].left = block.left
        b.range[first].right = block.right
        return True
    if not before(block.left, b.range[first].left) and not after(block.right, b.range[first].right):
        return False
    b.range[first].left = earlier(block.left, b.range[first].left)
    b.range[first].right = later(block.right, b.range[last - 1].right)
    take_out(v, b, first + 1, last)
    return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def take_out(v: cython.pointer[View], b: cython.pointer[Board], first: uint32_t, last: uint32_t) -> cython.void:
    """Take ranges [first, last) off the board."""
    k: uint32_t
    for k in range(last, v.sacked):
        b.range[first + k - last] = b.range[k]
    v.sacked -= last - first


def prune(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """snd.una has moved: what it has reached is off the board."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    b: cython.pointer[Board] = cython.address(s.boards[i])
    reached: uint32_t = 0
    while reached < v.sacked and not after(b.range[reached].left, t.snd.una):
        reached += 1
    take_out(v, b, 0, reached)
    b.again = later(b.again, t.snd.una)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def lost(t: cython.pointer[cython.const[Tcb]], ranges: uint32_t, sacked: uint32_t) -> cython.bint:
    """IsLost(): so many ranges and bytes beyond it have arrived."""
    return ranges >= THRESHOLD or sacked > (THRESHOLD - 1) * t.snd.mss


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def bytes_sacked(v: cython.pointer[cython.const[View]], b: cython.pointer[cython.const[Board]]) -> uint32_t:
    total: uint32_t = 0
    k: uint32_t
    for k in range(v.sacked):
        total += b.range[k].right - b.range[k].left
    return total


def first_is_lost(s: cython.pointer[Stack], i: uint32_t) -> cython.bint:
    """Whether the segment at snd.una is lost (section 5, step 2)."""
    v: cython.pointer[View] = cython.address(s.views[i])
    return lost(cython.address(s.tcbs[i]), v.sacked, bytes_sacked(v, cython.address(s.boards[i])))


def pipe(s: cython.pointer[Stack], i: uint32_t) -> uint32_t:
    """SetPipe(): bytes that are still on their way, as far as one can know."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    b: cython.pointer[Board] = cython.address(s.boards[i])
    left: uint32_t = t.snd.una
    beyond: uint32_t = bytes_sacked(v, b)  # bytes that have arrived beyond the hole in hand
    flight: uint32_t = t.snd.nxt - t.snd.una
    away: uint32_t = beyond
    k: uint32_t
    for k in range(v.sacked):
        if v.mending and lost(t, v.sacked - k, beyond):
            away += b.range[k].left - left
            if after(b.again, left):  # but for what was sent again
                away -= earlier(b.again, b.range[k].left) - left
        beyond -= b.range[k].right - b.range[k].left
        left = b.range[k].right
    return flight - away if flight > away else 0


def next_hole(s: cython.pointer[Stack], i: uint32_t, surely: cython.bint, hole: cython.pointer[Range]) -> cython.bint:
    """NextSeg(), rule 1 (`surely`) or 3: what is (or may be) lost, and was not sent again. False: no such thing."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    b: cython.pointer[Board] = cython.address(s.boards[i])
    beyond: uint32_t = bytes_sacked(v, b)
    left: uint32_t = later(t.snd.una, b.again)
    k: uint32_t
    for k in range(v.sacked):
        if surely and not lost(t, v.sacked - k, beyond):
            return False
        if before(left, b.range[k].left):
            hole.left = left
            hole.right = b.range[k].left
            return True
        beyond -= b.range[k].right - b.range[k].left
        left = later(left, b.range[k].right)
    return False
