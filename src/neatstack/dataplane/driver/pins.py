# distutils: libraries = bpf
"""Flow pins by the hundred thousand: the steering program's map of exceptions, read and written in batches.

A flow is a record of 16 bytes, struct neat_steer_flow; many are their concatenation. Everything here runs without the
GIL, for a few tens of milliseconds at most, and may be called in a thread. Calls raise OSError with a clear text.
"""

import os
from typing import NamedTuple

import cython
from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cython.cimports.libc.errno import E2BIG, ENOENT, ENOMEM, ENOSPC, errno
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import free, malloc, realloc
from cython.cimports.libc.string import memset
from cython.cimports.neatstack.dataplane.driver.bpf import (
    BatchOptions,
    bpf_map_delete_batch,
    bpf_map_lookup_batch,
    bpf_map_update_batch,
)
from cython.cimports.neatstack.dataplane.driver.flowhash import bucket, flow_hash
from cython.cimports.neatstack.dataplane.driver.flowset import FlowSet, flowset_close, flowset_has, flowset_of
from cython.cimports.neatstack.dataplane.driver.maps import NEAT_STEER_BUCKETS, NEAT_STEER_PINS, SteerFlow

RECORD = 40  # bytes of a flow
CHUNK = cython.declare(uint32_t, 8192)  # pins for one system call
NO_OPTIONS = cython.declare(cython.pointer[cython.const[BatchOptions]], cython.NULL)
QUEUES = cython.declare(uint32_t, 256)  # that a pin may name

if cython.sizeof(SteerFlow) != RECORD:
    raise ImportError("a flow record has another size")


class Pins(NamedTuple):
    """Pins as the kernel has them: `flows` are records, `replicas` as many unsigned 32-bit numbers."""

    flows: bytes
    replicas: bytes

    def __len__(self) -> int:
        """How many pins."""
        return len(self.replicas) // 4


@cython.cfunc
def check(result: cython.int, what: str):
    """Negative errno becomes an exception."""
    if result < 0:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")


@cython.cfunc
def count_of(flows: bytes) -> uint32_t:
    count, rest = divmod(len(flows), RECORD)
    if rest:
        raise ValueError(f"{len(flows)} bytes are no whole number of flows")
    return count


@cython.cfunc
def records(flows: bytes) -> cython.pointer[SteerFlow]:
    """Where they lie: as long as somebody holds `flows`."""
    return cython.cast(cython.pointer[SteerFlow], PyBytes_AS_STRING(flows))


# ---- writing ----


def put_pins(fd: cython.int, flows: bytes, replica: int) -> None:
    """Pin all these flows to `replica`, also those that were pinned to another. OSError ENOSPC: there is no room."""
    count: uint32_t = count_of(flows)
    flow: cython.pointer[SteerFlow] = records(flows)
    owner: uint32_t = replica
    failed: cython.int
    with cython.nogil:
        failed = put_all(fd, flow, count, owner)
    if failed == -E2BIG:
        raise OSError(ENOSPC, f"cannot pin {count} flows: no room for more than {NEAT_STEER_PINS}")
    check(failed, f"cannot pin {count} flows")


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def put_all(fd: cython.int, flow: cython.pointer[SteerFlow], count: uint32_t, replica: uint32_t) -> cython.int:
    owners: uint32_t[1024]
    done: uint32_t = 0
    k: uint32_t
    for k in range(1024):
        owners[k] = replica
    while done < count:
        k = count - done if count - done < 1024 else 1024
        if bpf_map_update_batch(fd, flow + done, owners, cython.address(k), NO_OPTIONS) < 0:
            return -errno
        done += k
    return 0


def remove_pins(fd: cython.int, flows: bytes) -> None:
    """Forget the pins of all these flows; it is no error if one has none."""
    count: uint32_t = count_of(flows)
    flow: cython.pointer[SteerFlow] = records(flows)
    failed: cython.int
    with cython.nogil:
        failed = remove_all(fd, flow, count)
    check(failed, f"cannot take back {count} pins")


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def remove_all(fd: cython.int, flow: cython.pointer[SteerFlow], count: uint32_t) -> cython.int:
    done: uint32_t = 0
    k: uint32_t
    while done < count:
        k = count - done if count - done < CHUNK else CHUNK
        if bpf_map_delete_batch(fd, flow + done, cython.address(k), NO_OPTIONS) < 0:
            if errno != ENOENT:
                return -errno
            k += 1  # it stops before one that is not there
        done += k
    return 0


# ---- reading ----

Listing = cython.struct(
    flows=cython.pointer[SteerFlow], replicas=cython.pointer[uint32_t], count=uint64_t, room=uint64_t
)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def make_room(all: cython.pointer[Listing]) -> cython.int:
    """For one more chunk."""
    room: uint64_t = 2 * (all.room + CHUNK)
    if all.count + CHUNK <= all.room:
        return 0
    flows: cython.p_void = realloc(all.flows, room * cython.sizeof(SteerFlow))
    if flows == cython.NULL:
        return -ENOMEM
    all.flows = cython.cast(cython.pointer[SteerFlow], flows)
    replicas: cython.p_void = realloc(all.replicas, room * cython.sizeof(uint32_t))
    if replicas == cython.NULL:
        return -ENOMEM
    all.replicas = cython.cast(cython.pointer[uint32_t], replicas)
    all.room = room
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def list_all(fd: cython.int, all: cython.pointer[Listing]) -> cython.int:
    at: uint64_t = 0  # the kernel's own notion of where it is
    first: cython.bint = True
    count: uint32_t
    result: cython.int = 0
    while result == 0:
        if make_room(all) < 0:
            return -ENOMEM
        count = CHUNK
        if bpf_map_lookup_batch(
            fd,
            cython.NULL if first else cython.address(at),
            cython.address(at),
            all.flows + all.count,
            all.replicas + all.count,
            cython.address(count),
            NO_OPTIONS,
        ) < 0:  # fmt: skip
            result = -errno
        if result == 0 or result == -ENOENT:  # ENOENT: the last of them
            all.count += count
        first = False
    return 0 if result == -ENOENT else result


def read_pins(fd: cython.int) -> Pins:
    """All pins. Those set or removed meanwhile may or may not be among them."""
    all: Listing
    failed: cython.int
    memset(cython.address(all), 0, cython.sizeof(all))
    try:
        with cython.nogil:
            failed = list_all(fd, cython.address(all))
        check(failed, "cannot read the pins")
        return Pins(
            PyBytes_FromStringAndSize(cython.cast(cython.p_char, all.flows), all.count * cython.sizeof(SteerFlow)),
            PyBytes_FromStringAndSize(cython.cast(cython.p_char, all.replicas), all.count * cython.sizeof(uint32_t)),
        )
    finally:
        free(all.flows)
        free(all.replicas)


def count_by_replica(pins: Pins) -> dict[int, int]:
    """How many pins each replica has; those that have none are left out."""
    counts: uint64_t[256]
    replicas: bytes = pins.replicas
    replica: cython.pointer[uint32_t] = cython.cast(cython.pointer[uint32_t], PyBytes_AS_STRING(replicas))
    count: uint64_t = len(replicas) // 4
    k: uint64_t
    with cython.nogil:
        memset(counts, 0, cython.sizeof(counts))
        for k in range(count):
            if replica[k] < QUEUES:
                counts[replica[k]] += 1
    return {number: counts[number] for number in range(QUEUES) if counts[number]}


# ---- which are needed no more ----

Chosen = cython.struct(flows=cython.pointer[SteerFlow], count=uint64_t)


@cython.cfunc
def taken(chosen: cython.pointer[Chosen]) -> bytes:
    """The flows as bytes; their memory is given back."""
    try:
        return PyBytes_FromStringAndSize(
            cython.cast(cython.p_char, chosen.flows), chosen.count * cython.sizeof(SteerFlow)
        )
    finally:
        free(chosen.flows)


@cython.cfunc
def room_for(chosen: cython.pointer[Chosen], count: uint64_t):
    chosen.count = 0
    chosen.flows = cython.cast(cython.pointer[SteerFlow], malloc(count * cython.sizeof(SteerFlow) + 1))
    if chosen.flows == cython.NULL:
        raise MemoryError


def dead_pins(pins: Pins, replica: int, live: bytes) -> bytes:
    """The flows that are pinned to `replica` and are not among `live`, the flows that it has (in any order).

    A flow whose first packet is still in the replica's queue is among them: only one that is found twice, with the
    queue looked at in between, is dead. Read the pins first, then what is live.
    """
    chosen: Chosen
    alive: FlowSet
    flows: bytes = pins.flows
    replicas: bytes = pins.replicas
    flow: cython.pointer[SteerFlow] = records(flows)
    owner: cython.pointer[uint32_t] = cython.cast(cython.pointer[uint32_t], PyBytes_AS_STRING(replicas))
    living: cython.pointer[SteerFlow] = records(live)
    living_count: uint64_t = count_of(live)
    wanted: uint32_t = replica
    count: uint64_t = count_of(flows)
    failed: cython.int
    k: uint64_t
    room_for(cython.address(chosen), count)
    with cython.nogil:
        failed = flowset_of(cython.address(alive), living, living_count)
        if not failed:
            for k in range(count):
                if owner[k] == wanted and not flowset_has(cython.address(alive), cython.address(flow[k])):
                    chosen.flows[chosen.count] = flow[k]
                    chosen.count += 1
            flowset_close(cython.address(alive))
    if failed:
        free(chosen.flows)
        raise MemoryError
    return taken(cython.address(chosen))


def redundant_pins(pins: Pins, replica: int, keys: tuple[int, int, int], table: list[int]) -> bytes:
    """The flows pinned to `replica` that would go there without a pin.

    `table` is the indirection table as the stack page has it: an entry in motion is nobody's, and its pins are needed.
    """
    chosen: Chosen
    key: uint64_t[3]
    owned: uint8_t[NEAT_STEER_BUCKETS]
    flows: bytes = pins.flows
    replicas: bytes = pins.replicas
    flow: cython.pointer[SteerFlow] = records(flows)
    owner: cython.pointer[uint32_t] = cython.cast(cython.pointer[uint32_t], PyBytes_AS_STRING(replicas))
    wanted: uint32_t = replica
    count: uint64_t = count_of(flows)
    k: uint64_t
    key[0], key[1], key[2] = keys
    for number in range(NEAT_STEER_BUCKETS):
        owned[number] = table[number] == replica
    room_for(cython.address(chosen), count)
    with cython.nogil:
        for k in range(count):
            if owner[k] == wanted and owned[bucket_of(key, cython.address(flow[k]))]:
                chosen.flows[chosen.count] = flow[k]
                chosen.count += 1
    return taken(cython.address(chosen))


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def bucket_of(key: cython.pointer[cython.const[uint64_t]], flow: cython.pointer[cython.const[SteerFlow]]) -> uint32_t:
    return bucket(flow_hash(key, flow.source_be, flow.destination_be, flow.source_port_be, flow.destination_port_be))
