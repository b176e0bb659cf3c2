"""A frame has come in."""

from neatstack.dataplane.driver.device cimport Frame
from neatstack.dataplane.stack cimport Stack

cdef void frame_arrives(Stack *s, Frame *frame) noexcept nogil
cdef void loopback_arrives(Stack *s, Frame *frame) noexcept nogil
cdef void expire_fragments(Stack *s) noexcept nogil     # of datagrams that are not complete in time
