"""Doorbells: who sleeps is woken once.

Who is about to sleep makes its sleep_seq odd, fences, and looks at its rings once more; who has put an entry fences and
reads the other's sleep_seq. One of the two sees the other's store, whatever the order.
"""

import cython
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.neatstack.dataplane.channel.atomic import fence, load32, load_acquire
from cython.cimports.neatstack.dataplane.stack import Channel, Stack
from cython.cimports.posix.unistd import write


def ring_doorbells(s: cython.pointer[Stack]) -> cython.void:
    """Wake the programs that sleep and have new events, each once for a sleep."""
    one: uint64_t = 1
    fenced: cython.bint = False
    n: uint32_t
    for n in range(s.active_count):
        ch: cython.pointer[Channel] = cython.address(s.channels[s.active[n]])
        if not ch.ring:
            continue
        ch.ring = 0
        if not fenced:
            fence()
            fenced = True
        asleep: uint32_t = load32(cython.address(ch.program.sleep_seq))
        if not asleep & 1 or asleep == ch.rung or ch.doorbell < 0:
            continue
        ch.rung = asleep
        s.counters.doorbells += 1
        if write(ch.doorbell, cython.address(one), 8) < 0:
            ch.rung = 0  # the eventfd's counter is full: it is readable, but try again


def any_commands(s: cython.pointer[Stack]) -> cython.bint:
    """Some program has put commands that were not taken."""
    n: uint32_t
    for n in range(s.active_count):
        ch: cython.pointer[Channel] = cython.address(s.channels[s.active[n]])
        if load_acquire(cython.address(ch.program.commands_head)) != ch.commands_tail:
            return True
    return False
