"""The flows of a state region, read from outside while its replica goes on writing.

A flow is a record of 40 bytes, struct neat_steer_flow, as the steering program keeps them; many are their
concatenation. What is found is what stood there while it was looked at: a connection that opens or ends meanwhile may
or may not be in it. The work is done without the GIL, and may be done in a thread. ValueError: not a state region.
"""

from collections.abc import Collection

import cython
from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import free, malloc
from cython.cimports.libc.string import memset
from cython.cimports.neatstack.dataplane.driver.flowhash import bucket, flow_hash
from cython.cimports.neatstack.dataplane.driver.flowset import FlowSet, flowset_close, flowset_has, flowset_of
from cython.cimports.neatstack.dataplane.driver.maps import NEAT_STEER_BUCKETS, SteerFlow
from cython.cimports.neatstack.dataplane.inspect import Region
from cython.cimports.neatstack.dataplane.stack import STRAYS, RegionHeader
from cython.cimports.neatstack.dataplane.tcp.tcb import TCB_LOOPBACK, State, Tcb
from cython.cimports.neatstack.dataplane.wire.headers import PROTOCOL_TCP

Wanted = cython.struct(
    key=uint64_t[3],
    bucket=uint8_t[NEAT_STEER_BUCKETS],  # 1: flows of this bucket
    all=cython.bint,                     # of every bucket
    known=cython.pointer[FlowSet],       # only those in here; NULL: any
)  # fmt: skip


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def lives(t: cython.pointer[cython.const[Tcb]]) -> cython.bint:
    """Whether packets of this connection may come from outside: it has a state, and is not one to ourselves."""
    return t.state != State.FREE and t.state != State.CLOSED and not t.flags & TCB_LOOPBACK


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def flow_of(t: cython.pointer[cython.const[Tcb]]) -> SteerFlow:
    flow: SteerFlow
    memset(cython.address(flow), 0, cython.sizeof(flow))
    flow.source_be = t.remote_be
    flow.destination_be = t.local_be
    flow.source_port_be = t.remote_port_be
    flow.destination_port_be = t.local_port_be
    flow.protocol = PROTOCOL_TCP
    return flow


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def is_wanted(wanted: cython.pointer[cython.const[Wanted]], flow: SteerFlow) -> cython.bint:
    hashed: uint32_t
    if wanted.known != cython.NULL:
        return flowset_has(wanted.known, cython.address(flow))
    if wanted.all:
        return True
    hashed = flow_hash(wanted.key, flow.source_be, flow.destination_be, flow.source_port_be, flow.destination_port_be)
    return wanted.bucket[bucket(hashed)]


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def collect(
    tcbs: cython.pointer[cython.const[Tcb]],
    used: uint32_t,
    wanted: cython.pointer[cython.const[Wanted]],
    found: cython.pointer[SteerFlow],
) -> uint64_t:
    """Put the flows that live and are wanted into `found`; how many."""
    count: uint64_t = 0
    flow: SteerFlow
    i: uint32_t
    for i in range(1, used):
        if not lives(cython.address(tcbs[i])):
            continue
        flow = flow_of(cython.address(tcbs[i]))
        if is_wanted(wanted, flow):
            found[count] = flow
            count += 1
    return count


@cython.cfunc
def tcbs_of(region: Region) -> cython.pointer[cython.const[Tcb]]:
    return cython.cast(cython.pointer[cython.const[Tcb]], region.base + region.header.tcbs_at)


@cython.cfunc
@cython.exceptval(check=False)
def used_of(header: cython.pointer[cython.const[RegionHeader]]) -> uint32_t:
    """TCBs that may be in use; a number that cannot be is not believed."""
    return header.tcbs_used if header.tcbs_used < header.max_tcbs else header.max_tcbs


@cython.cfunc
def select(region: Region, wanted: cython.pointer[Wanted]) -> bytes:
    tcbs: cython.pointer[cython.const[Tcb]] = tcbs_of(region)
    used: uint32_t = used_of(cython.address(region.header))
    count: uint64_t
    found: cython.pointer[SteerFlow] = cython.cast(
        cython.pointer[SteerFlow], malloc((used + 1) * cython.sizeof(SteerFlow))
    )
    if found == cython.NULL:
        raise MemoryError
    try:
        with cython.nogil:
            count = collect(tcbs, used, wanted, found)
        return PyBytes_FromStringAndSize(cython.cast(cython.p_char, found), count * cython.sizeof(SteerFlow))
    finally:
        free(found)


def live_flows(buffer: object, keys: tuple[int, int, int], buckets: Collection[int] | None = None) -> bytes:
    """The flows that the replica has, of these buckets or of all: also those half open and in TIME-WAIT.

    Connections to ourselves are none: their packets never meet the steering program.
    """
    region: Region = Region(buffer)
    wanted: Wanted
    memset(cython.address(wanted), 0, cython.sizeof(wanted))
    wanted.key[0], wanted.key[1], wanted.key[2] = keys
    wanted.all = buckets is None
    for number in buckets or ():
        if not 0 <= number < NEAT_STEER_BUCKETS:
            raise ValueError(f"there is no bucket {number}")
        wanted.bucket[cython.cast(uint32_t, number)] = 1
    return select(region, cython.address(wanted))


def owns(buffer: object, flows: bytes) -> bytes:
    """Those of `flows` that the replica has."""
    region: Region = Region(buffer)
    wanted: Wanted
    known: FlowSet
    asked: cython.pointer[SteerFlow] = cython.cast(cython.pointer[SteerFlow], PyBytes_AS_STRING(flows))
    if len(flows) % cython.sizeof(SteerFlow):
        raise ValueError(f"{len(flows)} bytes are no whole number of flows")
    memset(cython.address(wanted), 0, cython.sizeof(wanted))
    if flowset_of(cython.address(known), asked, len(flows) // cython.sizeof(SteerFlow)) < 0:
        raise MemoryError
    try:
        wanted.known = cython.address(known)
        return select(region, cython.address(wanted))
    finally:
        flowset_close(cython.address(known))


def in_use(buffer: object) -> tuple[int, int]:
    """How many TCBs are in use, and how many of them have not ended: the others a program has not closed yet.

    When a replica takes no new connections and the first is 0, nothing is left of it.
    """
    region: Region = Region(buffer)
    tcbs: cython.pointer[cython.const[Tcb]] = tcbs_of(region)
    used: uint32_t = used_of(cython.address(region.header))
    count: uint32_t = 0
    ended: uint32_t = 0
    i: uint32_t
    with cython.nogil:
        for i in range(1, used):
            if tcbs[i].state != State.FREE:
                count += 1
                ended += tcbs[i].state == State.CLOSED
    return count, count - ended


def strays(buffer: object) -> tuple[int, bytes]:
    """Segments of no connection of the replica that it has ever seen, SYNs apart, and the flows of the last of them.

    At most the last 64, the oldest first. With more than one replica such a segment is either late, or it was steered
    to the wrong one: then another `owns` the flow.
    """
    region: Region = Region(buffer)
    total: uint64_t = region.header.strays.total
    kept: uint64_t = total if total < STRAYS else STRAYS
    ordered: SteerFlow[STRAYS]
    k: uint64_t
    for k in range(kept):
        ordered[k] = region.header.strays.flow[(total - kept + k) & (STRAYS - 1)]
    return total, PyBytes_FromStringAndSize(cython.cast(cython.p_char, ordered), kept * cython.sizeof(SteerFlow))
