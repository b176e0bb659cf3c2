"""Both ends of a capture's memory, for processes in Python: who captures reads, and link, which is no replica, writes.

What is read is taken for hostile, like anything that a replica may have written: it is copied once, and then checked.
"""

import cython
from cython.cimports.cpython.buffer import PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import free, malloc
from cython.cimports.libc.string import memcpy
from cython.cimports.neatstack.dataplane.channel.atomic import fence, load64, load_acquire64
from cython.cimports.neatstack.dataplane.driver.capture import (
    CAPTURE_HEADER,
    CAPTURE_LEAST,
    CAPTURE_MAGIC,
    CAPTURE_OUT,
    CAPTURE_PARTIAL,
    CAPTURE_VERSION,
    CAPTURE_WRAP,
    CaptureRecord,
    capture_attach,
    capture_bytes,
)
from cython.cimports.neatstack.dataplane.driver.device import FRAME_ROOM
from cython.cimports.neatstack.dataplane.stack import Capture, CaptureHeader
from cython.cimports.neatstack.dataplane.wire.bytes import get16, get32, put16, put32, set16
from cython.cimports.neatstack.dataplane.wire.checksum import add, fold
from cython.cimports.posix.time import CLOCK_MONOTONIC, clock_gettime, timespec

AT_ONCE = cython.declare(uint64_t, 1048576)  # bytes copied before they are looked at
HEADER_SIZE = CAPTURE_HEADER
LEAST_RING = CAPTURE_LEAST
TRIES = 8
ETHERNET = cython.declare(uint32_t, 14)
IPV6_HEADER = cython.declare(uint32_t, 40)
TCP = cython.declare(uint8_t, 6)
UDP = cython.declare(uint8_t, 17)
ICMPV6 = cython.declare(uint8_t, 58)
LAST_FLAGS = cython.declare(uint8_t, 9)  # FIN and PSH belong to the last segment,
FIRST_FLAGS = cython.declare(uint8_t, 128)  # CWR to the first

# Where the transport header is and what it is, once a frame's headers have been read.
Place = cython.struct(version=uint8_t, protocol=uint8_t, at=uint32_t, length=uint32_t, pseudo=uint64_t)


@cython.final
@cython.cclass
class CaptureWriter:
    """Writes frames into a capture's memory; ValueError: it is no such memory."""

    _view: cython.Py_buffer
    _capture: Capture

    def __cinit__(self, memory: object):
        PyObject_GetBuffer(memory, cython.address(self._view), PyBUF_WRITABLE)
        if capture_attach(cython.address(self._capture), self._view.buf, self._view.len) < 0:
            raise ValueError(f"{self._view.len} bytes are no memory for a capture")

    def __dealloc__(self):
        PyBuffer_Release(cython.address(self._view))

    def put(self, frame: bytes, outgoing: bool, at: int | None = None) -> None:
        """A frame, whole and with its checksums, has come or left: now, or at CLOCK_MONOTONIC `at` ns."""
        now: timespec
        data: cython.p_char = frame
        if at is None:
            clock_gettime(CLOCK_MONOTONIC, cython.address(now))
            at = now.tv_sec * 1000000000 + now.tv_nsec
        flags: uint16_t = CAPTURE_OUT if outgoing else 0
        octets: cython.pointer[cython.const[uint8_t]] = cython.cast(cython.pointer[cython.const[uint8_t]], data)
        capture_bytes(cython.address(self._capture), at, flags, octets, len(frame))


@cython.final
@cython.cclass
class CaptureReader:
    """Reads what a process gives away. `memory` may be read-only.

    `taken` and `lost` count frames as they crossed the device: the latter were overwritten before they were read.
    """

    _view: cython.Py_buffer
    _header: cython.pointer[CaptureHeader]
    _ring: cython.pointer[uint8_t]
    _size: uint64_t
    _position: uint64_t
    _number: uint64_t  # of the next record
    _copy: cython.pointer[uint8_t]
    _scratch: cython.pointer[uint8_t]
    _taken: uint64_t
    _lost: uint64_t

    def __cinit__(self, memory: object):
        PyObject_GetBuffer(memory, cython.address(self._view), PyBUF_SIMPLE)
        size: uint64_t = self._view.len - CAPTURE_HEADER if self._view.len > CAPTURE_HEADER else 0
        if size < CAPTURE_LEAST or size & (size - 1):
            raise ValueError(f"{self._view.len} bytes are no memory of a capture")
        self._header = cython.cast(cython.pointer[CaptureHeader], self._view.buf)
        self._ring = cython.cast(cython.pointer[uint8_t], self._view.buf) + CAPTURE_HEADER
        self._size = size
        self._copy = cython.cast(cython.pointer[uint8_t], malloc(AT_ONCE))
        self._scratch = cython.cast(cython.pointer[uint8_t], malloc(FRAME_ROOM))
        if self._copy == cython.NULL or self._scratch == cython.NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self._copy)
        free(self._scratch)
        PyBuffer_Release(cython.address(self._view))

    @property
    def taken(self) -> int:
        return self._taken

    @property
    def lost(self) -> int:
        return self._lost

    def read(self) -> list[tuple[int, bool, bytes]]:
        """What has been written since the last call, or a good deal of it: CLOCK_MONOTONIC ns, whether it left, frame.

        Frames are as they would be on a wire: large segments cut, checksums complete. Empty: there is nothing more.
        """
        found: list = []
        for _ in range(TRIES):
            if self._read(found):
                break
        return found

    @cython.cfunc
    def _read(self, found: list) -> cython.bint:
        """One try; False: the writer was faster."""
        header: cython.pointer[CaptureHeader] = self._header
        if header.magic != CAPTURE_MAGIC or header.version != CAPTURE_VERSION:
            return True  # nobody has begun to write
        head: uint64_t = load_acquire64(cython.address(header.head))
        tail: uint64_t = load64(cython.address(header.tail))
        if tail > self._position or head - self._position > self._size:
            self._position = tail
        if tail > head or head - self._position > self._size or self._position & 7:
            self._position = head  # what its writer says cannot be
            return True
        start: uint64_t = self._position
        length: uint64_t = head - start if head - start < AT_ONCE else AT_ONCE
        place: uint64_t = start & (self._size - 1)
        first: uint64_t = length if length < self._size - place else self._size - place
        memcpy(self._copy, self._ring + place, first)
        memcpy(self._copy + first, self._ring, length - first)
        fence()
        tail = load64(cython.address(header.tail))
        if tail > start:  # what lies before may have been overwritten under our hands
            self._position = tail
            if tail - start >= length:
                return False
        self._records(found, start, length)
        return True

    @cython.cfunc
    def _records(self, found: list, start: uint64_t, length: uint64_t) -> object:
        """Take the whole records of the copy, from the position on."""
        record: cython.pointer[CaptureRecord]
        at: uint64_t = self._position - start
        size: uint64_t
        while length - at >= 8:
            record = cython.cast(cython.pointer[CaptureRecord], self._copy + at)
            if record.length == CAPTURE_WRAP:
                at += self._size - ((start + at) & (self._size - 1))
                self._position = start + at
                if at > length:
                    break
                continue
            size = (cython.sizeof(CaptureRecord) + cython.cast(uint64_t, record.length) + 7) & ~cython.cast(uint64_t, 7)
            if record.length > FRAME_ROOM:
                self._position = start + length  # no record: nothing after it can be found
                return
            if size > length - at:
                break
            self._number = self._number if record.number < self._number else record.number
            self._lost = self._number - self._taken
            self._number += 1
            self._taken += 1
            self._frame(found, record, self._copy + at + cython.sizeof(CaptureRecord))
            at += size
            self._position = start + at

    @cython.cfunc
    def _frame(self, found: list, record: cython.pointer[CaptureRecord], data: cython.pointer[uint8_t]) -> object:
        """One frame, in as many pieces as there would be on a wire."""
        place: Place
        out: cython.bint = record.flags & CAPTURE_OUT != 0
        length: uint32_t = record.length
        known: cython.bint = find_transport(data, length, cython.address(place))
        if known and record.gso_size and place.protocol in (TCP, UDP):
            self._pieces(found, record, data, cython.address(place))
            return
        if known and record.flags & CAPTURE_PARTIAL:
            complete(data, cython.address(place))
        found.append((record.at, out, cython.cast(cython.p_char, data)[:length]))

    @cython.cfunc
    def _pieces(
        self,
        found: list,
        record: cython.pointer[CaptureRecord],
        data: cython.pointer[uint8_t],
        place: cython.pointer[Place],
    ) -> object:
        """Cut a large segment as the device would (RFC 9293 segments, or the datagrams of UDP_SEGMENT)."""
        piece: cython.pointer[uint8_t] = self._scratch
        header: uint32_t = 8
        if place.protocol == TCP:
            header = (data[place.at + 12] >> 4) << 2
        out: cython.bint = record.flags & CAPTURE_OUT != 0
        if header > place.length or header < 8:
            found.append((record.at, out, cython.cast(cython.p_char, data)[: record.length]))
            return
        text: uint32_t = place.length - header
        offset: uint32_t = 0
        size: uint32_t
        number: uint16_t = 0
        while True:
            size = text - offset if text - offset < record.gso_size else record.gso_size
            memcpy(piece, data, place.at + header)
            memcpy(piece + place.at + header, data + place.at + header + offset, size)
            renumber(piece, place, header, offset, size, number, offset + size == text)
            found.append((record.at, out, cython.cast(cython.p_char, piece)[: place.at + header + size]))
            offset += size
            number += 1
            if offset >= text:
                return


# ---- headers ----


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def find_transport(
    data: cython.pointer[cython.const[uint8_t]], length: uint32_t, place: cython.pointer[Place]
) -> cython.bint:
    """Read a frame's headers up to TCP, UDP or ICMPv6. False: it has none, or is a fragment."""
    ip: cython.pointer[cython.const[uint8_t]] = data + ETHERNET
    rest: uint32_t
    if length < ETHERNET + 20:
        return False
    rest = length - ETHERNET
    place.pseudo = 0
    if get16(data + 12) == 0x0800 and ip[0] >> 4 == 4:
        place.version = 4
        place.at = (ip[0] & 15) << 2
        place.protocol = ip[9]
        if place.at < 20 or get16(ip + 2) > rest or get16(ip + 2) < place.at or get16(ip + 6) & 0x3FFF:
            return False
        rest = get16(ip + 2)
        place.pseudo = add(0, ip + 12, 8)
    elif get16(data + 12) == 0x86DD and rest >= IPV6_HEADER and ip[0] >> 4 == 6:
        place.version = 6
        place.at = IPV6_HEADER
        place.protocol = ip[6]
        if get16(ip + 4) > rest - IPV6_HEADER:
            return False
        rest = get16(ip + 4) + IPV6_HEADER
        place.pseudo = add(0, ip + 8, 32)
        while place.protocol in (0, 43, 60):  # hop-by-hop options, routing, destination options (RFC 8200 section 4)
            if rest - place.at < 8 or (ip[place.at + 1] + 1) << 3 > rest - place.at:
                return False
            place.protocol = ip[place.at]
            place.at += (ip[place.at + 1] + 1) << 3
    else:
        return False
    place.length = rest - place.at
    place.at += ETHERNET
    if place.protocol == TCP:
        return place.length >= 20
    return (place.protocol == UDP or place.protocol == ICMPV6 and place.version == 6) and place.length >= 8


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def complete(data: cython.pointer[uint8_t], place: cython.pointer[cython.const[Place]]) -> cython.void:
    """Write the transport checksum. A datagram over IPv4 that has none keeps none (RFC 768)."""
    field: cython.pointer[uint8_t] = data + place.at
    ending: uint8_t[8]
    total: uint16_t
    if place.protocol == TCP:
        field += 16
    elif place.protocol == UDP:
        field += 6
        if place.version == 4 and not (field[0] | field[1]):
            return
    else:
        field += 2
    put32(ending, place.length)
    put32(ending + 4, place.protocol)
    set16(field, 0)
    total = cython.cast(uint16_t, ~fold(add(add(place.pseudo, ending, 8), data + place.at, place.length)))
    set16(field, 0xFFFF if not total and place.protocol == UDP else total)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def renumber(
    piece: cython.pointer[uint8_t],
    place: cython.pointer[cython.const[Place]],
    header: uint32_t,
    offset: uint32_t,
    size: uint32_t,
    number: uint16_t,
    last: cython.bint,
) -> cython.void:
    """Make the headers of a piece right: lengths, identification, sequence number, flags, checksums."""
    ip: cython.pointer[uint8_t] = piece + ETHERNET
    transport: cython.pointer[uint8_t] = piece + place.at
    own: Place = place[0]
    own.length = header + size
    if place.version == 4:
        put16(ip + 2, cython.cast(uint16_t, place.at - ETHERNET + own.length))
        put16(ip + 4, cython.cast(uint16_t, get16(ip + 4) + number))
        set16(ip + 10, 0)
        set16(ip + 10, cython.cast(uint16_t, ~fold(add(0, ip, (ip[0] & 15) << 2))))
    else:
        put16(ip + 4, cython.cast(uint16_t, place.at - ETHERNET - IPV6_HEADER + own.length))
    if place.protocol == TCP:
        put32(transport + 4, get32(transport + 4) + offset)
        if not last:
            transport[13] &= ~LAST_FLAGS
        if number:
            transport[13] &= ~FIRST_FLAGS
    else:
        put16(transport + 4, cython.cast(uint16_t, own.length))
    complete(piece, cython.address(own))
