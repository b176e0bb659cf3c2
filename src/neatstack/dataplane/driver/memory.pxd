"""A device for tests: frames are put in and taken out by the process itself."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from neatstack.dataplane.driver.device cimport Device

cdef enum:
    LARGEST = 131072         # bytes of one frame

cdef struct Stored:          # a frame in a queue, its bytes allocated
    uint8_t *data
    uint32_t length
    uint16_t gso_size
    uint8_t checked

cdef struct Queue:
    Stored *frames
    uint32_t first
    uint32_t count
    uint32_t room

cdef struct MemoryDevice:
    Queue arrivals
    Queue lent               # frames that the last receive() has handed out
    Queue departures

cdef int memory_device(Device *device) noexcept nogil    # 0, or -ENOMEM
cdef void memory_close(Device *device) noexcept nogil
cdef int memory_put(Device *device, const uint8_t *data, uint32_t length, bint checked, uint16_t gso_size) noexcept nogil  # 0, or -ENOMEM
cdef bint memory_untaken(Device *device, Stored *frame) noexcept nogil # False: none; else the caller frees frame.data
cdef bint memory_take(Device *device, Stored *frame) noexcept nogil    # False: none; else the caller frees frame.data
