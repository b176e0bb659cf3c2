"""The writer's end of a capture. While nothing is captured, none of this is called."""

import cython
from cython.cimports.libc.errno import EINVAL
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy
from cython.cimports.neatstack.dataplane.channel.atomic import fence, store64, store_release64
from cython.cimports.neatstack.dataplane.driver.capture import (
    CAPTURE_HEADER,
    CAPTURE_LEAST,
    CAPTURE_MAGIC,
    CAPTURE_OUT,
    CAPTURE_PARTIAL,
    CAPTURE_VERSION,
    CAPTURE_WRAP,
    CaptureRecord,
)
from cython.cimports.neatstack.dataplane.driver.device import Frame, Outgoing
from cython.cimports.neatstack.dataplane.stack import CAPTURES, Capture, CaptureHeader, Stack
from cython.cimports.posix.time import CLOCK_MONOTONIC, clock_gettime, timespec

SECOND = cython.declare(uint64_t, 1000000000)  # ns


def capture_attach(c: cython.pointer[Capture], memory: cython.p_void, size: uint64_t) -> cython.int:
    """Begin to write, or go on where the last incarnation has stopped. -EINVAL: the memory is no such thing.

    The record that it was writing was not published, and is written over.
    """
    header: cython.pointer[CaptureHeader] = cython.cast(cython.pointer[CaptureHeader], memory)
    if size < CAPTURE_HEADER + CAPTURE_LEAST:
        return -EINVAL
    size -= CAPTURE_HEADER
    if size & (size - 1):
        return -EINVAL
    c.header = header
    c.ring = cython.cast(cython.pointer[uint8_t], memory) + CAPTURE_HEADER
    c.size = size
    if header.magic != CAPTURE_MAGIC or header.version != CAPTURE_VERSION or header.size != size:
        header.version = CAPTURE_VERSION
        header.size = size
        header.magic = CAPTURE_MAGIC
    if header.tail > header.head or header.head - header.tail > size or (header.head | header.tail) & 7:
        header.head = (header.head + size + 7) & ~cython.cast(uint64_t, 7)
        store64(cython.address(header.tail), header.head)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def stamp(s: cython.pointer[Stack]) -> uint64_t:
    """The time now: more exact than the batch's, which began some packets ago. Without a device there is only that."""
    now: timespec
    if s.device.fd < 0:
        return s.now
    clock_gettime(CLOCK_MONOTONIC, cython.address(now))
    return cython.cast(uint64_t, now.tv_sec) * SECOND + cython.cast(uint64_t, now.tv_nsec)


def capture_in(s: cython.pointer[Stack], frames: cython.pointer[cython.const[Frame]], count: cython.int) -> cython.void:
    """Frames have come."""
    at: uint64_t = stamp(s)
    to: cython.pointer[uint8_t]
    k: cython.int
    n: cython.int
    for k in range(count):
        flags: uint16_t = CAPTURE_PARTIAL if frames[k].checked else 0
        for n in range(CAPTURES):
            if s.captures[n].header != cython.NULL:
                to = begin(cython.address(s.captures[n]), at, flags, frames[k].gso_size, frames[k].length)
                if to != cython.NULL:
                    memcpy(to, frames[k].data, frames[k].length)
                    publish(cython.address(s.captures[n]), frames[k].length)


def capture_out(s: cython.pointer[Stack], out: cython.pointer[cython.const[Outgoing]]) -> cython.void:
    """A segment has left."""
    length: uint32_t = out.header_length + out.first_length + out.second_length
    at: uint64_t = stamp(s)
    to: cython.pointer[uint8_t]
    flags: uint16_t = CAPTURE_OUT | (CAPTURE_PARTIAL if out.checksum_start else 0)
    n: cython.int
    for n in range(CAPTURES):
        if s.captures[n].header != cython.NULL:
            to = begin(cython.address(s.captures[n]), at, flags, out.gso_size, length)
            if to != cython.NULL:
                memcpy(to, out.header, out.header_length)
                to += out.header_length
                if out.first_length:
                    memcpy(to, out.first, out.first_length)
                if out.second_length:
                    memcpy(to + out.first_length, out.second, out.second_length)
                publish(cython.address(s.captures[n]), length)


def capture_bytes(
    c: cython.pointer[Capture],
    at: uint64_t,
    flags: uint16_t,
    data: cython.pointer[cython.const[uint8_t]],
    length: uint32_t,
) -> cython.void:
    """A frame of somebody who is no replica."""
    to: cython.pointer[uint8_t] = begin(c, at, flags, 0, length)
    if to != cython.NULL:
        memcpy(to, data, length)
        publish(c, length)


# ---- the ring ----


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def room(length: uint32_t) -> uint64_t:
    """Bytes of the record of a frame of that length."""
    return (cython.sizeof(CaptureRecord) + cython.cast(uint64_t, length) + 7) & ~cython.cast(uint64_t, 7)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def begin(
    c: cython.pointer[Capture], at: uint64_t, flags: uint16_t, gso_size: uint16_t, length: uint32_t
) -> cython.pointer[uint8_t]:
    """Make room for a frame, over the oldest ones, and say where its bytes go. NULL: it is too long, and missing.

    Who reads looks at the tail after it has copied: what lies before it may have been overwritten meanwhile. So the
    tail moves on first.
    """
    header: cython.pointer[CaptureHeader] = c.header
    record: cython.pointer[CaptureRecord]
    place: uint64_t = header.head & (c.size - 1)
    need: uint64_t = room(length)
    number: uint64_t = header.written
    header.written += 1
    if need > c.size // 2:
        return cython.NULL
    c.next = header.head
    if c.size - place < need:
        c.next += c.size - place
    if c.next + need - header.tail > c.size:
        make_room(c, c.next + need - c.size)
    if c.next != header.head:
        cython.cast(cython.pointer[CaptureRecord], c.ring + place).length = CAPTURE_WRAP
        place = 0
    record = cython.cast(cython.pointer[CaptureRecord], c.ring + place)
    record.length = length
    record.gso_size = gso_size
    record.flags = flags
    record.number = number
    record.at = at
    return c.ring + place + cython.sizeof(CaptureRecord)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def make_room(c: cython.pointer[Capture], least: uint64_t) -> cython.void:
    """Move the tail to the first record that begins at `least` or later."""
    tail: uint64_t = c.header.tail
    length: uint32_t
    while tail < least and tail < c.header.head:
        length = cython.cast(cython.pointer[CaptureRecord], c.ring + (tail & (c.size - 1))).length
        if length == CAPTURE_WRAP:
            tail = (tail | (c.size - 1)) + 1
        else:
            tail += room(length)
    if tail > c.header.head or tail < least:  # nothing is left, or something is wrong with it
        tail = c.next
    store64(cython.address(c.header.tail), tail)
    fence()


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def publish(c: cython.pointer[Capture], length: uint32_t) -> cython.void:
    store_release64(cython.address(c.header.head), c.next + room(length))
