"""One batch: receive, run to completion, take commands, run timers, send, tell, ring (docs/architecture.md)."""

import cython
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t
from cython.cimports.neatstack.dataplane.audit import audit
from cython.cimports.neatstack.dataplane.channel.atomic import barrier
from cython.cimports.neatstack.dataplane.channel.rings import any_commands, ring_doorbells
from cython.cimports.neatstack.dataplane.driver.capture import capture_in, capture_out
from cython.cimports.neatstack.dataplane.driver.device import FRAMES, Frame
from cython.cimports.neatstack.dataplane.driver.inbox import stow
from cython.cimports.neatstack.dataplane.driver.loopback import put_loopback, take_loopback
from cython.cimports.neatstack.dataplane.ip.input import expire_fragments, frame_arrives, loopback_arrives
from cython.cimports.neatstack.dataplane.ip.reassembly import reassembly_deadline
from cython.cimports.neatstack.dataplane.journal import (
    JOURNAL,
    POINT_FINISHED,
    POINT_FLUSHED,
    POINT_PLANNED,
    POINT_RUNG,
    POINT_SENT,
    POINT_TAKEN,
    commit,
    point,
    touch,
)
from cython.cimports.neatstack.dataplane.socket.commands import run_commands
from cython.cimports.neatstack.dataplane.socket.datagrams import datagrams_left, send_datagrams
from cython.cimports.neatstack.dataplane.socket.publish import publish, welcome
from cython.cimports.neatstack.dataplane.stack import DROP_DEVICE, NEWS_OUTPUT, Stack, View
from cython.cimports.neatstack.dataplane.tcp import timers
from cython.cimports.neatstack.dataplane.tcp.output import output


def receive(s: cython.pointer[Stack], most: cython.int) -> cython.int:
    """Feed up to `most` frames, at most FRAMES, from the device, and FRAMES from ourselves.

    How many; -errno: the device has failed.
    """
    frames: Frame[FRAMES]
    frame: Frame
    dirty: uint32_t
    k: cython.int
    if JOURNAL and s.now >= s.audit_at:  # without it there are no checksums to compare
        audit(s)
    count: cython.int = s.device.receive(cython.address(s.device), frames, most) if most else 0
    if count > 0 and not s.device.records:
        count = stow(cython.address(s.region.inbox), s.frames, frames, count)
    if cython.unlikely(s.capture_count != 0):
        capture_in(s, frames, count)
    point(s, POINT_TAKEN)
    for k in range(count):
        dirty = s.dirty_count
        frame_arrives(s, cython.address(frames[k]))
        commit(s)
        welcome(s, dirty)
        s.region.inbox.done = k + 1
    for _ in range(FRAMES):
        if not take_loopback(s, cython.address(frame)):
            break
        dirty = s.dirty_count
        loopback_arrives(s, cython.address(frame))
        commit(s)
        welcome(s, dirty)
        count = count + 1 if count >= 0 else count
    return count


def batch(s: cython.pointer[Stack]) -> cython.bint:
    """All but receiving: see docs/architecture.md. True: there is more to do at once."""
    run_commands(s)
    timers.run(s)
    if s.reassembly.oldest:
        expire_fragments(s)
    plan(s)
    if s.udp.sending or s.udp.parked_count:
        send_datagrams(s)
    point(s, POINT_PLANNED)
    publish(s)
    flush(s)
    if s.udp.told:
        datagrams_left(s)
    point(s, POINT_FLUSHED)
    ring_doorbells(s)
    point(s, POINT_RUNG)
    finish_batch(s)
    point(s, POINT_FINISHED)
    return not idle(s)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def finish_batch(s: cython.pointer[Stack]) -> cython.void:
    """All is told and sent, but for what is left over: that belongs to the next batch."""
    k: uint32_t
    for k in range(s.dirty_count):
        s.tcbs[s.dirty[k]].stamp = s.region.batch + 1
    barrier()
    s.region.batch += 1
    s.region.inbox.count = s.region.inbox.done = 0
    s.counters.batches += 1
    s.replica_page.progress_ns = s.now


def idle(s: cython.pointer[Stack]) -> cython.bint:
    return s.dirty_count == 0 and s.udp.sending == 0 and s.loop_head == s.loop_tail and not any_commands(s)


def deadline(s: cython.pointer[Stack]) -> uint64_t:
    at: uint64_t = earlier(timers.next_deadline(s), s.udp.parked_at)
    return earlier(at, reassembly_deadline(s.reassembly))


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def earlier(a: uint64_t, b: uint64_t) -> uint64_t:
    """Of two times, of which 0 is never."""
    return b if b and (not a or b < a) else a


def rounds(argument: cython.p_void) -> cython.void:
    """Receive and run batches until nothing is left to do at this moment."""
    s: cython.pointer[Stack] = cython.cast(cython.pointer[Stack], argument)
    count: cython.int = 1
    more: cython.bint = True
    while count > 0 or more:
        count = receive(s, FRAMES)
        more = batch(s)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def plan(s: cython.pointer[Stack]) -> cython.void:
    """Plan what the dirty connections have to send.

    One that finds the outbox full says so in its news, for the next batch.
    """
    k: uint32_t = 0
    while k < s.dirty_count:  # planning one may mark others
        v: cython.pointer[View] = cython.address(s.views[s.dirty[k]])
        if v.news & NEWS_OUTPUT:
            v.news &= cython.cast(uint8_t, ~NEWS_OUTPUT)
            touch(s, s.dirty[k])
            output(s, s.dirty[k])
            commit(s)
        k += 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def flush(s: cython.pointer[Stack]) -> cython.void:
    """Send what was planned. What the device does not take is counted; TCP will send it again."""
    k: uint32_t
    left: cython.bint
    for k in range(s.outbox_count):
        if s.outbox[k].loopback:
            left = put_loopback(s, cython.address(s.outbox[k]))
        else:
            left = s.device.send(cython.address(s.device), cython.address(s.outbox[k])) >= 0
        if not left:
            s.counters.drops[cython.cast(cython.int, DROP_DEVICE)] += 1
        elif cython.unlikely(s.capture_count != 0):
            capture_out(s, cython.address(s.outbox[k]))
        point(s, POINT_SENT)
    s.outbox_count = 0
