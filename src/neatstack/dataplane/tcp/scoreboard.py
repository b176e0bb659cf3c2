"""What is on its way: when it was sent, what the peer has acknowledged selectively, and what is lost.

A ring of stretches covers it from snd.una on (see Board). They are made as late as possible: what was sent last is the
Tcb's last_sent up to snd.max, and becomes a stretch only when more follows at another time, or when something happens
to it. A connection that asks and is answered so never touches its board.

Private to the incarnation: a successor begins with an empty board, all sent at last_sent (RFC 2018 section 8 lets a
receiver take its word back, so nothing is forgotten that has not been acknowledged).
"""

import cython
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memset
from cython.cimports.neatstack.dataplane.stack import (
    STRETCH_AGAIN,
    STRETCH_LOST,
    STRETCH_SACKED,
    STRETCHES,
    Board,
    Stack,
    Stretch,
    View,
)
from cython.cimports.neatstack.dataplane.tcp.options import parse
from cython.cimports.neatstack.dataplane.tcp.rack import delivered
from cython.cimports.neatstack.dataplane.tcp.scoreboard import stretch
from cython.cimports.neatstack.dataplane.tcp.seq import after, before
from cython.cimports.neatstack.dataplane.tcp.tally import segments
from cython.cimports.neatstack.dataplane.tcp.tcb import Range, Tcb
from cython.cimports.neatstack.dataplane.wire.bytes import get32
from cython.cimports.neatstack.dataplane.wire.headers import Options, Segment

KEPT = cython.declare(uint32_t, 8)  # stretches that selective acknowledgments leave for what is sent
GRAIN = cython.declare(uint64_t, 32)  # what was sent within such a part of a round trip may be one stretch


# ---- stretches ----


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def begin(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """The board is empty, and something is about to be put on it."""
    b: cython.pointer[Board] = cython.address(s.boards[i])
    if not s.views[i].racked:
        s.views[i].racked = 1
        memset(b, 0, cython.sizeof(Board) - cython.sizeof(b.stretch))
    b.fack = s.tcbs[i].snd.una
    b.sacked = b.lost = 0


# rfc: 8985:4-SACK 4-TIME
def close_stretch(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """What was sent last is put on the board: what follows has another time, or something happens to it."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    b: cython.pointer[Board] = cython.address(s.boards[i])
    last: cython.pointer[Stretch]
    if t.snd.una == t.snd.max:
        return
    if not v.stretches:
        begin(s, i)
    else:
        last = stretch(b, v.stretches - 1)
        if last.end == t.snd.max:
            return
        # Two times that differ by less than this in their lower bits lie in one of some 16 to 32 parts of a round
        # trip; so stretches do not grow without end, and a flight has a few dozen.
        if not last.flags and last.sent_at ^ t.last_sent < cython.cast(uint64_t, t.rtt.srtt) * 1000 // GRAIN:
            last.end = t.snd.max
            last.sent_at = t.last_sent
            return
        if v.stretches == STRETCHES:
            make_room(s, i)
    last = stretch(b, v.stretches)
    last.end = t.snd.max
    last.sent_at = t.last_sent
    last.flags = 0
    v.stretches += 1


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def start(s: cython.pointer[Stack], i: uint32_t, k: uint32_t) -> uint32_t:
    """Where stretch k begins."""
    return stretch(cython.address(s.boards[i]), k - 1).end if k else s.tcbs[i].snd.una


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def count(b: cython.pointer[Board], flags: uint32_t, length: uint32_t) -> cython.void:
    """So many bytes have these flags from now on; a negative length: no longer."""
    if flags & STRETCH_SACKED:
        b.sacked += length
    if flags & STRETCH_LOST:
        b.lost += length


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def become(s: cython.pointer[Stack], i: uint32_t, k: uint32_t, flags: uint32_t) -> cython.void:
    """Give stretch k other flags."""
    b: cython.pointer[Board] = cython.address(s.boards[i])
    x: cython.pointer[Stretch] = stretch(b, k)
    length: uint32_t = x.end - start(s, i, k)
    count(b, x.flags, 0 - length)
    count(b, flags, length)
    x.flags = flags


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def join(v: cython.pointer[View], b: cython.pointer[Board], k: uint32_t) -> cython.void:
    """Make one of stretches k and k + 1, which have the same flags; it counts as sent when the later one was."""
    n: uint32_t
    if stretch(b, k).sent_at > stretch(b, k + 1).sent_at:
        stretch(b, k + 1).sent_at = stretch(b, k).sent_at
    for n in range(k, cython.cast(uint32_t, v.stretches) - 1):
        stretch(b, n)[0] = stretch(b, n + 1)[0]
    v.stretches -= 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def join_equal(s: cython.pointer[Stack], i: uint32_t, first: uint32_t, last: uint32_t) -> cython.void:
    """Join what lies between stretches `first` and `last` and has the same story."""
    v: cython.pointer[View] = cython.address(s.views[i])
    b: cython.pointer[Board] = cython.address(s.boards[i])
    k: uint32_t = first
    while k < last and k + 1 < v.stretches:
        x: cython.pointer[Stretch] = stretch(b, k)
        y: cython.pointer[Stretch] = stretch(b, k + 1)
        if x.flags == y.flags and (x.flags & STRETCH_SACKED or x.sent_at == y.sent_at):
            join(v, b, k)
            last -= 1
        else:
            k += 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def make_room(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """The ring is full: one stretch less, even at the price of knowing less. What is thought older than it is waits."""
    v: cython.pointer[View] = cython.address(s.views[i])
    b: cython.pointer[Board] = cython.address(s.boards[i])
    k: uint32_t = 0
    while k + 2 < v.stretches and stretch(b, k).flags != stretch(b, k + 1).flags:
        k += 1
    if stretch(b, k).flags != stretch(b, k + 1).flags:  # as if it had not been acknowledged selectively, or lost, yet
        become(s, i, k, STRETCH_AGAIN)
        become(s, i, k + 1, STRETCH_AGAIN)
    join(v, b, k)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def split(s: cython.pointer[Stack], i: uint32_t, k: uint32_t, at: uint32_t) -> cython.void:
    """Make two of stretch k, the second of which begins with `at`. There is room."""
    v: cython.pointer[View] = cython.address(s.views[i])
    b: cython.pointer[Board] = cython.address(s.boards[i])
    n: uint32_t
    for n in range(v.stretches, k, -1):
        stretch(b, n)[0] = stretch(b, n - 1)[0]
    stretch(b, k).end = at
    v.stretches += 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def holder(s: cython.pointer[Stack], i: uint32_t, seq: uint32_t) -> uint32_t:
    """The stretch that has `seq`; their number: none."""
    k: uint32_t = 0
    while k < s.views[i].stretches and not after(stretch(cython.address(s.boards[i]), k).end, seq):
        k += 1
    return k


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def cut_out(s: cython.pointer[Stack], i: uint32_t, left: uint32_t, right: uint32_t) -> uint32_t:
    """See to it that a stretch begins at `left` and one ends at `right`; the number of the first."""
    first: uint32_t = holder(s, i, left)
    last: uint32_t
    if start(s, i, first) != left:
        split(s, i, first, left)
        first += 1
    last = holder(s, i, right - 1)
    if stretch(cython.address(s.boards[i]), last).end != right:
        split(s, i, last, right)
    return first


# ---- what the peer says ----


# rfc: 2018:5-RECORD, 6675:4-UPDATE 5-EACH 5.1-USE, 2883:5-DSACK
def take_blocks(s: cython.pointer[Stack], i: uint32_t, seg: cython.pointer[cython.const[Segment]]) -> cython.bint:
    """Update() of RFC 6675 section 4: put the segment's blocks on the board. True: they say something new.

    A block that is not within what is on its way says nothing about that: an old one, or a lie. The first one may tell
    what came twice (RFC 2883 section 4): it lies below the ACK, or within the second.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    options: Options
    block: Range
    second: Range
    new: cython.bint = False
    k: uint32_t
    parse(seg.options, seg.options_length, cython.address(options))
    close_stretch(s, i)
    for k in range(options.sack_blocks):
        read_block(seg, cython.address(options), k, cython.address(block))
        if not before(block.left, block.right):
            continue
        if k == 0 and before(block.left, seg.ack):
            if not after(block.right, seg.ack) and s.views[i].racked:
                told_of_duplicate(s, i, cython.address(block))
            continue
        if k == 0 and options.sack_blocks > 1:
            read_block(seg, cython.address(options), 1, cython.address(second))
            if not before(block.left, second.left) and not after(block.right, second.right) and s.views[i].racked:
                told_of_duplicate(s, i, cython.address(block))
        if after(block.left, t.snd.una) and not before(block.left, seg.ack) and not after(block.right, t.snd.max):
            new |= put(s, i, seg, cython.address(block))
    return new


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def told_of_duplicate(s: cython.pointer[Stack], i: uint32_t, block: cython.pointer[cython.const[Range]]) -> cython.void:
    b: cython.pointer[Board] = cython.address(s.boards[i])
    b.dsack = 1
    b.duplicate = block[0]
    s.tcbs[i].tally.twice += segments(block.right - block.left, s.tcbs[i].snd.mss)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def read_block(
    seg: cython.pointer[cython.const[Segment]],
    options: cython.pointer[cython.const[Options]],
    k: uint32_t,
    block: cython.pointer[Range],
) -> cython.void:
    block.left = get32(seg.options + options.sack_at + 8 * k)
    block.right = get32(seg.options + options.sack_at + 8 * k + 4)


# rfc: 6675:4-KEPT, 2018:8-KEPT
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def put(
    s: cython.pointer[Stack],
    i: uint32_t,
    seg: cython.pointer[cython.const[Segment]],
    block: cython.pointer[cython.const[Range]],
) -> cython.bint:
    """Add a block. False: it was there, or there is no place for another."""
    v: cython.pointer[View] = cython.address(s.views[i])
    b: cython.pointer[Board] = cython.address(s.boards[i])
    k: uint32_t = holder(s, i, block.left)
    first: uint32_t
    x: cython.pointer[Stretch]
    while k < v.stretches and stretch(b, k).flags & STRETCH_SACKED and before(stretch(b, k).end, block.right):
        k += 1
    if k == v.stretches or stretch(b, k).flags & STRETCH_SACKED:
        return False
    if v.stretches > STRETCHES - KEPT:
        return False
    first = k = cut_out(s, i, block.left, block.right)
    while k < v.stretches and not after(stretch(b, k).end, block.right):
        x = stretch(b, k)
        if not x.flags & STRETCH_SACKED:
            delivered(s, i, x, x.end, seg)
            become(s, i, k, STRETCH_SACKED)
        k += 1
    join_equal(s, i, first - 1 if first else 0, k)
    v.sacked = 1
    return True


def prune(
    s: cython.pointer[Stack], i: uint32_t, seg: cython.pointer[cython.const[Segment]], old_una: uint32_t
) -> cython.void:
    """snd.una has moved: what it has reached has arrived, and is off the board."""
    una: uint32_t = s.tcbs[i].snd.una
    v: cython.pointer[View] = cython.address(s.views[i])
    b: cython.pointer[Board] = cython.address(s.boards[i])
    x: cython.pointer[Stretch]
    end: uint32_t
    while v.stretches and before(old_una, una):
        x = stretch(b, 0)
        end = una if after(x.end, una) else x.end
        count(b, x.flags, old_una - end)
        if not x.flags & STRETCH_SACKED:
            delivered(s, i, x, end, seg)
        if end == x.end:
            b.first = cython.cast(uint8_t, (b.first + 1) & (STRETCHES - 1))
            v.stretches -= 1
        old_una = end
    v.sacked = b.sacked != 0


# ---- what is sent and lost ----


# rfc: 8985:6.1
def resent(s: cython.pointer[Stack], i: uint32_t, left: uint32_t, right: uint32_t) -> cython.void:
    """[left, right), which was sent before, leaves once more."""
    v: cython.pointer[View] = cython.address(s.views[i])
    b: cython.pointer[Board] = cython.address(s.boards[i])
    first: uint32_t
    k: uint32_t
    close_stretch(s, i)
    while v.stretches > STRETCHES - 2:
        make_room(s, i)
    first = k = cut_out(s, i, left, right)
    while k < v.stretches and not after(stretch(b, k).end, right):
        become(s, i, k, STRETCH_AGAIN)
        stretch(b, k).sent_at = s.now
        k += 1
    join_equal(s, i, first - 1 if first else 0, k)
    v.sacked = b.sacked != 0


def mark_lost(s: cython.pointer[Stack], i: uint32_t, k: uint32_t) -> cython.void:
    """Stretch k is lost."""
    s.boards[i].found_lost = 1
    become(s, i, k, stretch(cython.address(s.boards[i]), k).flags & STRETCH_AGAIN | STRETCH_LOST)


# rfc: 2018:5-FORGET 5.1-IGNORE
def forget_selected(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """After a timeout (RFC 2018 section 8): the peer may have thrown away what it has acknowledged selectively."""
    k: uint32_t
    for k in range(s.views[i].stretches):
        if stretch(cython.address(s.boards[i]), k).flags & STRETCH_SACKED:
            become(s, i, k, STRETCH_AGAIN)
    s.views[i].sacked = 0


def none_lost(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """What was deemed lost was late."""
    b: cython.pointer[Board] = cython.address(s.boards[i])
    k: uint32_t
    for k in range(s.views[i].stretches):
        if stretch(b, k).flags & STRETCH_LOST:
            become(s, i, k, stretch(b, k).flags & STRETCH_AGAIN)


def ranges_sacked(s: cython.pointer[Stack], i: uint32_t) -> uint32_t:
    """How many discontiguous ranges the peer has."""
    total: uint32_t = 0
    k: uint32_t
    for k in range(s.views[i].stretches):
        if stretch(cython.address(s.boards[i]), k).flags & STRETCH_SACKED:
            total += 1
    return total


# rfc: 6675:4-PIPE
def pipe(s: cython.pointer[Stack], i: uint32_t) -> uint32_t:
    """SetPipe() of RFC 6675: bytes that are still on their way, as far as one can know."""
    flight: uint32_t = s.tcbs[i].snd.nxt - s.tcbs[i].snd.una
    away: uint32_t = s.boards[i].sacked + s.boards[i].lost if s.views[i].stretches else 0
    return flight - away if flight > away else 0


# rfc: 6675:4-NEXTSEG 4-NEXTSEG-NONE
def next_lost(s: cython.pointer[Stack], i: uint32_t, hole: cython.pointer[Range]) -> cython.bint:
    """NextSeg(), rule 1 of RFC 6675: what is lost, and was not sent again. False: no such thing."""
    v: cython.pointer[View] = cython.address(s.views[i])
    b: cython.pointer[Board] = cython.address(s.boards[i])
    k: uint32_t = 0
    if not v.stretches or not b.lost:
        return False
    while k < v.stretches and not stretch(b, k).flags & STRETCH_LOST:
        k += 1
    if k == v.stretches:
        return False
    hole.left = start(s, i, k)
    while k + 1 < v.stretches and stretch(b, k + 1).flags & STRETCH_LOST:
        k += 1
    hole.right = stretch(b, k).end
    return True


def after_steps(iss: uint32_t, steps: list) -> dict:
    """Probe: the board after steps, with numbers counted from `iss`, and how much of it is in use.

    A step is ("send", length, ms), ("again", left, right, ms), ("lost", left), ("sacked", left, right), ("acked", upto)
    or ("timeout",).
    """
    s: cython.pointer[Stack] = cython.cast(cython.pointer[Stack], calloc(1, cython.sizeof(Stack)))
    t: Tcb
    v: View
    b: Board
    seg: Segment
    block: Range
    old: uint32_t
    first: uint32_t
    second: uint32_t
    if s == cython.NULL:
        raise MemoryError
    memset(cython.address(t), 0, cython.sizeof(t))
    memset(cython.address(v), 0, cython.sizeof(v))
    memset(cython.address(b), 0, cython.sizeof(b))
    memset(cython.address(seg), 0, cython.sizeof(seg))
    s.tcbs, s.views, s.boards = cython.address(t), cython.address(v), cython.address(b)
    t.snd.una = t.snd.nxt = t.snd.max = iss
    for name, *numbers in steps:
        first = numbers[0] if numbers else 0
        second = numbers[1] if len(numbers) > 1 else 0
        if name == "send":
            s.now = numbers[1] * 1000000
            if t.last_sent != s.now:
                close_stretch(s, 0)
            t.snd.nxt = t.snd.max = t.snd.max + first
            t.last_sent = s.now
        elif name == "again":
            s.now = numbers[2] * 1000000
            resent(s, 0, iss + first, iss + second)
            t.last_sent = s.now
        elif name == "lost":
            close_stretch(s, 0)
            mark_lost(s, 0, holder(s, 0, iss + first))
        elif name == "sacked":
            block.left = iss + first
            block.right = iss + second
            close_stretch(s, 0)
            put(s, 0, cython.address(seg), cython.address(block))
        elif name == "acked":
            old = t.snd.una
            t.snd.una = iss + first
            prune(s, 0, cython.address(seg), old)
        else:
            close_stretch(s, 0)
            forget_selected(s, 0)
    stretches = [
        (
            cython.cast(uint32_t, stretch(cython.address(b), k).end - iss),
            stretch(cython.address(b), k).sent_at // 1000000,
            stretch(cython.address(b), k).flags,
        )
        for k in range(v.stretches)
    ]
    away: uint32_t = pipe(s, 0)
    free(s)
    return {"stretches": stretches, "sacked": v.sacked, "bytes": (b.sacked, b.lost), "pipe": away}
