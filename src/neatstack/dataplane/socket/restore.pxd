"""Slots of channels that the last incarnation has left."""

from libc.stdint cimport uint32_t

from neatstack.dataplane.stack cimport Stack

cdef void restore_slot(Stack *s, uint32_t i) noexcept nogil        # of TCB i; without effect if that slot is gone
cdef bint to_be_looked_at(Stack *s, uint32_t i) noexcept nogil
cdef void recover_slots(Stack *s, uint32_t channel) noexcept nogil
