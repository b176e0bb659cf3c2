"""A bad link: wraps any device."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from neatstack.dataplane.driver.device cimport Device, Outgoing

cdef enum:
    BATCH = 64               # frames taken from the device at one time
    LATE = 32                # frames of each direction that are held back at one time

cdef struct Faults:          # probabilities for each frame in each direction, of 2**32
    uint64_t drop
    uint64_t duplicate
    uint64_t reorder
    uint64_t corrupt

cdef struct Late:            # a frame that others overtake
    uint8_t *data            # NULL: unused entry
    uint32_t length
    uint32_t after           # frames that still have to go before it
    uint8_t checked
    Outgoing out             # of a frame to be sent: its payload lies in data

cdef struct FaultyDevice:
    Device device            # what is wrapped
    Faults faults
    uint64_t random          # xorshift state
    uint64_t injected        # faults so far
    Late arrivals[LATE]
    Late departures[LATE]
    uint8_t *lent[BATCH]     # memory of late frames that the last receive() has handed out
    uint32_t lent_count

cdef int fault_device(Device *device, uint64_t seed, double drop, double duplicate, double reorder, double corrupt) noexcept nogil
cdef void fault_close(Device *device) noexcept nogil     # `device` is what was wrapped again
cdef bint is_faulty(const Device *device) noexcept nogil
