"""Attach and release the memory that one program and this replica share.

The header is copied once and checked against the memory's real size; from then on only the copy counts, so that nothing
the program writes can lead an access outside its channel.
"""

import cython
from cython.cimports.libc.errno import EBUSY, EINVAL, ENOMEM
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.neatstack.dataplane.channel.atomic import load32
from cython.cimports.neatstack.dataplane.channel.channel import clear_bit, set_bit
from cython.cimports.neatstack.dataplane.channel.layout import (
    NEAT_LAYOUT_VERSION,
    NEAT_MAGIC,
    Aside,
    ChannelHeader,
    ChannelProgram,
    ChannelReplica,
    Entry,
    Socket,
)
from cython.cimports.neatstack.dataplane.stack import MAX_CHANNELS, Channel, Post, Stack
from cython.cimports.neatstack.dataplane.wire.crc import checksum


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
@cython.inline
def power_of_two(value: uint32_t, least: uint32_t, most: uint32_t) -> cython.bint:
    return least <= value <= most and value & (value - 1) == 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
@cython.inline
def inside(at: uint64_t, length: uint64_t, first: uint64_t, end: uint64_t) -> cython.bint:
    """Whether [at, at + length) is page aligned and within [first, end). No sum can overflow: end is below 2**46."""
    return at & 4095 == 0 and first <= at <= end and length <= end - at


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def acceptable(
    s: cython.pointer[Stack], h: cython.pointer[ChannelHeader], number: uint32_t, size: uint64_t
) -> cython.bint:
    """Whether this header describes a channel of ours within `size` bytes, its parts in order and apart."""
    if h.magic != NEAT_MAGIC or h.version != NEAT_LAYOUT_VERSION or h.replica != s.replica or h.channel != number:
        return False
    if h.size > size or h.size > cython.cast(uint64_t, 1) << 46:
        return False
    if not power_of_two(h.sockets, 1, 1 << 20) or not power_of_two(h.entries, h.sockets, 1 << 24):
        return False
    if not power_of_two(h.rx_size, 4096, 1 << 30) or not power_of_two(h.tx_size, 4096, 1 << 30):
        return False
    ring: uint64_t = cython.cast(uint64_t, h.entries) * cython.sizeof(Entry)
    slots: uint64_t = cython.cast(uint64_t, h.sockets) * cython.sizeof(Socket)
    asides: uint64_t = cython.cast(uint64_t, h.sockets) * cython.sizeof(Aside)
    rings: uint64_t = cython.cast(uint64_t, h.sockets) * (cython.cast(uint64_t, h.rx_size) + h.tx_size)
    return (
        inside(h.commands_at, ring, 4096, h.events_at)
        and inside(h.events_at, ring, h.commands_at, h.sockets_at)
        and inside(h.sockets_at, slots, h.events_at, h.asides_at)
        and inside(h.asides_at, asides, h.sockets_at, h.buffers_at)
        and inside(h.buffers_at, rings, h.asides_at, h.size)
    )


def guard_of(ch: cython.pointer[cython.const[Channel]]) -> uint64_t:
    """A checksum of what does not change while the channel is in use."""
    start: cython.p_const_char = cython.cast(cython.p_const_char, ch)
    end: cython.p_const_char = cython.cast(cython.p_const_char, cython.address(ch.guard))
    return checksum(start, end - start)


def attach(
    s: cython.pointer[Stack], number: uint32_t, memory: cython.p_void, size: uint64_t, doorbell: cython.int
) -> cython.int:
    """Take up a channel.

    0; -EINVAL: not a channel of this replica and number; -EBUSY: the number is in use; -ENOMEM.
    """
    if number >= MAX_CHANNELS or size < cython.sizeof(ChannelHeader):
        return -EINVAL
    ch: cython.pointer[Channel] = cython.address(s.channels[number])
    if ch.memory != cython.NULL:
        return -EBUSY
    header: ChannelHeader
    memcpy(cython.address(header), memory, cython.sizeof(ChannelHeader))
    if not acceptable(s, cython.address(header), number, size):
        return -EINVAL
    base: cython.pointer[uint8_t] = cython.cast(cython.pointer[uint8_t], memory)
    memset(ch, 0, cython.sizeof(Channel))
    ch.tcb_of = cython.cast(cython.pointer[uint32_t], calloc(header.sockets, cython.sizeof(uint32_t)))
    ch.posts = cython.cast(cython.pointer[Post], calloc(header.sockets, cython.sizeof(Post)))
    ch.endpoint_of = cython.cast(cython.pointer[uint32_t], calloc(header.sockets, cython.sizeof(uint32_t)))
    if ch.tcb_of == cython.NULL or ch.posts == cython.NULL or ch.endpoint_of == cython.NULL:
        forget(ch)
        return -ENOMEM
    ch.memory = base
    ch.header = header
    ch.program = cython.cast(cython.pointer[ChannelProgram], base + 128)
    ch.replica = cython.cast(cython.pointer[ChannelReplica], base + 256)
    ch.commands = cython.cast(cython.pointer[Entry], base + header.commands_at)
    ch.events = cython.cast(cython.pointer[Entry], base + header.events_at)
    ch.sockets = cython.cast(cython.pointer[Socket], base + header.sockets_at)
    ch.asides = cython.cast(cython.pointer[Aside], base + header.asides_at)
    ch.buffers = base + header.buffers_at
    ch.guard = guard_of(ch)
    ch.commands_tail = load32(cython.address(ch.replica.commands_tail))
    ch.events_head = load32(cython.address(ch.replica.events_head))
    ch.doorbell = doorbell
    ch.place = s.active_count
    s.active[s.active_count] = cython.cast(uint16_t, number)
    s.active_count += 1
    set_bit(s.live, number)
    return 0


def deactivate(s: cython.pointer[Stack], number: uint32_t) -> cython.void:
    """Its program is dead: no more commands or events. The memory stays as long as TCBs use it."""
    ch: cython.pointer[Channel] = cython.address(s.channels[number])
    last: uint16_t
    ch.gone = 1
    ch.ring = 0
    s.active_count -= 1
    last = s.active[s.active_count]
    s.active[ch.place] = last
    s.channels[last].place = ch.place
    clear_bit(s.live, number)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def forget(ch: cython.pointer[Channel]) -> cython.void:
    free(ch.tcb_of)
    free(ch.posts)
    free(ch.endpoint_of)
    memset(ch, 0, cython.sizeof(Channel))


def release_memory(s: cython.pointer[Stack], number: uint32_t) -> cython.void:
    """Nothing uses the channel any more: the number is free, and whoever mapped the memory may unmap it."""
    forget(cython.address(s.channels[number]))


def destroy_channels(s: cython.pointer[Stack]) -> cython.void:
    number: cython.int
    for number in range(MAX_CHANNELS):
        forget(cython.address(s.channels[number]))
    s.active_count = 0
