"""One random bit of a replica's memory, turned over: what a failing memory cell or a stray store would do.

Chosen among all bytes in use, of the state region and of the private structures beside it.
"""

import cython
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t
from cython.cimports.neatstack.dataplane.engine import Engine
from cython.cimports.neatstack.dataplane.stack import (
    HOLD_SIZE,
    MAX_LISTENERS,
    AcceptQueue,
    Counters,
    Listener,
    RegionHeader,
    Stack,
    View,
)
from cython.cimports.neatstack.dataplane.tcp.tcb import Tcb


@cython.cfunc
def parts(s: cython.pointer[Stack]) -> list:
    """Name, address, and length in bytes of each part."""
    used: uint64_t = s.tcbs_used
    flows: uint64_t = cython.cast(uint64_t, s.flows_mask) + 1
    found: list = []

    def add(name: str, at: int, length: int) -> None:
        found.append((name, at, length))

    add("region: header", cython.cast(uint64_t, s.region), cython.sizeof(RegionHeader))
    add("region: counters", cython.cast(uint64_t, s.counters), cython.sizeof(Counters))
    add("region: listeners", cython.cast(uint64_t, s.listeners), MAX_LISTENERS * cython.sizeof(Listener))
    add("region: connections", cython.cast(uint64_t, s.tcbs), used * cython.sizeof(Tcb))
    add("region: hold buffers", cython.cast(uint64_t, s.holds), s.holds_used * HOLD_SIZE)
    add("heap: stack", cython.cast(uint64_t, s), cython.sizeof(Stack))
    add("heap: views", cython.cast(uint64_t, s.views), used * cython.sizeof(View))
    add("heap: flows", cython.cast(uint64_t, s.flows), flows * cython.sizeof(uint64_t))
    add("heap: dirty list", cython.cast(uint64_t, s.dirty), used * cython.sizeof(uint32_t))
    add("heap: accept queues", cython.cast(uint64_t, s.queues), MAX_LISTENERS * cython.sizeof(AcceptQueue))
    return found


def sizes(engine: Engine) -> dict[str, int]:
    """Bytes in use of each part."""
    return {name: length for name, _, length in parts(engine.s)}


@cython.cfunc
def turn(at: uint64_t, bit: cython.int) -> object:
    octet: cython.pointer[uint8_t] = cython.cast(cython.pointer[uint8_t], at)
    octet[0] ^= cython.cast(uint8_t, 1 << bit)


def flip_in(engine: Engine, part: str, byte: int, bit: int) -> None:
    """Turn over this bit of a part, as flip() names them."""
    for name, at, length in parts(engine.s):
        if name == part and 0 <= byte < length:
            turn(at + byte, bit)
            return
    raise ValueError(f"no byte {byte} in use of {part}")


def flip(engine: Engine, seed: int) -> str:
    """Turn over the bit that `seed` chooses; where it was."""
    choice = parts(engine.s)
    bits = 8 * sum(length for _, _, length in choice)
    # seeds may follow each other, so they are scattered (splitmix64); `random` would have to be loaded for this alone
    number = (seed + 1) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    number = (number ^ number >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    place, bit = divmod((number ^ number >> 31) % bits, 8)
    for name, at, length in choice:
        if place < length:
            turn(at + place, bit)
            return f"{name}, byte {place}, bit {bit}"
        place -= length
    raise ValueError("no memory in use")
