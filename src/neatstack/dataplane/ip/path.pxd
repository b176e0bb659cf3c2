"""What the paths to other hosts can carry."""

from libc.stdint cimport uint16_t, uint32_t

from neatstack.dataplane.channel.address cimport Address
from neatstack.dataplane.stack cimport Stack

cdef uint32_t path_mtu(Stack *s, Address remote_be) noexcept nogil            # less than the device's; 0: nothing is known
cdef bint is_narrow(Stack *s, Address remote_be) noexcept nogil               # less than we believe: routers have to cut
cdef uint32_t learn_path(Stack *s, Address remote_be, uint32_t mtu, uint32_t length) noexcept nogil
cdef void recall_paths(Stack *s) noexcept nogil
cdef uint16_t own_identification(Stack *s, uint32_t count) noexcept nogil
