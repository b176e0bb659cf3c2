"""The queue of frames from this replica to itself: own addresses and 127.0.0.0/8.

A ring of records, each the frame's length and then the frame in one piece; a record that would not fit before the
ring's end begins at its start. An empty queue begins at the start again, so that a little traffic touches little
memory.
"""

import cython
from cython.cimports.libc.errno import ENOMEM
from cython.cimports.libc.stdint import uint8_t, uint32_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcpy
from cython.cimports.neatstack.dataplane.driver.device import Frame, Outgoing
from cython.cimports.neatstack.dataplane.driver.loopback import LOOP_SIZE
from cython.cimports.neatstack.dataplane.stack import Stack

WRAP = cython.declare(uint32_t, 0xFFFFFFFF)  # instead of a length: the next record is at the start


def init_loopback(s: cython.pointer[Stack]) -> cython.int:
    s.loop = cython.cast(cython.pointer[uint8_t], calloc(1, LOOP_SIZE))
    s.loop_size = LOOP_SIZE
    s.loop_head = s.loop_tail = 0
    return 0 if s.loop != cython.NULL else -ENOMEM


def destroy_loopback(s: cython.pointer[Stack]) -> cython.void:
    free(s.loop)
    s.loop = cython.NULL


def put_loopback(s: cython.pointer[Stack], out: cython.pointer[cython.const[Outgoing]]) -> cython.bint:
    """Copy a planned segment into the queue. False: there is no room (TCP will send it again)."""
    length: uint32_t = out.header_length + out.first_length + out.second_length
    record: uint32_t = (4 + length + 7) & ~cython.cast(uint32_t, 7)
    at: cython.pointer[uint8_t]
    if s.loop_head >= s.loop_tail:
        if s.loop_size - s.loop_head < record + 8:  # 8: room for the mark, always
            if s.loop_tail <= record:
                return False
            cython.cast(cython.pointer[uint32_t], s.loop + s.loop_head)[0] = WRAP
            s.loop_head = 0
    elif s.loop_tail - s.loop_head <= record:
        return False
    at = s.loop + s.loop_head
    cython.cast(cython.pointer[uint32_t], at)[0] = length
    memcpy(at + 4, out.header, out.header_length)
    if out.first_length:
        memcpy(at + 4 + out.header_length, out.first, out.first_length)
    if out.second_length:
        memcpy(at + 4 + out.header_length + out.first_length, out.second, out.second_length)
    s.loop_head += record
    return True


def take_loopback(s: cython.pointer[Stack], frame: cython.pointer[Frame]) -> cython.bint:
    """The oldest frame. False: there is none."""
    if s.loop_head == s.loop_tail:
        s.loop_head = s.loop_tail = 0
        return False
    length: uint32_t = cython.cast(cython.pointer[uint32_t], s.loop + s.loop_tail)[0]
    if length == WRAP:
        s.loop_tail = 0
        length = cython.cast(cython.pointer[uint32_t], s.loop)[0]
    frame.data = s.loop + s.loop_tail + 4
    frame.length = length
    frame.gso_size = 0
    frame.checked = 1
    s.loop_tail += (4 + length + 7) & ~cython.cast(uint32_t, 7)
    return True
