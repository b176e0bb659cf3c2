"""Receive buffers in the region, for connections that no program has been given yet.

A free list in the order of last use, so that under load the same few pages are used again and again. It is filled as
buffers are first needed, so that an idle replica touches none of it.
"""

import cython
from cython.cimports.libc.errno import ENOMEM
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcpy
from cython.cimports.neatstack.dataplane.channel.buffers import rx_head
from cython.cimports.neatstack.dataplane.stack import HOLD_BUFFERS, HOLD_SIZE, Stack, View
from cython.cimports.neatstack.dataplane.tcp.tcb import TCB_DETACHED, TCB_HELD, Tcb
from cython.cimports.neatstack.dataplane.wire.crc import checksum


def init_holds(s: cython.pointer[Stack]) -> cython.int:
    s.free_holds = cython.cast(cython.pointer[uint32_t], calloc(HOLD_BUFFERS, cython.sizeof(uint32_t)))
    s.free_holds_count = 0
    s.holds_used = 0
    return 0 if s.free_holds != cython.NULL else -ENOMEM


def destroy_holds(s: cython.pointer[Stack]) -> cython.void:
    free(s.free_holds)
    s.free_holds = cython.NULL


def hold(s: cython.pointer[Stack], i: uint32_t) -> cython.bint:
    """Give TCB i a hold buffer unless it has a receive buffer. False: none is left, or no program will ever read."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    number: uint32_t
    if v.rx_size:
        return True
    if t.flags & TCB_DETACHED:
        return False
    if s.free_holds_count:
        s.free_holds_count -= 1
        number = s.free_holds[s.free_holds_count]
    elif s.holds_used < HOLD_BUFFERS:
        number = s.holds_used
        s.holds_used += 1
    else:
        return False
    t.flags |= TCB_HELD
    t.socket = number
    point_to(s, v, number)
    return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def point_to(s: cython.pointer[Stack], v: cython.pointer[View], number: uint32_t) -> cython.void:
    v.rx = s.holds + cython.cast(uint64_t, number) * HOLD_SIZE
    v.rx_size = HOLD_SIZE
    v.rx_limit = HOLD_SIZE
    v.rx_tail = 0


def waiting_bytes(s: cython.pointer[cython.const[Stack]], i: uint32_t) -> uint32_t:
    """From the first byte to the last that has come, with the gaps between.

    Nothing was read: accept() has not returned it.
    """
    t: cython.pointer[cython.const[Tcb]] = cython.address(s.tcbs[i])
    length: uint32_t = rx_head(t)
    if t.rcv.ranges:
        length = t.late.range[t.rcv.ranges - 1].right - (t.rcv.irs + 1)
    return length if length <= s.views[i].rx_size else 0


def checksum_of_hold(s: cython.pointer[cython.const[Stack]], i: uint32_t) -> uint32_t:
    """What waits there is acknowledged, and in no ring that its program could look after: it must not change."""
    rx: cython.pointer[cython.const[uint8_t]] = s.views[i].rx
    length: uint32_t = waiting_bytes(s, i)
    last: uint64_t = 0  # fewer than 8 bytes: what follows them may be what a death has left there
    memcpy(cython.address(last), rx + (length & ~7), length & 7)
    halves: uint64_t = checksum(rx, length & ~7) ^ checksum(cython.address(last), 8)
    return cython.cast(uint32_t, halves ^ halves >> 32)


def release_hold(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Take the hold buffer of TCB i back, if it has one."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    if not t.flags & TCB_HELD:
        return
    t.flags &= ~cython.cast(uint32_t, TCB_HELD)
    s.free_holds[s.free_holds_count] = t.socket
    s.free_holds_count += 1
    t.socket = 0
    v.rx = cython.cast(cython.pointer[uint8_t], cython.NULL)
    v.rx_size = 0
    v.rx_limit = 0


# ---- adoption ----


def restore_hold(s: cython.pointer[Stack], i: uint32_t, used: cython.pointer[uint8_t]) -> cython.bint:
    """Give TCB i the hold buffer again that it names, and note that in `used`. False: it is another's."""
    number: uint32_t = s.tcbs[i].socket
    if number >= HOLD_BUFFERS or used[number]:
        return False
    used[number] = 1
    point_to(s, cython.address(s.views[i]), number)
    return True


def rebuild_holds(s: cython.pointer[Stack], used: cython.pointer[cython.const[uint8_t]]) -> cython.void:
    """The free list, from which buffers are in use."""
    k: uint32_t
    s.free_holds_count = 0
    s.holds_used = 0
    for k in range(HOLD_BUFFERS):
        if used[k]:
            s.holds_used = k + 1
    for k in range(s.holds_used):
        if not used[k]:
            s.free_holds[s.free_holds_count] = k
            s.free_holds_count += 1
