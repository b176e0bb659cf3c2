"""A device for tests: frames are put in and taken out by the process itself.

What is sent is stored whole, its TCP checksum completed as the real device would; a segment that the device would cut
(GSO) stays one frame, with the size that it would be cut to.
"""

import cython
from cython.cimports.libc.errno import EMSGSIZE, ENOMEM
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t
from cython.cimports.libc.stdlib import calloc, free, malloc
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.neatstack.dataplane.driver.device import FRAME_BYTES, Device, Frame, Outgoing
from cython.cimports.neatstack.dataplane.driver.memory import LARGEST, MemoryDevice, Queue, Stored
from cython.cimports.neatstack.dataplane.wire.bytes import set16
from cython.cimports.neatstack.dataplane.wire.checksum import add, fold


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def push(q: cython.pointer[Queue], frame: cython.pointer[Stored]) -> cython.int:
    """Append; 0, or -ENOMEM."""
    if q.first + q.count == q.room:
        if q.first > q.count:
            memcpy(q.frames, q.frames + q.first, q.count * cython.sizeof(Stored))
        else:
            room: uint32_t = q.room * 2 + 64
            more: cython.pointer[Stored] = cython.cast(
                cython.pointer[Stored], malloc(cython.cast(cython.size_t, room) * cython.sizeof(Stored))
            )
            if more == cython.NULL:
                return -ENOMEM
            if q.count:
                memcpy(more, q.frames + q.first, q.count * cython.sizeof(Stored))
            free(q.frames)
            q.frames = more
            q.room = room
        q.first = 0
    q.frames[q.first + q.count] = frame[0]
    q.count += 1
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def pop(q: cython.pointer[Queue], frame: cython.pointer[Stored]) -> cython.bint:
    if not q.count:
        return False
    frame[0] = q.frames[q.first]
    q.first += 1
    q.count -= 1
    return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def clear(q: cython.pointer[Queue]) -> cython.void:
    frame: Stored
    while pop(q, cython.address(frame)):
        free(frame.data)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def receive(device: cython.pointer[Device], frames: cython.pointer[Frame], most: cython.int) -> cython.int:
    m: cython.pointer[MemoryDevice] = cython.cast(cython.pointer[MemoryDevice], device.self)
    frame: Stored
    count: cython.int = 0
    size: uint32_t = 0
    clear(cython.address(m.lent))
    while count < most and size < FRAME_BYTES and pop(cython.address(m.arrivals), cython.address(frame)):
        if push(cython.address(m.lent), cython.address(frame)) < 0:
            free(frame.data)
            return -ENOMEM
        frames[count].data = frame.data
        frames[count].length = frame.length
        frames[count].gso_size = frame.gso_size
        frames[count].checked = frame.checked
        size += frame.length
        count += 1
    return count


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def send(device: cython.pointer[Device], out: cython.pointer[cython.const[Outgoing]]) -> cython.int:
    m: cython.pointer[MemoryDevice] = cython.cast(cython.pointer[MemoryDevice], device.self)
    frame: Stored
    frame.length = out.header_length + out.first_length + out.second_length
    frame.gso_size = out.gso_size
    frame.checked = 0
    if frame.length > LARGEST:
        return -EMSGSIZE
    frame.data = cython.cast(cython.pointer[uint8_t], malloc(frame.length))
    if frame.data == cython.NULL:
        return -ENOMEM
    memcpy(frame.data, out.header, out.header_length)
    if out.first_length:
        memcpy(frame.data + out.header_length, out.first, out.first_length)
    if out.second_length:
        memcpy(frame.data + out.header_length + out.first_length, out.second, out.second_length)
    start: uint32_t = out.checksum_start
    total: uint16_t
    if start:
        total = fold(add(0, frame.data + start, frame.length - start))
        # as the kernel does: of UDP a sum of 0 is sent as all ones (RFC 768), and to TCP both are the same
        set16(frame.data + start + out.checksum_offset, 0xFFFF if total == 0xFFFF else cython.cast(uint16_t, ~total))
    if push(cython.address(m.departures), cython.address(frame)) < 0:
        free(frame.data)
        return -ENOMEM
    return 0


def memory_device(device: cython.pointer[Device]) -> cython.int:
    """Make `device` an empty pair of queues. 0, or -ENOMEM."""
    m: cython.p_void = calloc(1, cython.sizeof(MemoryDevice))
    if m == cython.NULL:
        return -ENOMEM
    device.self = m
    device.fd = -1
    device.receive = receive
    device.send = send
    return 0


def memory_close(device: cython.pointer[Device]) -> cython.void:
    m: cython.pointer[MemoryDevice] = cython.cast(cython.pointer[MemoryDevice], device.self)
    if m == cython.NULL:
        return
    clear(cython.address(m.arrivals))
    clear(cython.address(m.lent))
    clear(cython.address(m.departures))
    free(m.arrivals.frames)
    free(m.lent.frames)
    free(m.departures.frames)
    free(m)
    memset(device, 0, cython.sizeof(Device))


def memory_put(
    device: cython.pointer[Device],
    data: cython.pointer[cython.const[uint8_t]],
    length: uint32_t,
    checked: cython.bint,
    gso_size: uint16_t,
) -> cython.int:
    """A frame arrives. 0, or -ENOMEM."""
    m: cython.pointer[MemoryDevice] = cython.cast(cython.pointer[MemoryDevice], device.self)
    frame: Stored
    frame.data = cython.cast(cython.pointer[uint8_t], malloc(length if length else 1))
    if frame.data == cython.NULL:
        return -ENOMEM
    memcpy(frame.data, data, length)
    frame.length = length
    frame.gso_size = gso_size
    frame.checked = checked
    if push(cython.address(m.arrivals), cython.address(frame)) < 0:
        free(frame.data)
        return -ENOMEM
    return 0


def memory_untaken(device: cython.pointer[Device], frame: cython.pointer[Stored]) -> cython.bint:
    """The oldest frame that has arrived and was not received; the caller frees frame.data. False: none."""
    m: cython.pointer[MemoryDevice] = cython.cast(cython.pointer[MemoryDevice], device.self)
    return pop(cython.address(m.arrivals), frame)


def memory_take(device: cython.pointer[Device], frame: cython.pointer[Stored]) -> cython.bint:
    """The oldest frame that was sent; the caller frees frame.data. False: none."""
    m: cython.pointer[MemoryDevice] = cython.cast(cython.pointer[MemoryDevice], device.self)
    return pop(cython.address(m.departures), frame)
