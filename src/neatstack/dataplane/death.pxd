"""Ways to end: of this process, or in tests of an incarnation in the middle of its work."""

cdef extern from * nogil:
    """
    #include <setjmp.h>
    #include <signal.h>

    /* Run work(argument); *jump is where neat_jump() leads while it runs. 1: it was left that way. */
    static inline int neat_guarded(void (*work)(void *), void *argument, void **jump)
    {
        jmp_buf here;
        int left = setjmp(here);
        if (!left) {
            *jump = &here;
            work(argument);
        }
        *jump = 0;
        return left;
    }
    static inline void neat_jump(void *to) { longjmp(*(jmp_buf *)to, 1); }
    static inline void neat_segmentation_fault(void) { *(volatile int *)0 = 0; }
    """
    ctypedef void (*Work)(void *argument) noexcept nogil
    int guarded "neat_guarded"(Work work, void *argument, void **jump)
    void jump "neat_jump"(void *to)
    void segmentation_fault "neat_segmentation_fault"()
    int raise_signal "raise"(int number)
