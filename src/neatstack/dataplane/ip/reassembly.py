"""Datagrams are put together from their fragments (RFC 791 section 3.2, RFC 1122 section 3.3.2, RFC 815's problem).

A datagram that is not complete after a minute is given up (RFC 1122 and RFC 8200 section 4.5 ask for that time; Linux
waits 30 s for IPv4). Fragments that overlap, or contradict each other about its end, are an attack or a confusion
of two datagrams (RFC 4963): the whole datagram is refused, with what still comes of it (RFC 5722 section 4). The same
bytes once more do no harm, and are dropped.

Memory is what there is at the start: a number of datagrams, and of chunks for their bytes, which every fragment takes
where it belongs, however small it is. When it is used up, the oldest datagram of the source that holds most goes: who
floods us displaces its own. Nothing of this survives a process: whoever wants to be sure sends again.
"""

import cython
from cython.cimports.libc.errno import ENOMEM
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free, malloc
from cython.cimports.libc.string import memcmp, memcpy, memset
from cython.cimports.neatstack.dataplane.ip.reassembly import KEPT, WHOLE, Fragment
from cython.cimports.neatstack.dataplane.stack import (
    CHUNK,
    CHUNKS,
    FRAGMENT_HEADER,
    HOLDINGS,
    PARTIALS,
    Counters,
    Drop,
    Partial,
    Reassembly,
)
from cython.cimports.neatstack.dataplane.wire.bytes import get16, put16, raw16, raw32, set16, set32
from cython.cimports.neatstack.dataplane.wire.checksum import add, fold
from cython.cimports.neatstack.dataplane.wire.headers import (
    IP6_HEADER,
    IP_LONGEST,
    IP_MF,
    IP_OFFSET,
)

LONGEST = cython.declare(uint64_t, 60000000000)  # ns
# A source that has begun so many others since comes round with its identifications soon: what comes now is another's.
# Linux has 64 (ipfrag_max_dist); of 65,536 identifications each of 16 replicas sees 4,096.
TOO_FAR = cython.declare(uint32_t, 1024)
NOT_ECT = cython.declare(uint8_t, 1)  # bits of Partial.congestion
CE = cython.declare(uint8_t, 8)


def init_reassembly(
    r: cython.pointer[Reassembly], counters: cython.pointer[Counters], key0: uint64_t, key1: uint64_t
) -> cython.int:
    memset(r, 0, cython.sizeof(Reassembly))
    r.partials = cython.cast(cython.pointer[Partial], calloc(PARTIALS, cython.sizeof(Partial)))
    r.memory = cython.cast(cython.pointer[uint8_t], malloc(CHUNKS * CHUNK))
    r.whole = cython.cast(cython.pointer[uint8_t], malloc(FRAGMENT_HEADER + IP_LONGEST))  # longest() is less
    r.counters = counters
    r.key[0] = key0 | 1
    r.key[1] = key1 | 1
    return 0 if r.partials != cython.NULL and r.memory != cython.NULL and r.whole != cython.NULL else -ENOMEM


def destroy_reassembly(r: cython.pointer[Reassembly]) -> cython.void:
    free(r.partials)
    free(r.memory)
    free(r.whole)
    r.partials = cython.NULL
    r.memory = r.whole = cython.NULL


# ---- places ----


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def mixed(
    r: cython.pointer[cython.const[Reassembly]],
    at: cython.pointer[cython.const[uint8_t]],
    words: uint32_t,
    more: uint32_t,
) -> uint32_t:
    """A keyed hash of so many words of 32 bits, and one more."""
    k: uint32_t
    h: uint64_t = (r.key[0] ^ more) * r.key[1]
    for k in range(words):
        h = (h ^ h >> 32 ^ raw32(at + 4 * k)) * r.key[1]
    return cython.cast(uint32_t, h >> 32)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def head_of(r: cython.pointer[cython.const[Reassembly]], f: cython.pointer[cython.const[Fragment]]) -> uint32_t:
    return mixed(r, f.ends, 8, f.number ^ cython.cast(uint32_t, f.protocol) << 24) & (PARTIALS - 1)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def head_of_partial(r: cython.pointer[Reassembly], p: cython.pointer[Partial]) -> cython.pointer[uint16_t]:
    hash: uint32_t = mixed(r, p.ends, 8, p.number ^ cython.cast(uint32_t, p.protocol) << 24)
    return cython.address(r.heads[hash & (PARTIALS - 1)])


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def find(r: cython.pointer[Reassembly], f: cython.pointer[cython.const[Fragment]]) -> cython.pointer[Partial]:
    """The datagram that a fragment is of (source, destination, protocol and identification); NULL: a new one."""
    p: cython.pointer[Partial]
    i: uint16_t = r.heads[head_of(r, f)]
    while i:
        p = cython.address(r.partials[i - 1])
        if (
            p.number == f.number
            and p.protocol == f.protocol
            and p.version == f.version
            and memcmp(p.ends, f.ends, 32) == 0
        ):
            return p
        i = p.chained
    return cython.NULL


# rfc: 8200:4.5-minute 5-reassembled
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def begin(
    r: cython.pointer[Reassembly], now: uint64_t, f: cython.pointer[cython.const[Fragment]]
) -> cython.pointer[Partial]:
    """A new one; there is always room in the end."""
    p: cython.pointer[Partial]
    head: cython.pointer[uint16_t]
    i: uint16_t
    if not r.free and r.used == PARTIALS:
        make_room(r, cython.NULL)
    if r.free:
        i = r.free
        r.free = r.partials[i - 1].newer
    else:
        r.used += 1
        i = r.used
    p = cython.address(r.partials[i - 1])
    memset(p, 0, cython.sizeof(Partial))
    memcpy(p.ends, f.ends, 32)
    p.number = f.number
    p.protocol = f.protocol
    p.version = f.version
    p.since = now
    p.holder = cython.cast(uint16_t, mixed(r, f.ends, 4, 0) & (HOLDINGS - 1))
    r.holdings[p.holder] += 1
    r.begun[p.holder] += 1
    head = cython.address(r.heads[head_of(r, f)])
    p.chained = head[0]
    head[0] = i
    p.older = r.newest
    if r.newest:
        r.partials[r.newest - 1].newer = i
    else:
        r.oldest = i
    r.newest = i
    return p


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def give_back(r: cython.pointer[Reassembly], p: cython.pointer[Partial]) -> cython.void:
    """Its bytes are not needed any more."""
    k: uint32_t
    if not p.chunks:
        return
    r.holdings[p.holder] -= p.chunks
    for k in range(cython.sizeof(p.chunk) // cython.sizeof(uint16_t)):
        if p.chunk[k]:
            r.free_chunks[r.free_chunk_count] = p.chunk[k]
            r.free_chunk_count += 1
            p.chunk[k] = 0
    p.chunks = 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def forget(r: cython.pointer[Reassembly], p: cython.pointer[Partial]) -> cython.void:
    i: uint16_t = cython.cast(uint16_t, p - r.partials + 1)
    at: cython.pointer[uint16_t] = head_of_partial(r, p)
    give_back(r, p)
    r.holdings[p.holder] -= 1
    while at[0] != i:
        at = cython.address(r.partials[at[0] - 1].chained)
    at[0] = p.chained
    if p.older:
        r.partials[p.older - 1].newer = p.newer
    else:
        r.oldest = p.newer
    if p.newer:
        r.partials[p.newer - 1].older = p.older
    else:
        r.newest = p.older
    p.version = 0
    p.newer = r.free
    r.free = i


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def make_room(r: cython.pointer[Reassembly], but: cython.pointer[Partial]) -> cython.bint:
    """Give up the oldest datagram of who holds most, but not this one. False: there is no other."""
    p: cython.pointer[Partial]
    chosen: cython.pointer[Partial] = cython.NULL
    i: uint16_t = r.oldest
    while i:
        p = cython.address(r.partials[i - 1])
        if p != but and (chosen == cython.NULL or r.holdings[p.holder] > r.holdings[chosen.holder]):
            chosen = p
        i = p.newer
    if chosen == cython.NULL:
        return False
    count(r, Drop.DROP_REASSEMBLY_ROOM)
    forget(r, chosen)
    return True


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def count(r: cython.pointer[Reassembly], reason: Drop) -> cython.void:
    r.counters.drops[cython.cast(cython.int, reason)] += 1


# ---- what is there ----


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def bits(word: uint32_t, first: uint32_t, last: uint32_t) -> uint64_t:
    """Those of a word of Partial.there that stand for blocks from `first` up to `last` (excluded); it has some."""
    low: uint32_t = first - 64 * word if first > 64 * word else 0
    high: uint32_t = last - 64 * word if last < 64 * word + 64 else 64
    every: uint64_t = ~cython.cast(uint64_t, 0)
    return every << low & every >> (64 - high)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def any_there(p: cython.pointer[cython.const[Partial]], first: uint32_t, last: uint32_t) -> cython.bint:
    """Whether one of the blocks has come."""
    k: uint32_t
    for k in range(first >> 6, ((last - 1) >> 6) + 1):
        if p.there[k] & bits(k, first, last):
            return True
    return False


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def all_there(p: cython.pointer[cython.const[Partial]], first: uint32_t, last: uint32_t) -> cython.bint:
    k: uint32_t
    for k in range(first >> 6, ((last - 1) >> 6) + 1):
        if ~p.there[k] & bits(k, first, last):
            return False
    return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def mark(p: cython.pointer[Partial], first: uint32_t, last: uint32_t) -> cython.void:
    k: uint32_t
    for k in range(first >> 6, ((last - 1) >> 6) + 1):
        p.there[k] |= bits(k, first, last)
    p.blocks += last - first


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def store(
    r: cython.pointer[Reassembly], p: cython.pointer[Partial], f: cython.pointer[cython.const[Fragment]]
) -> cython.bint:
    """Copy its data to where it belongs. False: there is no memory."""
    done: uint32_t = 0
    at: uint32_t
    part: uint32_t
    place: cython.pointer[uint16_t]
    while done < f.length:
        at = (f.offset + done) & (CHUNK - 1)
        part = f.length - done if f.length - done < CHUNK - at else CHUNK - at
        place = cython.address(p.chunk[(f.offset + done) // CHUNK])
        if not place[0]:
            if not r.free_chunk_count and r.chunks_used == CHUNKS and not make_room(r, p):
                return False
            if r.free_chunk_count:
                r.free_chunk_count -= 1
                place[0] = r.free_chunks[r.free_chunk_count]
            elif r.chunks_used < CHUNKS:
                r.chunks_used += 1
                place[0] = r.chunks_used
            else:  # what was given up had none
                continue
            p.chunks += 1
            r.holdings[p.holder] += 1
        memcpy(r.memory + (place[0] - 1) * CHUNK + at, f.data + done, part)
        done += part
    return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def is_same(
    r: cython.pointer[Reassembly], p: cython.pointer[Partial], f: cython.pointer[cython.const[Fragment]]
) -> cython.bint:
    """Whether the data is what is there already."""
    done: uint32_t = 0
    at: uint32_t
    part: uint32_t
    place: uint32_t
    while done < f.length:
        at = (f.offset + done) & (CHUNK - 1)
        part = f.length - done if f.length - done < CHUNK - at else CHUNK - at
        place = p.chunk[(f.offset + done) // CHUNK]
        if memcmp(r.memory + (place - 1) * CHUNK + at, f.data + done, part) != 0:
            return False
        done += part
    return True


# ---- fragments ----


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def longest(version: uint8_t) -> uint32_t:
    """Bytes of a packet: the length in an IPv6 header does not count it (RFC 8200 section 3)."""
    return IP_LONGEST + IP6_HEADER if version == 6 else IP_LONGEST


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def refuse(r: cython.pointer[Reassembly], p: cython.pointer[Partial]) -> cython.int:
    """The datagram is not to be had, nor anything that still comes of it."""
    give_back(r, p)
    p.refused = 1
    return cython.cast(cython.int, Drop.DROP_OVERLAP)


# rfc: 791:fragment-blocks longest reassembly-576, 1122:reassembly, 5722:overlap, 8200:4.5-duplicate
def gather(r: cython.pointer[Reassembly], now: uint64_t, f: cython.pointer[cython.const[Fragment]]) -> cython.int:
    """Take a fragment: RFC 791 section 3.2, RFC 5722 section 4."""
    stop: uint32_t = f.offset + f.length
    first: uint32_t = f.offset >> 3
    last: uint32_t = (stop + 7) >> 3
    if (
        f.length == 0
        or (f.more and f.length & 7)
        or f.header_length > FRAGMENT_HEADER
        or f.header_length + stop > longest(f.version)
    ):
        return cython.cast(cython.int, Drop.DROP_FRAGMENT)
    p: cython.pointer[Partial] = find(r, f)
    if p != cython.NULL and r.begun[p.holder] - p.begun > TOO_FAR:
        count(r, Drop.DROP_REASSEMBLY_TIME)
        forget(r, p)
        p = cython.NULL
    if p == cython.NULL:
        p = begin(r, now, f)
    p.begun = r.begun[p.holder]
    if p.refused:
        return cython.cast(cython.int, Drop.DROP_OVERLAP)
    if p.end and (stop > p.end or (f.more and stop == p.end)):
        return refuse(r, p)
    if not f.more and (p.highest > stop or (p.end and p.end != stop)):
        return refuse(r, p)
    if any_there(p, first, last):
        if all_there(p, first, last) and is_same(r, p, f):
            if not f.more:
                p.end = stop  # what its first copy has not said, and what nothing may contradict any more
            return cython.cast(cython.int, Drop.DROP_FRAGMENT_AGAIN)
        return refuse(r, p)
    if not store(r, p, f):
        return refuse(r, p)
    mark(p, first, last)
    p.congestion |= cython.cast(uint8_t, 1 << (f.congestion & 3))
    if stop > p.highest:
        p.highest = stop
    if not f.more:
        p.end = stop
    if not f.offset:
        p.first_length = f.length
        p.header_length = cython.cast(uint16_t, f.header_length)
        memcpy(p.header, f.header, f.header_length)
    if not p.end or p.blocks != (p.end + 7) >> 3:
        return KEPT
    return complete(r, p)


# rfc: 3168:5.3-fragments 5.3-same
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def complete(r: cython.pointer[Reassembly], p: cython.pointer[Partial]) -> cython.int:
    """All is there: put it together."""
    at: uint32_t = 0
    part: uint32_t
    total: uint32_t = p.header_length + p.end
    marked: uint8_t
    # RFC 3168 section 5.3; as Linux, what says both that it may be marked and that it may not is dropped
    if total > longest(p.version) or (p.congestion & NOT_ECT and p.congestion != NOT_ECT):
        forget(r, p)
        return cython.cast(cython.int, Drop.DROP_FRAGMENT)
    memcpy(r.whole, p.header, p.header_length)
    if p.congestion & CE:
        marked = 0x30 if p.version == 6 else 3
        r.whole[1] |= marked
    while at < p.end:
        part = p.end - at if p.end - at < CHUNK else CHUNK
        memcpy(r.whole + p.header_length + at, r.memory + (p.chunk[at // CHUNK] - 1) * CHUNK, part)
        at += part
    r.whole_length = total
    r.counters.reassembled += 1
    forget(r, p)
    return WHOLE


# rfc: 791:fragment-key
def gather_packet(
    r: cython.pointer[Reassembly], now: uint64_t, packet: cython.pointer[cython.const[uint8_t]]
) -> cython.int:
    """Take a fragment that is an IPv4 packet, whose header has been found good. A whole one has a good header, too."""
    f: Fragment
    result: cython.int
    header: uint32_t = (packet[0] & 15) << 2
    place: uint16_t = get16(packet + 6)
    memset(f.ends, 0, 32)
    set32(f.ends, raw32(packet + 12))
    set32(f.ends + 16, raw32(packet + 16))
    f.number = raw16(packet + 4)
    f.offset = (place & IP_OFFSET) << 3
    f.protocol = packet[9]
    f.version = 4
    f.more = place & IP_MF != 0
    f.congestion = packet[1] & 3
    f.header = packet
    f.header_length = header
    f.data = packet + header
    f.length = get16(packet + 2) - header
    result = gather(r, now, cython.address(f))
    if result == WHOLE:
        header = (r.whole[0] & 15) << 2
        put16(r.whole + 2, cython.cast(uint16_t, r.whole_length))
        set16(r.whole + 6, 0)
        set16(r.whole + 10, 0)
        set16(r.whole + 10, cython.cast(uint16_t, ~fold(add(0, r.whole, header))))
    return result


# rfc: 8200:4.5-retained
def gather_packet6(
    r: cython.pointer[Reassembly],
    now: uint64_t,
    f: cython.pointer[Fragment],
    packet: cython.pointer[cython.const[uint8_t]],
    named: uint32_t,
    at: uint32_t,
) -> cython.int:
    """The same of an IPv6 packet whose fragment header is at `at`, up to FRAGMENT_HEADER; what names it is at `named`.
    `f` has the place and the data, which must not reach beyond the longest payload."""
    front: uint8_t[FRAGMENT_HEADER]
    result: cython.int
    memcpy(front, packet, at)
    front[named] = packet[at]
    memcpy(f.ends, packet + 8, 32)
    f.number = raw32(packet + at + 4)
    f.protocol = 0
    f.version = 6
    f.congestion = (packet[1] >> 4) & 3
    f.header = front
    f.header_length = at
    result = gather(r, now, f)
    if result == WHOLE:
        put16(r.whole + 4, cython.cast(uint16_t, r.whole_length - IP6_HEADER))
    return result


# ---- time ----


def reassembly_deadline(r: cython.pointer[cython.const[Reassembly]]) -> uint64_t:
    return r.partials[r.oldest - 1].since + LONGEST if r.oldest else 0


# rfc: 1122:reassembly-timeout
def overdue(r: cython.pointer[Reassembly], now: uint64_t) -> cython.pointer[Partial]:
    """RFC 1122 section 3.3.2: a fixed time, from the first fragment that has come."""
    if not r.oldest or now < r.partials[r.oldest - 1].since + LONGEST:
        return cython.NULL
    return cython.address(r.partials[r.oldest - 1])


def beginning(
    r: cython.pointer[cython.const[Reassembly]],
    p: cython.pointer[cython.const[Partial]],
    out: cython.pointer[uint8_t],
    most: uint32_t,
) -> uint32_t:
    """The first fragment, as much as has room, for an error to quote; 0: it is not there, or is not to be told of."""
    length: uint32_t = p.first_length if p.first_length < CHUNK else CHUNK
    if p.refused or not p.header_length or most < p.header_length:
        return 0
    if length > most - p.header_length:
        length = most - p.header_length
    memcpy(out, p.header, p.header_length)
    memcpy(out + p.header_length, r.memory + (p.chunk[0] - 1) * CHUNK, length)
    return p.header_length + length


def expire(r: cython.pointer[Reassembly], p: cython.pointer[Partial]) -> cython.void:
    """Its time is over."""
    if not p.refused:
        count(r, Drop.DROP_REASSEMBLY_TIME)
    forget(r, p)
