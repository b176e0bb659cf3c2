"""The timer wheel: one entry for each TCB that waits, at its earliest deadline; every operation takes constant time.

Four levels of 256 slots. An entry that is due in tick e lies on the level of the highest byte in which e and the
current tick differ, in the slot that this byte of e names; when the wheel comes to that slot, the entry moves down a
level, or is due. So all slots in use lie ahead of the hand, and bit maps tell the next one without walking (Varghese,
Lauck 1987, scheme 7). The top level wraps round: an entry is put at most one turn, some 52 days, ahead.

Entries are lazy: switching a timer off, or putting it off, leaves the entry where it is, and when its time comes it is
looked at and moved on. A connection that sends and is answered all the time hardly ever touches the wheel.
"""

import cython
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.neatstack.dataplane.journal import commit, touch
from cython.cimports.neatstack.dataplane.stack import WHEEL_LEVELS, WHEEL_SLOTS, WHEEL_WORDS, Stack, View
from cython.cimports.neatstack.dataplane.tcp.bits import lowest
from cython.cimports.neatstack.dataplane.tcp.tcb import TIMERS, Tcb
from cython.cimports.neatstack.dataplane.tcp.timeouts import expire
from cython.cimports.neatstack.dataplane.tcp.timers import TICK_BITS

TOP = cython.declare(cython.int, WHEEL_LEVELS - 1)


def init(s: cython.pointer[Stack]) -> cython.void:
    k: uint32_t
    for k in range(WHEEL_LEVELS * WHEEL_SLOTS):
        s.wheel[k] = 0
    for k in range(WHEEL_WORDS):
        s.wheel_map[k] = 0
    s.wheel_tick = s.now >> TICK_BITS
    s.wheel_count = 0


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def tick_of(at: uint64_t) -> uint64_t:
    """The first tick that is not before `at`."""
    return (at + (1 << TICK_BITS) - 1) >> TICK_BITS


def earliest(t: cython.pointer[cython.const[Tcb]]) -> uint64_t:
    """The earliest deadline of a TCB; 0: none."""
    at: uint64_t = 0
    k: cython.int
    for k in range(TIMERS):
        if t.timers[k] and (not at or t.timers[k] < at):
            at = t.timers[k]
    return at


# ---- entries ----


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def link(s: cython.pointer[Stack], i: uint32_t, at: uint64_t, tick: uint64_t) -> cython.void:
    """Put TCB i, which is in no slot, where `tick` belongs, which is after the current one."""
    v: cython.pointer[View] = cython.address(s.views[i])
    level: cython.int = 0
    limit: uint64_t = s.wheel_tick + (cython.cast(uint64_t, WHEEL_SLOTS - 1) << 8 * TOP)
    slot: uint32_t
    if tick > limit:
        tick = limit
    while level < TOP and (tick ^ s.wheel_tick) >> 8 * (level + 1):
        level += 1
    slot = level * WHEEL_SLOTS + cython.cast(uint32_t, tick >> 8 * level & (WHEEL_SLOTS - 1))
    v.wheel_at = at
    v.wheel_slot = slot + 1
    v.wheel_prev = 0
    v.wheel_next = s.wheel[slot]
    if v.wheel_next:
        s.views[v.wheel_next].wheel_prev = i
    s.wheel[slot] = i
    s.wheel_map[slot >> 6] |= cython.cast(uint64_t, 1) << (slot & 63)
    s.wheel_count += 1


def disarm(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    v: cython.pointer[View] = cython.address(s.views[i])
    slot: uint32_t
    if not v.wheel_slot:
        return
    slot = v.wheel_slot - 1
    if v.wheel_prev:
        s.views[v.wheel_prev].wheel_next = v.wheel_next
    else:
        s.wheel[slot] = v.wheel_next
        if not v.wheel_next:
            s.wheel_map[slot >> 6] &= ~(cython.cast(uint64_t, 1) << (slot & 63))
    if v.wheel_next:
        s.views[v.wheel_next].wheel_prev = v.wheel_prev
    v.wheel_slot = 0
    s.wheel_count -= 1


def relink(s: cython.pointer[Stack], i: uint32_t, at: uint64_t) -> cython.void:
    """Let the wheel look at TCB i in the tick of `at`, or in the next one if that is past."""
    tick: uint64_t = tick_of(at)
    disarm(s, i)
    link(s, i, at, tick if tick > s.wheel_tick else s.wheel_tick + 1)


def arm(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    at: uint64_t = earliest(cython.address(s.tcbs[i]))
    if not at:
        disarm(s, i)
    elif not s.views[i].wheel_slot or s.views[i].wheel_at != at:
        relink(s, i, at)


# ---- time ----


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def next_slot(s: cython.pointer[Stack], level: cython.int, first: uint32_t, end: uint32_t) -> cython.int:
    """The first slot of a level in [first, end) that is in use; -1: none."""
    word: uint32_t
    bits: uint64_t
    while first < end:
        word = level * (WHEEL_SLOTS // 64) + (first >> 6)
        bits = s.wheel_map[word] >> (first & 63)
        if bits:
            first += lowest(bits)
            return first if first < end else -1
        first = (first | 63) + 1
    return -1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def next_tick(s: cython.pointer[Stack], slot: cython.pointer[uint32_t]) -> uint64_t:
    """The next tick that a slot in use begins with, and that slot. There is one: wheel_count is not 0."""
    level: cython.int
    hand: uint32_t
    found: cython.int
    turn: uint64_t
    for level in range(WHEEL_LEVELS):
        hand = cython.cast(uint32_t, s.wheel_tick >> 8 * level) & (WHEEL_SLOTS - 1)
        turn = s.wheel_tick >> 8 * (level + 1)
        found = next_slot(s, level, hand + 1, WHEEL_SLOTS)
        if found < 0 and level == TOP:
            turn += 1
            found = next_slot(s, level, 0, hand)
        if found >= 0:
            slot[0] = level * WHEEL_SLOTS + found
            return (turn << 8 | cython.cast(uint64_t, found)) << 8 * level
    slot[0] = 0
    return ~cython.cast(uint64_t, 0)


def run(s: cython.pointer[Stack]) -> cython.void:
    """Turn the wheel to s.now."""
    now: uint64_t = s.now >> TICK_BITS
    slot: uint32_t = 0
    tick: uint64_t
    while s.wheel_count:
        tick = next_tick(s, cython.address(slot))
        if tick > now:
            break
        s.wheel_tick = tick
        empty(s, slot)
    if now > s.wheel_tick:
        s.wheel_tick = now


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def empty(s: cython.pointer[Stack], slot: uint32_t) -> cython.void:
    """The hand has come to `slot`: what is due expires, the rest moves to where it belongs now."""
    i: uint32_t
    at: uint64_t
    while s.wheel[slot]:
        i = s.wheel[slot]
        disarm(s, i)
        at = earliest(cython.address(s.tcbs[i]))
        if at and tick_of(at) <= s.wheel_tick:
            touch(s, i)
            expire(s, i)
            commit(s)
            at = earliest(cython.address(s.tcbs[i]))
        if at and not s.views[i].wheel_slot:
            relink(s, i, at)


def next_deadline(s: cython.pointer[Stack]) -> uint64_t:
    """When run() is needed next, ns; 0: never. Entries that have lost their reason are cleared away first, each once.

    On the lower level this is exact; on the others it may be the moment when the entry moves down.
    """
    slot: uint32_t = 0
    i: uint32_t
    at: uint64_t
    tick: uint64_t
    while s.wheel_count:
        tick = next_tick(s, cython.address(slot))
        i = s.wheel[slot]
        at = earliest(cython.address(s.tcbs[i]))
        if at and tick_of(at) <= last_tick(s, slot, tick):
            return tick << TICK_BITS
        disarm(s, i)
        if at:
            relink(s, i, at)
    return 0


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def last_tick(s: cython.pointer[Stack], slot: uint32_t, tick: uint64_t) -> uint64_t:
    """The last tick of a slot that begins with `tick`."""
    level: uint32_t = slot // WHEEL_SLOTS
    return tick + (cython.cast(uint64_t, 1) << 8 * level) - 1
