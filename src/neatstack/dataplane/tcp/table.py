"""All TCBs of a replica: found by flow, taken and given back, each in constant time.

The table is open addressing with linear probing over entries hash << 32 | index, at most half full. An entry is
compared by its hash before its TCB is touched, and taken out by moving later entries of its cluster back (Knuth, volume
3, 6.4, algorithm R), so that churn leaves no debris. The hash is keyed and strongly universal: a peer cannot aim at a
cluster.
"""

import cython
from cython.cimports.libc.errno import ENOMEM
from cython.cimports.libc.stdint import uint16_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memset
from cython.cimports.neatstack.dataplane.channel.address import Address, same
from cython.cimports.neatstack.dataplane.check import check
from cython.cimports.neatstack.dataplane.driver.flowhash import fold_address
from cython.cimports.neatstack.dataplane.journal import broken, touch, touch_new
from cython.cimports.neatstack.dataplane.stack import RELEASE_AHEAD, Stack, View
from cython.cimports.neatstack.dataplane.tcp import timers
from cython.cimports.neatstack.dataplane.tcp.isn import draw_secrets
from cython.cimports.neatstack.dataplane.tcp.listen import index_listeners
from cython.cimports.neatstack.dataplane.tcp.state import become
from cython.cimports.neatstack.dataplane.tcp.tcb import TCB_DETACHED, TCB_HELD, State, Tcb


def init(s: cython.pointer[Stack]) -> cython.int:
    size: uint32_t = 64
    while size < 2 * s.max_tcbs:
        size *= 2
    s.flows = cython.cast(cython.pointer[uint64_t], calloc(size, cython.sizeof(uint64_t)))
    if s.flows == cython.NULL:
        return -ENOMEM
    s.flows_mask = size - 1
    s.flows_used = 0
    s.free_tcbs = s.wait_first = s.wait_last = 0
    draw_secrets(s)
    index_listeners(s)
    timers.init(s)
    s.counters.connections = 0
    return 0


def restore(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Give TCB i, as the region holds it, its places in the private structures."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    if t.state == State.FREE:
        give_back(s, i)
        return
    if t.state == State.CLOSED:
        return
    s.counters.connections += 1
    insert(s, i)
    if t.state == State.TIME_WAIT:
        wait_add(s, i)
    timers.arm(s, i)


def give_back(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """TCB i is FREE, and can be allocated again."""
    s.views[i].next_in_list = s.free_tcbs
    s.free_tcbs = i


def destroy(s: cython.pointer[Stack]) -> cython.void:
    free(s.flows)
    s.flows = cython.cast(cython.pointer[uint64_t], cython.NULL)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def hash_flow(
    s: cython.pointer[Stack], local_be: Address, local_port_be: uint16_t, remote_be: Address, remote_port_be: uint16_t
) -> uint32_t:
    """Multilinear, keyed by random numbers. The two directions of a loopback connection hash differently."""
    ports: uint32_t = cython.cast(uint32_t, local_port_be) << 16 | remote_port_be
    total: uint64_t = s.flows_key[0] + s.flows_key[3] * ports
    total += s.flows_key[1] * fold_address(s.flows_key, local_be) + s.flows_key[2] * fold_address(
        s.flows_key, remote_be
    )
    return cython.cast(uint32_t, total >> 32)


def find(
    s: cython.pointer[Stack], local_be: Address, local_port_be: uint16_t, remote_be: Address, remote_port_be: uint16_t
) -> uint32_t:
    """The TCB of a flow; 0: there is none."""
    key: uint32_t = hash_flow(s, local_be, local_port_be, remote_be, remote_port_be)
    at: uint32_t = key & s.flows_mask
    entry: uint64_t = s.flows[at]
    t: cython.pointer[Tcb]
    while entry:
        if entry >> 32 == key:
            t = cython.address(s.tcbs[cython.cast(uint32_t, entry)])
            if (
                t.remote_port_be == remote_port_be
                and same(t.remote_be, remote_be)
                and t.local_port_be == local_port_be
                and same(t.local_be, local_be)
            ):
                return cython.cast(uint32_t, entry)
        at = (at + 1) & s.flows_mask
        entry = s.flows[at]
    return 0


def insert(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Make TCB i, whose flow is not in the table, findable."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    key: uint64_t = hash_flow(s, t.local_be, t.local_port_be, t.remote_be, t.remote_port_be)
    at: uint32_t = cython.cast(uint32_t, key) & s.flows_mask
    while s.flows[at]:
        at = (at + 1) & s.flows_mask
    s.flows[at] = key << 32 | i
    s.flows_used += 1


def remove(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Take TCB i out of the table; does nothing when it is not there."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    at: uint32_t = hash_flow(s, t.local_be, t.local_port_be, t.remote_be, t.remote_port_be) & s.flows_mask
    hole: uint32_t
    home: uint32_t
    while s.flows[at] and cython.cast(uint32_t, s.flows[at]) != i:
        at = (at + 1) & s.flows_mask
    if not s.flows[at]:
        return
    hole = at
    while True:
        at = (at + 1) & s.flows_mask
        if not s.flows[at]:
            break
        home = cython.cast(uint32_t, s.flows[at] >> 32) & s.flows_mask
        if ((at - home) & s.flows_mask) >= ((at - hole) & s.flows_mask):
            s.flows[hole] = s.flows[at]  # it may lie as early as the hole
            hole = at
    s.flows[hole] = 0
    s.flows_used -= 1


def allocate(s: cython.pointer[Stack]) -> uint32_t:
    """Take a TCB: one that was given back, else one never used, else the oldest in TIME-WAIT; 0: none is left."""
    i: uint32_t = s.free_tcbs
    if i:
        if i >= s.tcbs_used or s.tcbs[i].state != State.FREE:
            broken(s, "list of free connections")
        s.free_tcbs = s.views[i].next_in_list
    elif s.tcbs_used < s.max_tcbs:
        i = s.tcbs_used
        s.tcbs_used += 1
        s.region.tcbs_used = s.region.tcbs_used_again = s.tcbs_used
    else:
        i = recycle(s)  # it is touched, and can still be undone
        if not i:
            return 0
    touch_new(s, i)
    memset(cython.address(s.tcbs[i]), 0, cython.sizeof(Tcb))
    memset(cython.address(s.views[i]), 0, cython.sizeof(View))
    s.tcbs[i].stamp = s.region.batch  # it belongs to the batch in hand, as touch() has said
    return i


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def recycle(s: cython.pointer[Stack]) -> uint32_t:
    """End the oldest TIME-WAIT that nobody holds.

    A few that a program still holds are passed over, to the end of the list.
    """
    i: uint32_t
    for _ in range(RELEASE_AHEAD):
        i = s.wait_first
        if not i:
            return 0
        if i >= s.tcbs_used or s.tcbs[i].state != State.TIME_WAIT:
            broken(s, "list of connections in TIME-WAIT")
        if s.tcbs[i].flags & TCB_DETACHED and s.views[i].program == cython.NULL and not s.views[i].dirty:
            check(not s.tcbs[i].flags & TCB_HELD)
            touch(s, i)
            wait_remove(s, i)
            timers.disarm(s, i)
            remove(s, i)
            s.counters.connections -= 1
            s.counters.connections_closed += 1
            return i
        wait_remove(s, i)
        wait_add(s, i)
    return 0


def release(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Give TCB i back; it is CLOSED, and nothing refers to it."""
    become(s, i, State.FREE)
    give_back(s, i)


def wait_add(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Put TCB i at the end of the list of TIME-WAIT."""
    s.views[i].wait_next = 0
    s.views[i].wait_prev = s.wait_last
    if s.wait_last:
        s.views[s.wait_last].wait_next = i
    else:
        s.wait_first = i
    s.wait_last = i


def wait_remove(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    v: cython.pointer[View] = cython.address(s.views[i])
    if v.wait_prev:
        s.views[v.wait_prev].wait_next = v.wait_next
    else:
        s.wait_first = v.wait_next
    if v.wait_next:
        s.views[v.wait_next].wait_prev = v.wait_prev
    else:
        s.wait_last = v.wait_prev
    v.wait_next = v.wait_prev = 0
