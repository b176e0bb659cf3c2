"""TCP_INFO."""

from libc.stdint cimport uint32_t

from neatstack.dataplane.stack cimport Stack

cdef enum:
    UNLIMITED = 0x7FFFFFFF   # segments: ssthresh before there was a loss
    REORDERING = 3           # duplicate acknowledgments that mean a loss; what RACK finds it finds by time

cdef enum InfoOption:        # TCPI_OPT_...
    OPTION_TIMESTAMPS = 1
    OPTION_SACK = 2
    OPTION_WSCALE = 4
    OPTION_ECN = 8
    OPTION_ECN_SEEN = 16
    OPTION_SYN_DATA = 32

cdef enum CaState:           # enum tcp_ca_state
    OPEN
    DISORDER
    CWR
    RECOVERY
    LOSS

cdef void tell_info(Stack *s, uint32_t i) noexcept nogil
