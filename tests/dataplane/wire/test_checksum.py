"""The Internet checksum against its definition (RFC 1071 section 1)."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from neatstack.dataplane.wire.checksum import checksum, pseudo


def by_definition(data: bytes) -> int:
    """The 16-bit one's complement of the one's complement sum of all 16-bit words."""
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def test_the_example_of_rfc_1071():
    assert checksum(bytes([0x00, 0x01, 0xF2, 0x03, 0xF4, 0xF5, 0xF6, 0xF7])) == ~0xDDF2 & 0xFFFF


@given(st.binary(max_size=3000))
def test_any_bytes(data):
    assert checksum(data) == by_definition(data)


@given(st.lists(st.binary(max_size=99), max_size=5))
def test_pieces_of_odd_lengths_sum_like_the_whole(pieces):
    assert checksum(*pieces) == by_definition(b"".join(pieces))


def test_64_kib_of_ones_do_not_overflow():
    assert checksum(b"\xff" * 65535) == by_definition(b"\xff" * 65535)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 65535))
def test_the_pseudo_header(source, destination, length):
    """RFC 9293 section 3.1: addresses, zero, protocol, TCP length."""
    header = struct.pack("<II", source, destination) + struct.pack("!BBH", 0, 6, length)
    assert pseudo(source, destination, 6, length) == ~by_definition(header) & 0xFFFF
