"""Undo slot, checksums, commit; and the faults that are injected at named points. See journal.pxd."""

import cython
from cython.cimports.libc.signal import SIGABRT, SIGKILL
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.stdio import fprintf, stderr
from cython.cimports.libc.string import memcpy
from cython.cimports.neatstack.dataplane.channel.atomic import barrier
from cython.cimports.neatstack.dataplane.channel.slot import free_retired
from cython.cimports.neatstack.dataplane.death import jump, raise_signal, segmentation_fault
from cython.cimports.neatstack.dataplane.journal import (
    JOURNAL,
    POINT_CHANGED,
    POINT_COMMITTED,
    POINT_FREED,
    POINT_NONE,
    POINT_SEALED,
    POINT_TOUCHED,
    STRIKE_ABORT,
    STRIKE_COUNT,
    STRIKE_HANG,
    STRIKE_JUMP,
    STRIKE_KILL,
    STRIKE_SEGV,
    WORDS_OF_VIEW,
    Point,
    point,
)
from cython.cimports.neatstack.dataplane.stack import UNDO, RegionHeader, Stack, View
from cython.cimports.neatstack.dataplane.tcp.tcb import Late, Tally, Tcb
from cython.cimports.neatstack.dataplane.wire.crc import crc32c

# ---- checksums ----


def checksum_of_tcb(t: cython.pointer[cython.const[Tcb]]) -> uint32_t:
    """CRC32C of four interleaved parts, each by itself, for they go side by side; then of the four."""
    word: cython.pointer[cython.const[uint64_t]] = cython.cast(cython.pointer[cython.const[uint64_t]], t)
    a: uint64_t = 1
    b: uint64_t = 2
    c: uint64_t = 3
    d: uint64_t = 4
    words: cython.int = (cython.sizeof(Tcb) - cython.sizeof(Late) - cython.sizeof(Tally) - 8) // 8  # up to the checksum
    k: cython.int = 0
    while k + 4 <= words:
        a = crc32c(a, word[k])
        b = crc32c(b, word[k + 1])
        c = crc32c(c, word[k + 2])
        d = crc32c(d, word[k + 3])
        k += 4
    while k < words:
        a = crc32c(a, word[k])
        k += 1
    if cython.unlikely(t.rcv.ranges != 0):
        word = cython.cast(cython.pointer[cython.const[uint64_t]], cython.address(t.late))
        for k in range(cython.sizeof(Late) // 8):
            b = crc32c(b, word[k])
    return cython.cast(uint32_t, crc32c(crc32c(a, b << 32 | c), d))


def checksum_of_view(v: cython.pointer[cython.const[View]]) -> uint32_t:
    """CRC32C of the part that says where bytes go to and come from."""
    word: cython.pointer[cython.const[uint64_t]] = cython.cast(cython.pointer[cython.const[uint64_t]], v)
    a: uint64_t = 1
    b: uint64_t = 2
    last: uint64_t = cython.cast(uint32_t, word[WORDS_OF_VIEW - 1])
    k: cython.int
    for k in range(0, WORDS_OF_VIEW - 2, 2):
        a = crc32c(a, word[k])
        b = crc32c(b, word[k + 1])
    a = crc32c(a, word[WORDS_OF_VIEW - 2])
    b = crc32c(b, last)
    return cython.cast(uint32_t, crc32c(a, b))


# ---- undo and commit ----


def copy_tcb(to: cython.pointer[Tcb], t: cython.pointer[cython.const[Tcb]]) -> cython.void:
    """All of it that means something, and is not only counted."""
    memcpy(to, t, cython.sizeof(Tcb) - cython.sizeof(Late) - cython.sizeof(Tally))
    if cython.unlikely(t.rcv.ranges != 0):
        to.late = t.late


def open_undo(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """See touch(): check that TCB i is as it was left, and keep a copy."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    seal_last(s)
    if cython.unlikely(t.checksum != checksum_of_tcb(t)):
        broken(s, "connection")
    if cython.unlikely(s.views[i].checksum != checksum_of_view(cython.address(s.views[i]))):
        broken(s, "view of a connection")
    keep(s, i)


def touch_new(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    if JOURNAL and s.hand != i:
        seal_last(s)
        keep(s, i)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def seal_last(s: cython.pointer[Stack]) -> cython.void:
    if s.hand:
        seal(s)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def keep(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    header: cython.pointer[RegionHeader] = s.region
    copy_tcb(cython.address(header.undo), cython.address(s.tcbs[i]))
    header.undo_index = i
    barrier()
    header.undo_valid = UNDO ^ i
    barrier()
    s.hand = i
    s.tcbs[i].stamp = header.batch
    point(s, POINT_TOUCHED)


def seal(s: cython.pointer[Stack]) -> cython.void:
    """See commit()."""
    i: uint32_t = s.hand
    point(s, POINT_CHANGED)
    s.tcbs[i].checksum = checksum_of_tcb(cython.address(s.tcbs[i]))
    s.views[i].checksum = checksum_of_view(cython.address(s.views[i]))
    barrier()
    point(s, POINT_SEALED)
    s.region.undo_valid = 0
    barrier()
    s.hand = 0
    point(s, POINT_COMMITTED)
    if s.region.retired_count:
        free_retired(s)
        point(s, POINT_FREED)


# ---- faults ----


def broken(s: cython.pointer[Stack], what: cython.p_const_char) -> cython.void:
    """End the process: its next incarnation looks at everything before it goes on."""
    fprintf(stderr, "replica %u: a %s is not as it was left; ending\n", s.replica, what)
    die(s, STRIKE_JUMP if s.trap == STRIKE_JUMP else STRIKE_ABORT)


def strike(s: cython.pointer[Stack], where: Point) -> cython.void:
    """Count the point, and do what is to be done here."""
    kind: uint32_t = s.trap
    s.hits[cython.cast(cython.int, where)] += 1
    if kind == STRIKE_COUNT or where != s.trap_point or s.trap_point == POINT_NONE:
        return
    if s.trap_after:
        s.trap_after -= 1
        return
    die(s, kind)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def die(s: cython.pointer[Stack], kind: uint32_t) -> cython.void:
    if kind == STRIKE_JUMP:
        jump(s.trap_jump)
    elif kind == STRIKE_KILL:
        raise_signal(SIGKILL)
    elif kind == STRIKE_SEGV:
        segmentation_fault()
    elif kind == STRIKE_HANG:
        while True:
            barrier()
    raise_signal(SIGABRT)
