"""What happens when a timer of a connection fires."""

from libc.stdint cimport uint32_t, uint64_t

from neatstack.dataplane.stack cimport Stack

cdef enum:
    SYN_RETRIES = 6          # Linux: tcp_syn_retries
    SYN_ACK_RETRIES = 5      # tcp_synack_retries
    DATA_RETRIES = 15        # tcp_retries2
    ORPHAN_RETRIES = 8       # tcp_orphan_retries: of a connection that no program holds any more
    KEEP_IDLE = 7200         # seconds: RFC 9293 section 3.8.4 (MUST-28), tcp_keepalive_time
    KEEP_INTERVAL = 75       # seconds
    KEEP_COUNT = 9
    DATA_GIVE_UP = 925       # seconds: what DATA_RETRIES come to from the smallest RTO, and the most that they may take
    BLACK_HOLE = 4           # timeouts of full segments in a row (some 3 s at least) before smaller ones are tried
    FIRST_SMALLER = 984      # bytes: in packets of 1,024, Linux's tcp_base_mss
    SMALLEST = 512
    ROUTE_PATIENCE = 3       # seconds for which the next hop's hardware address is waited for

cdef void expire(Stack *s, uint32_t i) noexcept nogil
cdef void keepalive_start(Stack *s, uint32_t i) noexcept nogil
cdef uint64_t retransmission_timeout(Stack *s, uint32_t i) noexcept nogil   # ns, with the backoff
