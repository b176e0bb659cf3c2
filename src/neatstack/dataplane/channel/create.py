"""A new channel: sizes, and the header that its makers write before anybody else has it (see layout.h).

The memory is sparse: only pages that are used cost anything. A channel meant for two processes is a memfd made by
create_channel(), sealed so that the program cannot shrink it under the replica, where a later access would be fatal.
"""

import fcntl
import os
import struct

SOCKETS = 8192  # slots
RING_SIZE = 256 * 1024  # bytes of each socket's receive ring, and of its send ring
SMALLEST_RING = 4096
LARGEST_RING = 1 << 30  # cursors compare modulo 2**32, and a window is at most 2**30 (RFC 7323 section 2.3)

MAGIC = 0x5441454E  # NEAT_MAGIC
VERSION = 15  # NEAT_LAYOUT_VERSION
PAGE = 4096
_HEADER = struct.Struct("=IIII Q IIII QQQQQ 48x")  # struct neat_channel_header
_LINES = _HEADER.size + 128 + 128  # header, the program's line, the replica's line
_SOCKET = 256  # bytes of struct neat_socket
_ASIDE = 1536  # bytes of struct neat_aside
_ENTRY = 8  # bytes of struct neat_entry


def _is_power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


def _pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


def _layout(sockets: int, rx_size: int, tx_size: int) -> tuple[int, int, int, int, int, int, int]:
    """Entries of each ring, offsets of commands, events, sockets, buffers and asides, and the whole size."""
    if not _is_power_of_two(sockets) or sockets > 1 << 20:
        raise ValueError(f"sockets must be a power of two up to 2**20, not {sockets}")
    for name, size in (("rx_size", rx_size), ("tx_size", tx_size)):
        if not _is_power_of_two(size) or not SMALLEST_RING <= size <= LARGEST_RING:
            raise ValueError(f"{name} must be a power of two from {SMALLEST_RING} to {LARGEST_RING}, not {size}")
    entries = 2 * sockets  # a program also has entries for the sockets that it inherited
    commands_at = _pages(_LINES)
    events_at = commands_at + _pages(entries * _ENTRY)
    sockets_at = events_at + _pages(entries * _ENTRY)
    asides_at = sockets_at + _pages(sockets * _SOCKET)
    buffers_at = asides_at + _pages(sockets * _ASIDE)
    size = buffers_at + sockets * (rx_size + tx_size)
    return entries, commands_at, events_at, sockets_at, buffers_at, asides_at, size


def channel_size(sockets: int = SOCKETS, rx_size: int = RING_SIZE, tx_size: int = RING_SIZE) -> int:
    """Bytes of a channel with these numbers. ValueError when they are impossible."""
    *_, size = _layout(sockets, rx_size, tx_size)
    return size


def channel_header(
    replica: int,
    channel: int,
    sockets: int = SOCKETS,
    rx_size: int = RING_SIZE,
    tx_size: int = RING_SIZE,
) -> bytes:
    """struct neat_channel_header."""
    entries, *offsets, size = _layout(sockets, rx_size, tx_size)
    return _HEADER.pack(
        MAGIC, VERSION, replica, channel, size, sockets, entries, rx_size, tx_size, *offsets
    )  # fmt: skip


def format_channel(
    memory: object,
    replica: int,
    channel: int,
    sockets: int = SOCKETS,
    rx_size: int = RING_SIZE,
    tx_size: int = RING_SIZE,
) -> None:
    """Write the header into `memory`, a writable buffer of at least channel_size() zero bytes."""
    size = channel_size(sockets, rx_size, tx_size)
    with memoryview(memory) as view, view.cast("B") as octets:
        if octets.nbytes < size:
            raise ValueError(f"a channel of {size} bytes does not fit into {octets.nbytes}")
        octets[: _HEADER.size] = channel_header(replica, channel, sockets, rx_size, tx_size)


def create_channel(
    replica: int,
    channel: int,
    sockets: int = SOCKETS,
    rx_size: int = RING_SIZE,
    tx_size: int = RING_SIZE,
) -> int:
    """A formatted channel in a memfd of its own, sealed against any change of its size.

    The caller closes the descriptor.
    """
    size = channel_size(sockets, rx_size, tx_size)
    fd = os.memfd_create(f"neat-channel-{replica}-{channel}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        os.pwrite(fd, channel_header(replica, channel, sockets, rx_size, tx_size), 0)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except BaseException:
        os.close(fd)
        raise
    return fd
