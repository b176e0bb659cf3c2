"""What a replica gives up before it reads the first byte of a stranger.

`enter_isolation` is for a process that has just been executed by root: it leaves the network, all privileges and all
descriptors that it was not given on purpose. `filter_calls` comes last: from then on only the system calls that the
loop makes are possible, and any other ends the process at once.
"""

import os
import resource

import cython
from cython.cimports.libc.errno import errno
from cython.cimports.neatstack.dataplane.sandbox import (
    BPF_ABS,
    BPF_JEQ,
    BPF_JMP,
    BPF_JSET,
    BPF_K,
    BPF_LD,
    BPF_RET,
    BPF_W,
    CAP_LAST_CAP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    NEAT_AUDIT_ARCH,
    PR_CAPBSET_DROP,
    PR_SET_DUMPABLE,
    PR_SET_NAME,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_SECCOMP,
    PROT_EXEC,
    SECCOMP_MODE_FILTER,
    SECCOMP_RET_ALLOW,
    SECCOMP_RET_KILL_PROCESS,
    Instruction,
    Program,
    SYS_brk,
    SYS_clock_gettime,
    SYS_clock_nanosleep,
    SYS_close,
    SYS_epoll_ctl,
    SYS_epoll_pwait2,
    SYS_exit,
    SYS_exit_group,
    SYS_fallocate,
    SYS_futex,
    SYS_getpid,
    SYS_getrandom,
    SYS_gettid,
    SYS_lseek,
    SYS_madvise,
    SYS_mmap,
    SYS_mprotect,
    SYS_mremap,
    SYS_munmap,
    SYS_prctl,
    SYS_read,
    SYS_recvmsg,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_sendmsg,
    SYS_sendto,
    SYS_tgkill,
    SYS_write,
    SYS_writev,
    prctl,
    unshare,
)

ALLOWED = (
    # the packet path
    SYS_read,
    SYS_writev,
    SYS_epoll_pwait2,
    SYS_write,
    SYS_clock_gettime,
    # control messages, neighbours wanted, channels that come and go
    SYS_recvmsg,
    SYS_sendmsg,
    SYS_sendto,
    SYS_close,
    SYS_epoll_ctl,
    SYS_munmap,
    SYS_fallocate,
    # what the language and the C library do on their own
    SYS_brk,
    SYS_mremap,
    SYS_madvise,
    SYS_futex,
    SYS_getrandom,
    SYS_lseek,
    SYS_clock_nanosleep,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_getpid,
    SYS_gettid,
    # the end
    SYS_exit,
    SYS_exit_group,
)
NUMBER_AT, ARCHITECTURE_AT, ARGUMENTS_AT = 0, 4, 16  # struct seccomp_data


def _check(what: str, result: int) -> None:
    if result < 0:
        raise OSError(errno, f"isolation: {what}: {os.strerror(errno)}")


def name_process(name: str) -> None:
    """What `ps` and `top` call us; at most 15 bytes."""
    raw = name.encode()
    prctl(PR_SET_NAME, cython.cast(cython.p_char, raw))


def enter_isolation(uid: int, gid: int, keep: list[int]) -> None:
    """Become user `uid` without a capability, in an empty network, with no descriptor beyond 0, 1, 2 and `keep`.

    Called as root, right after exec; the address space is then random and nobody's copy.
    """
    _check("new namespaces", unshare(CLONE_NEWNET | CLONE_NEWIPC))
    for capability in range(CAP_LAST_CAP + 1):
        prctl(PR_CAPBSET_DROP, cython.cast(cython.ulong, capability), 0, 0, 0)  # EINVAL: older kernel, has no such
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)  # from root to another: the kernel clears all capability sets
    _check("no new privileges", prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _check("not dumpable", prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    low = 3
    for fd in sorted(keep):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))
    if prctl(PR_CAPBSET_DROP, 0, 0, 0, 0) == 0:
        raise PermissionError(1, f"isolation: as user {uid} it still has capabilities")


def filter_calls() -> None:
    """Allow only what the loop needs; all else kills the process. Needs no-new-privileges, cannot be undone."""
    rules = _rules(os.getpid())
    code: Instruction[96]
    program: Program
    if len(rules) > 96:
        raise ValueError("too many rules")
    for i, (operation, yes, no, value) in enumerate(rules):
        code[i].code = operation
        code[i].jt = yes
        code[i].jf = no
        code[i].k = value
    program.len = len(rules)
    program.filter = code
    _check("system call filter", prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, cython.address(program), 0, 0))


def _rules(pid: int) -> list[tuple[int, int, int, int]]:
    """The filter: (operation, jump if true, jump if false, operand)."""
    load, answer = BPF_LD | BPF_W | BPF_ABS, BPF_RET | BPF_K
    equal, bits = BPF_JMP | BPF_JEQ | BPF_K, BPF_JMP | BPF_JSET | BPF_K
    kill = (answer, 0, 0, SECCOMP_RET_KILL_PROCESS)
    allow = (answer, 0, 0, SECCOMP_RET_ALLOW)
    rules = [(load, 0, 0, ARCHITECTURE_AT), (equal, 1, 0, NEAT_AUDIT_ARCH), kill, (load, 0, 0, NUMBER_AT)]
    for number in ALLOWED:
        rules += [(equal, 0, 1, number), allow]
    for number in (SYS_mmap, SYS_mprotect):  # memory, but never code
        rules += [(equal, 0, 4, number), (load, 0, 0, ARGUMENTS_AT + 16), (bits, 0, 1, PROT_EXEC), kill, allow]
    # the name that ps shows changes when a spare becomes a replica
    rules += [(equal, 0, 4, SYS_prctl), (load, 0, 0, ARGUMENTS_AT), (equal, 0, 1, PR_SET_NAME), allow, kill]
    # abort() signals its own process; no other
    rules += [(equal, 0, 3, SYS_tgkill), (load, 0, 0, ARGUMENTS_AT), (equal, 0, 1, pid), allow, kill]
    return rules
