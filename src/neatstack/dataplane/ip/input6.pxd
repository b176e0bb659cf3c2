"""An IPv6 packet has come in."""

from neatstack.dataplane.driver.device cimport Frame
from neatstack.dataplane.stack cimport Stack

cdef void frame6_arrives(Stack *s, Frame *frame) noexcept nogil
