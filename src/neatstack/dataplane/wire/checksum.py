"""The Internet checksum (RFC 1071): the sum over bytes of any number of pieces, and probes for tests."""

import cython
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t
from cython.cimports.neatstack.dataplane.channel.address import mapped
from cython.cimports.neatstack.dataplane.wire.bytes import raw16, raw32, swap16
from cython.cimports.neatstack.dataplane.wire.checksum import fold, pseudo_header


def add(total: uint64_t, data: cython.pointer[cython.const[uint8_t]], length: uint32_t) -> uint64_t:
    """`total` plus the 32-bit words of `data`, which starts at an even offset. A last odd byte is padded with zero.

    Words are added as the host reads them: the one's complement sum does not mind (RFC 1071 section 2 B), nor
    does it mind the size of the words. 64 KiB cannot overflow 64 bits.
    """
    words: uint32_t = length >> 2
    k: uint32_t
    for k in range(words):
        total += raw32(data + 4 * k)
    data += 4 * words
    if length & 2:
        total += raw16(data)
        data += 2
    if length & 1:
        total += data[0]
    return total


def add_piece(
    total: uint64_t, offset: uint32_t, data: cython.pointer[cython.const[uint8_t]], length: uint32_t
) -> uint64_t:
    """`add` for a piece that starts at `offset`: at an odd one its sum is swapped (RFC 1071 section 2 B)."""
    if offset & 1:
        return total + swap16(fold(add(0, data, length)))
    return add(total, data, length)


def checksum(*pieces: bytes) -> int:
    """Probe: the checksum of the pieces one after another, as the number that stands on the wire."""
    total: uint64_t = 0
    offset: uint32_t = 0
    for piece in pieces:
        raw: bytes = piece
        data: cython.pointer[cython.const[uint8_t]] = raw
        total = add_piece(total, offset, data, len(raw))
        offset += len(raw)
    return ~swap16(fold(total)) & 0xFFFF


def pseudo(source_be: uint32_t, destination_be: uint32_t, protocol: uint8_t, length: uint32_t) -> int:
    """Probe: the folded sum of a pseudo header, as the number that stands on the wire."""
    return swap16(fold(pseudo_header(mapped(source_be), mapped(destination_be), protocol, length)))
