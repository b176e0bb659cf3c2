"""Initial sequence numbers: ISN = M + F(localip, localport, remoteip, remoteport, secretkey) (RFC 6528 section 3).

M is a clock of 4.096 us; F is SipHash-2-4 (Aumasson, Bernstein 2012). The key lies in the state region, so that the
numbers of a flow go on growing when a new incarnation takes over.
"""

import cython
from cython.cimports.libc.stdint import uint16_t, uint32_t, uint64_t
from cython.cimports.neatstack.dataplane.channel.address import Address
from cython.cimports.neatstack.dataplane.stack import Stack
from cython.cimports.neatstack.dataplane.tcp.entropy import fill_random
from cython.cimports.neatstack.dataplane.tcp.isn import flow_words


# rfc: 6528:4
def draw_secrets(s: cython.pointer[Stack]) -> cython.void:
    """Draw what is secret and not there yet: the ISN key of the region, the lookup key, the key of random32()...

    The key of Fast Open's cookies comes of the stack's secret, unless one was given.
    """
    if not (s.region.isn_key[0] | s.region.isn_key[1]):
        fill_random(s.region.isn_key, cython.sizeof(s.region.isn_key))
    s.isn_key[0] = s.region.isn_key[0]
    s.isn_key[1] = s.region.isn_key[1]
    if not (s.secret[0] | s.secret[1]):
        s.secret[0] = s.isn_key[0]
        s.secret[1] = s.isn_key[1]
    if not s.fast_keys.count:
        s.fast_keys.count = 1
        s.fast_keys.key[0] = siphash(s.secret, s.secret, 0, cython.cast(uint64_t, 16) << 56)
        s.fast_keys.key[1] = siphash(s.secret, s.secret, 0, cython.cast(uint64_t, 17) << 56)
    fill_random(s.flows_key, cython.sizeof(s.flows_key))
    fill_random(s.random_key, cython.sizeof(s.random_key))


# rfc: 9293:MUST-8 SHLD-1 MUST-9, 6528:3a
def initial_sequence(
    s: cython.pointer[Stack], local_be: Address, local_port_be: uint16_t, remote_be: Address, remote_port_be: uint16_t
) -> uint32_t:
    words: uint64_t[4]
    count: uint32_t = flow_words(words, local_be, remote_be)
    last: uint64_t = cython.cast(uint64_t, local_port_be) << 16 | remote_port_be | cython.cast(uint64_t, 12) << 56
    digest: uint64_t = siphash(s.isn_key, words, count, last)
    return cython.cast(uint32_t, digest) + cython.cast(uint32_t, s.now >> 12)


# rfc: 7323:5.4b
def timestamp_offset(
    s: cython.pointer[Stack], local_be: Address, local_port_be: uint16_t, remote_be: Address, remote_port_be: uint16_t
) -> uint32_t:
    """What a flow's timestamps are ahead of the clock (RFC 7323 section 5.4).

    The same for the next connection of the flow, also at another replica: its timestamps go on where the last one's
    ended.
    """
    words: uint64_t[4]
    count: uint32_t = flow_words(words, local_be, remote_be)
    last: uint64_t = cython.cast(uint64_t, local_port_be) << 16 | remote_port_be | cython.cast(uint64_t, 13) << 56
    return cython.cast(uint32_t, siphash(s.secret, words, count, last))


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def rotate(x: uint64_t, bits: cython.int) -> uint64_t:
    return x << bits | x >> (64 - bits)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def sip_round(v: cython.pointer[uint64_t]) -> cython.void:
    v[0] += v[1]
    v[1] = rotate(v[1], 13) ^ v[0]
    v[0] = rotate(v[0], 32)
    v[2] += v[3]
    v[3] = rotate(v[3], 16) ^ v[2]
    v[0] += v[3]
    v[3] = rotate(v[3], 21) ^ v[0]
    v[2] += v[1]
    v[1] = rotate(v[1], 17) ^ v[2]
    v[2] = rotate(v[2], 32)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def absorb(v: cython.pointer[uint64_t], word: uint64_t) -> cython.void:
    v[3] ^= word
    sip_round(v)
    sip_round(v)
    v[0] ^= word


# rfc: 6528:3b
def siphash(
    key: cython.pointer[cython.const[uint64_t]],
    words: cython.pointer[cython.const[uint64_t]],
    count: uint32_t,
    last: uint64_t,
) -> uint64_t:
    """SipHash-2-4 of `count` whole words and `last`: the 0-7 bytes left over, and the length in its top byte."""
    v: uint64_t[4]
    k: uint32_t
    v[0] = key[0] ^ cython.cast(uint64_t, 0x736F6D6570736575)
    v[1] = key[1] ^ cython.cast(uint64_t, 0x646F72616E646F6D)
    v[2] = key[0] ^ cython.cast(uint64_t, 0x6C7967656E657261)
    v[3] = key[1] ^ cython.cast(uint64_t, 0x7465646279746573)
    for k in range(count):
        absorb(v, words[k])
    absorb(v, last)
    v[2] ^= 0xFF
    for _ in range(4):
        sip_round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def siphash_bytes(key: bytes, data: bytes) -> int:
    """Probe: SipHash-2-4 of `data` (up to 63 bytes) with a key of 16 bytes."""
    words: uint64_t[8]
    keys: uint64_t[2]
    count: cython.int = len(data) // 8
    n: cython.int
    keys[0] = int.from_bytes(key[:8], "little")
    keys[1] = int.from_bytes(key[8:], "little")
    for n in range(count):
        words[n] = int.from_bytes(data[8 * n : 8 * n + 8], "little")
    last = int.from_bytes(data[8 * count :], "little") | (len(data) & 0xFF) << 56
    return siphash(keys, words, count, last)
