"""A new incarnation takes over what the last one has left."""

from libc.stdint cimport uint32_t

from neatstack.dataplane.stack cimport Stack

cdef enum Manner:
    ADOPT_ALL                # the last incarnation was killed from outside
    ADOPT_SUSPECT            # it broke: the connection that it had in hand is reset
    ADOPT_NOTHING            # it broke again: every connection is reset, and the peers are told

cdef struct Adoption:
    uint32_t kept            # connections that go on
    uint32_t lost            # that are reset: in hand when the last incarnation broke, damaged, or their program gone

cdef struct Order:
    Stack *s
    Manner manner
    int failed               # -ENOMEM
    Adoption result

cdef void adopt_as(void *order) noexcept nogil      # adopt(), as a Work: see death.pxd
cdef int adopt(Stack *s, Manner manner, Adoption *result) noexcept nogil   # 0, or -ENOMEM
