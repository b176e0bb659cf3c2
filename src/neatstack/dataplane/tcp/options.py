"""TCP options of SYN segments (RFC 9293 section 3.2).

Window scale: RFC 7323 section 2; timestamps: its section 3, on every segment; SACK-permitted: RFC 2018 section 2.
"""

import cython
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.neatstack.dataplane.channel.layout import (
    NEAT_WITHOUT_SACK,
    NEAT_WITHOUT_SCALING,
    NEAT_WITHOUT_TIMESTAMPS,
    StackPage,
)
from cython.cimports.neatstack.dataplane.tcp.options import LONGEST_SHIFT
from cython.cimports.neatstack.dataplane.wire.bytes import get16, get32, put16
from cython.cimports.neatstack.dataplane.wire.headers import Options

END = cython.declare(uint8_t, 0)
NOP = cython.declare(uint8_t, 1)
MSS = cython.declare(uint8_t, 2)
WSCALE = cython.declare(uint8_t, 3)
SACK_PERMITTED = cython.declare(uint8_t, 4)
SACK = cython.declare(uint8_t, 5)
TIMESTAMP = cython.declare(uint8_t, 8)
FASTOPEN = cython.declare(uint8_t, 34)
EXPERIMENT = cython.declare(uint8_t, 254)  # RFC 4727
FASTOPEN_EXPERIMENT = cython.declare(uint16_t, 0xF989)  # its identifier of 16 bits, RFC 6994


# rfc: 9293:MUST-6 MUST-7 MUST-4 MUST-64, 7323:2.3b 2.2c, 5482:3.2, 7413:4.1.1a
def parse(
    data: cython.pointer[cython.const[uint8_t]], length: uint32_t, options: cython.pointer[Options]
) -> cython.void:
    """Read the options that we know, at most 40 bytes of them.

    An option that claims less than 2 bytes or more than there are ends the list (RFC 9293 MUST-7: an illegal length
    must not harm); one of a known kind with another length than its own is passed over.
    """
    at: uint32_t = 0
    size: uint32_t
    kind: uint8_t
    memset(options, 0, cython.sizeof(Options))
    while at < length:
        kind = data[at]
        if kind == END:
            return
        if kind == NOP:
            at += 1
            continue
        if at + 2 > length:
            return
        size = data[at + 1]
        if size < 2 or at + size > length:
            return
        if kind == MSS and size == 4:
            options.mss = get16(data + at + 2)
        elif kind == WSCALE and size == 3:
            options.has_wscale = 1
            options.wscale = data[at + 2] if data[at + 2] < LONGEST_SHIFT else LONGEST_SHIFT
        elif kind == SACK_PERMITTED and size == 2:
            options.sack_permitted = 1
        elif kind == TIMESTAMP and size == 10:
            options.has_timestamp = 1
            options.tsval = get32(data + at + 2)
            options.tsecr = get32(data + at + 6)
        elif kind == SACK and size > 2 and (size - 2) % 8 == 0:
            options.sack_at = cython.cast(uint8_t, at + 2)
            options.sack_blocks = cython.cast(uint8_t, (size - 2) // 8)
        elif kind == FASTOPEN and (size == 2 or (6 <= size <= 18 and size % 2 == 0)):
            options.has_fastopen = 1
            options.cookie_at = cython.cast(uint8_t, at + 2)
            options.cookie_length = cython.cast(uint8_t, size - 2)
        elif kind == EXPERIMENT and (size == 4 or (8 <= size <= 20 and size % 2 == 0)):
            if get16(data + at + 2) == FASTOPEN_EXPERIMENT:
                options.has_fastopen = options.experimental = 1
                options.cookie_at = cython.cast(uint8_t, at + 4)
                options.cookie_length = cython.cast(uint8_t, size - 4)
        at += size


def overlook(page: cython.pointer[cython.const[StackPage]], options: cython.pointer[Options]) -> cython.void:
    """What this stack goes without is as if a SYN had not said it."""
    if page.without & NEAT_WITHOUT_TIMESTAMPS:
        options.has_timestamp = 0
    if page.without & NEAT_WITHOUT_SACK:
        options.sack_permitted = 0
    if page.without & NEAT_WITHOUT_SCALING:
        options.has_wscale = 0


def write_cookie(
    to: cython.pointer[uint8_t],
    cookie: cython.pointer[cython.const[uint8_t]],
    length: uint32_t,
    experimental: cython.bint,
) -> uint32_t:
    """Write the option of TCP Fast Open (RFC 7413 section 4.1.1), without a cookie a request; how many bytes."""
    front: uint32_t = 4 if experimental else 2
    to[0] = EXPERIMENT if experimental else FASTOPEN
    to[1] = cython.cast(uint8_t, front + length)
    if experimental:
        put16(to + 2, FASTOPEN_EXPERIMENT)
    memcpy(to + front, cookie, length)
    length += front
    while length % 4:
        to[length] = NOP
        length += 1
    return length


# rfc: 9293:MUST-14 SHLD-5 MAY-3 MUST-68 MUST-69
def write_syn(
    to: cython.pointer[uint8_t],
    mss: uint16_t,
    scaling: cython.bint,
    wscale: uint8_t,
    sack: cython.bint,
    stamped: cython.bint,
) -> uint32_t:
    """Write the options of a SYN in the order in which Linux has them; how many bytes, a multiple of 4, at most 20.

    `stamped`: NOP, NOP and timestamps (12 bytes) are at to + 4 already.
    """
    length: uint32_t = 4
    to[0] = MSS
    to[1] = 4
    put16(to + 2, mss)
    if sack:  # before timestamps in place of the NOPs
        if not stamped:
            to[4] = to[5] = NOP
            length = 6
        to[length] = SACK_PERMITTED
        to[length + 1] = 2
        length = 8
    if stamped:
        length = 16
    if scaling:
        to[length] = NOP
        to[length + 1] = WSCALE
        to[length + 2] = 3
        to[length + 3] = wscale
        length += 4
    return length


def parse_bytes(data: bytes) -> dict:
    """Probe: the options in `data`."""
    options: Options
    parse(data, len(data), cython.address(options))
    return options


def syn_bytes(mss: uint16_t, scaling: cython.bint, wscale: uint8_t, sack: cython.bint = False) -> bytes:
    """Probe: what write_syn() writes without timestamps."""
    room: uint8_t[20]
    length: uint32_t = write_syn(room, mss, scaling, wscale, sack, False)
    return bytes([room[n] for n in range(length)])
