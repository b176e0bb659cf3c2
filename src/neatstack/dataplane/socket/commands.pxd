"""What programs ask for."""

from libc.stdint cimport uint32_t

from neatstack.dataplane.stack cimport Stack, View

cdef enum:
    BUDGET = 256                 # entries of one program in one batch, so that none holds up the others
    RUN = 64                     # entries taken at one time

cdef void run_commands(Stack *s) noexcept nogil                                # of every program, in turn, a bounded number each
cdef void look(Stack *s, uint32_t i) noexcept nogil                             # at the lines of the socket of TCB i
cdef void look_at_slot(Stack *s, uint32_t channel, uint32_t socket) noexcept nogil   # of a slot without a TCB
cdef bint copy_options(View *v) noexcept nogil                                 # True: they have changed
cdef void detach(Stack *s, uint32_t program, uint32_t i) noexcept nogil          # it has closed the socket of TCB i
cdef void take_commands(Stack *s, uint32_t channel, uint32_t most) noexcept nogil
