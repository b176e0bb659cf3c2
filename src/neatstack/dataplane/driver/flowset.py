"""A set of flow records: open addressing with linear probing, at most half full."""

import cython
from cython.cimports.libc.errno import ENOMEM
from cython.cimports.libc.stdint import uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcmp, memcpy
from cython.cimports.neatstack.dataplane.driver.flowset import WORDS, FlowSet
from cython.cimports.neatstack.dataplane.driver.maps import SteerFlow

MIX = cython.declare(uint64_t, 0x9E3779B97F4A7C15)  # odd; the multiplication carries every bit to the top


def flowset_open(set: cython.pointer[FlowSet], most: uint64_t) -> cython.int:
    size: uint64_t = 16
    while size < 2 * most:
        size *= 2
    set.mask = size - 1
    set.slots = cython.cast(cython.pointer[uint64_t], calloc(size, cython.sizeof(SteerFlow)))
    return 0 if set.slots else -ENOMEM


def flowset_close(set: cython.pointer[FlowSet]) -> cython.void:
    free(set.slots)
    set.slots = cython.NULL


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def place(
    set: cython.pointer[cython.const[FlowSet]], word: cython.pointer[cython.const[uint64_t]]
) -> cython.pointer[uint64_t]:
    """The slot that the flow is in, or else would go into."""
    mixed: uint64_t = 0
    k: cython.int
    for k in range(WORDS):
        mixed = (mixed ^ mixed >> 32 ^ word[k]) * MIX
    at: uint64_t = (mixed >> 32) & set.mask
    slot: cython.pointer[uint64_t] = set.slots + WORDS * at
    while slot[WORDS - 1] and memcmp(slot, word, cython.sizeof(SteerFlow)) != 0:
        at = (at + 1) & set.mask
        slot = set.slots + WORDS * at
    return slot


def flowset_add(set: cython.pointer[FlowSet], flow: cython.pointer[cython.const[SteerFlow]]) -> cython.void:
    word: uint64_t[WORDS]
    memcpy(word, flow, cython.sizeof(SteerFlow))
    memcpy(place(set, word), word, cython.sizeof(SteerFlow))


def flowset_has(
    set: cython.pointer[cython.const[FlowSet]], flow: cython.pointer[cython.const[SteerFlow]]
) -> cython.bint:
    word: uint64_t[WORDS]
    memcpy(word, flow, cython.sizeof(SteerFlow))
    slot: cython.pointer[uint64_t] = place(set, word)
    return slot[WORDS - 1] != 0


def flowset_of(
    set: cython.pointer[FlowSet], flows: cython.pointer[cython.const[SteerFlow]], count: uint64_t
) -> cython.int:
    k: uint64_t
    if flowset_open(set, count) < 0:
        return -ENOMEM
    for k in range(count):
        flowset_add(set, cython.address(flows[k]))
    return 0
