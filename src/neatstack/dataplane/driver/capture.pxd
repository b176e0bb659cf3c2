"""Packets given away to whoever captures them: rings that the replica writes and another process reads.

A capture has one memory for each replica, and one for link: a page with the header, then the ring. Only the replica
writes it, whoever captures maps it read-only, so neither can harm or delay the other: what is not read in time is
overwritten, and the numbers of the records tell how many are missing.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from neatstack.dataplane.driver.device cimport Frame, Outgoing
from neatstack.dataplane.stack cimport Capture, CaptureHeader, Stack

cdef enum:
    CAPTURE_MAGIC = 0x50414354   # "TCAP"
    CAPTURE_VERSION = 1
    CAPTURE_HEADER = 4096        # bytes in front of the ring
    CAPTURE_LEAST = 262144       # bytes of a ring: room for some of the largest frames
    CAPTURE_WRAP = 0xFFFFFFFF    # instead of a length: the next record is at the ring's start

cdef enum CaptureFlag:
    CAPTURE_OUT = 1          # it has left, else it has come
    CAPTURE_PARTIAL = 2      # its transport checksum is not complete: the device does that

cdef struct CaptureRecord:   # in front of each frame; all of it padded to 8 bytes
    uint32_t length
    uint16_t gso_size        # payload bytes in each segment on a wire; 0: one segment
    uint16_t flags           # enum CaptureFlag
    uint64_t number          # counts up by one
    uint64_t at              # CLOCK_MONOTONIC, ns

cdef int capture_attach(Capture *c, void *memory, uint64_t size) noexcept nogil      # 0, or -EINVAL
cdef void capture_in(Stack *s, const Frame *frames, int count) noexcept nogil
cdef void capture_out(Stack *s, const Outgoing *out) noexcept nogil
cdef void capture_bytes(Capture *c, uint64_t at, uint16_t flags, const uint8_t *data, uint32_t length) noexcept nogil
