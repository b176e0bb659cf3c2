"""How many bytes a program may have in its send ring, unless SO_SNDBUF says it: as Linux, what two windows cost there.

Its memory is counted with what a packet needs besides its text, so that both take the same from a program.
"""

from libc.stdint cimport uint32_t, uint64_t

from neatstack.dataplane.stack cimport View
from neatstack.dataplane.tcp.tcb cimport Tcb

cdef enum:
    INITIAL_SEGMENTS = 10    # RFC 6928
    HEADERS = 640            # bytes before and after a segment's text in its memory, which is a power of two; and
    DESCRIPTION = 256        # bytes of Linux's struct sk_buff

cdef inline void expand(View *v, const Tcb *t) noexcept nogil:
    """cwnd may have grown: so does the limit, up to the ring, and never falls. It stays in the lines of the socket."""
    cdef uint64_t mss = t.snd.mss if t.snd.mss else 1
    cdef uint64_t segments = t.cc.cwnd // mss
    cdef uint64_t each = 1024
    cdef uint64_t size
    if v.replica == NULL:
        return
    while each < mss + HEADERS:
        each *= 2
    if segments < INITIAL_SEGMENTS:
        segments = INITIAL_SEGMENTS
    size = 2 * segments * (each + DESCRIPTION)
    if size > v.tx_size:
        size = v.tx_size
    if size > v.replica.send_most:
        v.replica.send_most = <uint32_t>size

cdef inline uint32_t send_most(const View *v) noexcept nogil:
    """Bytes. The lines are memory that the program can write, too: only it would wait for ever."""
    cdef uint32_t size = v.replica.send_most
    return size if size and size < v.tx_size else v.tx_size
