"""Addresses as people write them (RFC 4291 section 2.2), of either family."""

import cython
from cython.cimports.libc.stdint import uint8_t
from cython.cimports.neatstack.dataplane.channel.address import Address, get_address
from cython.cimports.neatstack.dataplane.channel.layout import Own, StackPage


def octets_of(text: str) -> bytes:
    """The 16 bytes of an address of either family; the socket module takes longer to load than all of us."""
    if ":" not in text:
        octets = bytes(int(part) for part in text.split("."))
        if len(octets) != 4:
            raise ValueError(f"{text!r} is no address")
        return bytes(10) + b"\xff\xff" + octets
    if "." in text:  # ::ffff:10.0.0.1
        head, _, tail = text.rpartition(":")
        last = octets_of(tail)[12:]
        text = f"{head}:{last[0] << 8 | last[1]:x}:{last[2] << 8 | last[3]:x}"
    head, gap, tail = text.partition("::")
    before, after = ([int(word, 16) for word in part.split(":") if word] for part in (head, tail))
    if gap and len(before) + len(after) < 8:
        before += [0] * (8 - len(before) - len(after))
    words = before + after
    if len(words) != 8:
        raise ValueError(f"{text!r} is no address")
    return b"".join(word.to_bytes(2, "big") for word in words)


def address_of(text) -> Address:
    """An address as the stack keeps it."""
    raw: bytes = octets_of(text)
    data: cython.p_char = raw
    return get_address(cython.cast(cython.pointer[uint8_t], data))


def add_addresses(page: cython.pointer[StackPage], addresses, gateway6):
    """Give a stack these, each with its prefix."""
    own: cython.pointer[Own]
    for each in addresses:
        text, _, prefix = each.partition("/")
        own = cython.address(page.own[page.own_count])
        own.address = address_of(text)
        own.prefix = int(prefix) + (0 if ":" in text else 96)
        page.own_count += 1
        if ":" in text:
            page.mtu6 = page.mtu
    if gateway6:
        page.gateway6 = address_of(gateway6)
