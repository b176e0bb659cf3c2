"""Received frames in memory that outlives the process, until what they have changed is committed."""

from libc.stdint cimport uint8_t, uint32_t

from neatstack.dataplane.driver.device cimport Frame, Inbox

cdef int stow(Inbox *inbox, uint8_t *memory, Frame *frames, int count) noexcept nogil
cdef bint kept_frame(const Inbox *inbox, uint8_t *memory, uint32_t k, Frame *frame) noexcept nogil
