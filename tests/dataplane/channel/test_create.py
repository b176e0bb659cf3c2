"""A new channel: its numbers, its header, and the memory that two processes share."""

import ctypes
import fcntl
import mmap
import os

import pytest

from neatstack.dataplane.channel.create import channel_size, create_channel, format_channel
from tests.support.layout import ChannelHeader, neat


def header_of(memory: mmap.mmap) -> ChannelHeader:
    return ChannelHeader.from_buffer_copy(memory)


def test_parts_are_page_aligned_and_do_not_overlap():
    memory = mmap.mmap(-1, channel_size(64, 8192, 16384))
    format_channel(memory, 3, 7, 64, 8192, 16384)
    h = header_of(memory)
    assert (h.magic, h.version, h.replica, h.channel) == (neat.MAGIC, neat.LAYOUT_VERSION, 3, 7)
    assert h.size == len(memory)
    starts = [h.commands_at, h.events_at, h.sockets_at, h.buffers_at, h.size]
    lengths = [h.entries * 8, h.entries * 8, h.sockets * 256, h.sockets * (h.rx_size + h.tx_size)]
    assert all(start % 4096 == 0 for start in starts[:4])
    assert starts[0] >= ctypes.sizeof(ChannelHeader) + 256
    assert all(start + length <= end for start, length, end in zip(starts, lengths, starts[1:], strict=False))


def test_rings_have_room_for_every_socket_twice():
    memory = mmap.mmap(-1, channel_size(64, 4096, 4096))
    format_channel(memory, 0, 1, 64, 4096, 4096)
    assert header_of(memory).entries == 128


@pytest.mark.parametrize(
    "shape",
    [(0, 4096, 4096), (63, 4096, 4096), (64, 2048, 4096), (64, 4096, 5000), (64, 4096, 1 << 31), (1 << 21, 4096, 4096)],
)
def test_impossible_numbers_are_refused(shape):
    with pytest.raises(ValueError, match="power of two"):
        channel_size(*shape)


def test_memory_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        format_channel(bytearray(4096), 0, 1, 64, 4096, 4096)


def test_a_new_channel_costs_almost_no_memory_and_cannot_be_resized():
    fd = create_channel(2, 9)
    try:
        size = os.fstat(fd).st_size
        assert size == channel_size() > 1 << 30
        assert os.fstat(fd).st_blocks * 512 <= 4096
        with mmap.mmap(fd, 4096) as memory:
            assert header_of(memory).size == size
        for other in (4096, size * 2):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, other)
        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SEAL
    finally:
        os.close(fd)
