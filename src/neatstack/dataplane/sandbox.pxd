"""What sandbox.py takes from the kernel's headers."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef extern from * nogil:
    """
    #include <linux/audit.h>
    #if defined(__x86_64__)
    #define NEAT_AUDIT_ARCH AUDIT_ARCH_X86_64
    #elif defined(__aarch64__)
    #define NEAT_AUDIT_ARCH AUDIT_ARCH_AARCH64
    #else
    #error "the system call filter does not know this architecture"
    #endif
    """
    const uint32_t NEAT_AUDIT_ARCH

cdef extern from "<sys/syscall.h>" nogil:
    enum:
        SYS_brk
        SYS_clock_gettime
        SYS_clock_nanosleep
        SYS_close
        SYS_epoll_ctl
        SYS_epoll_pwait2
        SYS_exit
        SYS_exit_group
        SYS_fallocate
        SYS_futex
        SYS_getpid
        SYS_getrandom
        SYS_lseek
        SYS_gettid
        SYS_madvise
        SYS_mmap
        SYS_mprotect
        SYS_mremap
        SYS_munmap
        SYS_prctl
        SYS_read
        SYS_recvmsg
        SYS_rt_sigaction
        SYS_rt_sigprocmask
        SYS_rt_sigreturn
        SYS_sendmsg
        SYS_sendto
        SYS_tgkill
        SYS_write
        SYS_writev

cdef extern from "<linux/filter.h>" nogil:
    enum:
        BPF_LD
        BPF_W
        BPF_ABS
        BPF_JMP
        BPF_JEQ
        BPF_JSET
        BPF_K
        BPF_RET
    ctypedef struct Instruction "struct sock_filter":
        uint16_t code
        uint8_t jt
        uint8_t jf
        uint32_t k
    ctypedef struct Program "struct sock_fprog":
        unsigned short len
        Instruction *filter

cdef extern from "<linux/seccomp.h>" nogil:
    enum:
        SECCOMP_MODE_FILTER
    const uint32_t SECCOMP_RET_ALLOW
    const uint32_t SECCOMP_RET_KILL_PROCESS

cdef extern from "<sys/prctl.h>" nogil:
    enum:
        PR_CAPBSET_DROP
        PR_SET_DUMPABLE
        PR_SET_NAME
        PR_SET_NO_NEW_PRIVS
        PR_SET_SECCOMP
    int prctl(int option, ...)

cdef extern from "<sys/mman.h>" nogil:
    enum:
        PROT_EXEC

cdef extern from "<linux/capability.h>" nogil:
    enum:
        CAP_LAST_CAP

cdef extern from "<sched.h>" nogil:
    enum:
        CLONE_NEWNET
        CLONE_NEWIPC
    int unshare(int flags)
