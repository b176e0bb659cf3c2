"""A slot that is left: free for its program when the change that leaves it is committed.

What is to be freed stands in the region, so that the next incarnation can finish what this one had begun.
"""

import cython
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.neatstack.dataplane.channel.atomic import store8_release, store32
from cython.cimports.neatstack.dataplane.channel.channel import rx_ring, tx_ring
from cython.cimports.neatstack.dataplane.channel.layout import NEAT_STATE_FREE, SocketReplica
from cython.cimports.neatstack.dataplane.channel.slot import RETAINED, TOUCHED
from cython.cimports.neatstack.dataplane.check import check
from cython.cimports.neatstack.dataplane.stack import MAX_CHANNELS, RETIRED, Channel, Retired, Stack
from cython.cimports.posix.mman import MADV_REMOVE, madvise

STATE_FREE = cython.declare(uint8_t, 0)  # enum State


def free_slot(ch: cython.pointer[Channel], socket: uint32_t) -> cython.void:
    """Tell the program that the replica has done with this slot."""
    r: cython.pointer[SocketReplica] = cython.address(ch.sockets[socket].replica)
    store32(cython.address(r.generation), ch.posts[socket].generation)
    r.seen = 0
    r.error = 0
    r.tcp_state = STATE_FREE
    store8_release(cython.address(r.state), NEAT_STATE_FREE)  # last: the program may use the slot again


def retire(
    s: cython.pointer[Stack], channel: uint32_t, socket: uint32_t, bytes_in: uint64_t, bytes_out: uint64_t
) -> cython.void:
    """A slot is to be free with the next commit; so many bytes went through its rings."""
    check(s.region.retired_count < RETIRED)
    r: cython.pointer[Retired] = cython.address(s.region.retired[s.region.retired_count])
    r.channel = cython.cast(uint16_t, channel)
    r.socket = socket
    r.generation = s.channels[channel].posts[socket].generation
    r.bytes_in = bytes_in
    r.bytes_out = bytes_out
    s.region.retired_count += 1


def give_back(ring: cython.pointer[uint8_t], size: uint32_t, carried: uint64_t) -> cython.void:
    """Return the memory of a ring that has `carried` so many bytes to the system.

    Fails on memory that is not shared (in tests), where nothing has to be returned.
    """
    if carried > TOUCHED and size > RETAINED:
        madvise(ring + RETAINED, size - RETAINED, MADV_REMOVE)


def free_retired(s: cython.pointer[Stack]) -> cython.void:
    """The change is committed. May be done again after a death in the middle."""
    k: uint32_t
    for k in range(s.region.retired_count):
        r: cython.pointer[Retired] = cython.address(s.region.retired[k])
        if k >= RETIRED or r.channel >= MAX_CHANNELS:
            continue
        ch: cython.pointer[Channel] = cython.address(s.channels[r.channel])
        if ch.memory == cython.NULL or r.socket >= ch.header.sockets or ch.tcb_of[r.socket]:
            continue
        give_back(rx_ring(ch, r.socket), ch.header.rx_size, r.bytes_in)
        give_back(tx_ring(ch, r.socket), ch.header.tx_size, r.bytes_out)
        ch.posts[r.socket].generation = r.generation
        free_slot(ch, r.socket)
    s.region.retired_count = 0
