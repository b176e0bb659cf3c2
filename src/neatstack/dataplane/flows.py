"""The flows of a state region, read by the manager while the replica goes on writing.

A flow is a record of 16 bytes, struct neat_steer_flow (steer.h); many are their concatenation. What says which flow a
TCB has does not change while the connection lasts, so a flow that was there before the look and after it is found.
"""

import cython
from cython.cimports.cpython.buffer import PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import free, malloc
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.neatstack.dataplane.channel.region import valid
from cython.cimports.neatstack.dataplane.driver.flowhash import bucket, flow_hash
from cython.cimports.neatstack.dataplane.driver.flowset import FlowSet, flowset_close, flowset_has, flowset_of
from cython.cimports.neatstack.dataplane.driver.maps import NEAT_STEER_BUCKETS, SteerFlow
from cython.cimports.neatstack.dataplane.stack import STRAYS, RegionHeader, Strays
from cython.cimports.neatstack.dataplane.tcp.tcb import TCB_LOOPBACK, State, Tcb
from cython.cimports.neatstack.dataplane.wire.headers import PROTOCOL_TCP

RECORD = 16  # bytes of a flow


@cython.final
@cython.cclass
class Look:
    """A look into a region, which stays mapped for as long as this lasts. ValueError: it is none of this version."""

    _view: cython.Py_buffer
    strays: Strays
    tcbs: cython.pointer[cython.const[Tcb]]
    used: uint32_t  # TCBs before this one may be in use

    def __cinit__(self, buffer: object):
        header: RegionHeader
        PyObject_GetBuffer(buffer, cython.address(self._view), PyBUF_SIMPLE)
        base: cython.pointer[uint8_t] = cython.cast(cython.pointer[uint8_t], self._view.buf)
        if self._view.len < cython.cast(cython.Py_ssize_t, cython.sizeof(RegionHeader)):
            raise ValueError("not a state region: too short")
        memcpy(cython.address(header), base, cython.sizeof(RegionHeader))
        if not valid(cython.address(header), self._view.len):
            raise ValueError("not a state region of this version")
        self.strays = header.strays
        self.tcbs = cython.cast(cython.pointer[cython.const[Tcb]], base + header.tcbs_at)
        self.used = header.tcbs_used if header.tcbs_used <= header.max_tcbs else header.max_tcbs

    def __dealloc__(self):
        PyBuffer_Release(cython.address(self._view))


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def is_live(t: cython.pointer[cython.const[Tcb]]) -> cython.bint:
    """Whether packets may still come for it: also in TIME-WAIT, and half open."""
    return t.state != State.FREE and t.state != State.CLOSED


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def take_flow(t: cython.pointer[cython.const[Tcb]], flow: cython.pointer[SteerFlow]) -> cython.bint:
    """The flow of a connection as its packets arrive here. False: none do, it is over or with ourselves."""
    if not is_live(t) or t.flags & TCB_LOOPBACK:
        return False
    memset(flow, 0, cython.sizeof(SteerFlow))
    flow.source_be = t.remote_be
    flow.destination_be = t.local_be
    flow.source_port_be = t.remote_port_be
    flow.destination_port_be = t.local_port_be
    flow.protocol = PROTOCOL_TCP
    return True


def live_flows(buffer: object, keys: tuple[int, int, int], buckets: object = None) -> bytes:
    """The flows of all live connections with others, or of those that fall into `buckets` by the hash keys."""
    look: Look = Look(buffer)
    key: uint64_t[3]
    wanted: uint8_t[NEAT_STEER_BUCKETS]
    key[0], key[1], key[2] = keys
    memset(wanted, buckets is None, cython.sizeof(wanted))
    for number in buckets or ():
        wanted[number] = 1
    flows: cython.pointer[SteerFlow] = cython.cast(
        cython.pointer[SteerFlow], malloc(cython.cast(uint64_t, look.used + 1) * cython.sizeof(SteerFlow))
    )
    if flows == cython.NULL:
        raise MemoryError
    count: uint64_t
    with cython.nogil:
        count = collect(look.tcbs, look.used, key, wanted, flows)
    try:
        return PyBytes_FromStringAndSize(cython.cast(cython.p_char, flows), count * cython.sizeof(SteerFlow))
    finally:
        free(flows)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def collect(
    tcbs: cython.pointer[cython.const[Tcb]],
    used: uint32_t,
    key: cython.pointer[uint64_t],
    wanted: cython.pointer[uint8_t],
    flows: cython.pointer[SteerFlow],
) -> uint64_t:
    count: uint64_t = 0
    flow: cython.pointer[SteerFlow]
    hashed: uint32_t
    i: uint32_t
    for i in range(1, used):
        flow = cython.address(flows[count])
        if take_flow(cython.address(tcbs[i]), flow):
            hashed = flow_hash(
                key, flow.source_be, flow.destination_be, flow.source_port_be, flow.destination_port_be
            )
            count += wanted[bucket(hashed)]
    return count


def owns(buffer: object, flows: bytes) -> int:
    """How many of these flows are live here."""
    look: Look = Look(buffer)
    asked: FlowSet
    flow: SteerFlow
    count: uint64_t = len(flows) // RECORD
    found: int = 0
    failed: cython.int = flowset_of(
        cython.address(asked), cython.cast(cython.pointer[SteerFlow], PyBytes_AS_STRING(flows)), count
    )
    if failed:
        raise MemoryError
    i: uint32_t
    hits: uint64_t = 0
    with cython.nogil:
        for i in range(1, look.used):
            if take_flow(cython.address(look.tcbs[i]), cython.address(flow)):
                hits += flowset_has(cython.address(asked), cython.address(flow))
        flowset_close(cython.address(asked))
    found = hits
    return found


def in_use(buffer: object) -> tuple[int, int]:
    """How many TCBs are in use, and how many of them are live: the others a program has not yet closed."""
    look: Look = Look(buffer)
    used: uint32_t = 0
    live: uint32_t = 0
    i: uint32_t
    with cython.nogil:
        for i in range(1, look.used):
            used += look.tcbs[i].state != State.FREE
            live += is_live(cython.address(look.tcbs[i]))
    return used, live


def strays(buffer: object) -> tuple[int, bytes]:
    """How many segments of no connection there ever were, and the flows of the last of them, the latest at the end."""
    look: Look = Look(buffer)
    total: uint64_t = look.strays.total
    at: cython.int = total % STRAYS
    whole: bytes = cython.cast(cython.p_char, look.strays.flows)[: STRAYS * RECORD]
    if total < STRAYS:
        return total, whole[: at * RECORD]
    return total, whole[at * RECORD :] + whole[: at * RECORD]
