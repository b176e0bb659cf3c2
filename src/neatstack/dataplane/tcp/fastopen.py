"""TCP Fast Open (RFC 7413).

As a server: whoever asks is given a cookie, which only the stack can make and which is good for the peer's address at
any replica; a SYN that brings it may bring text, too, and its connection goes to a program at once. As a client: each
replica remembers the cookies that it was given in its region, in places that their addresses choose, and its page tells
programs of whom it has one.
"""

import cython
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcmp, memcpy, memset
from cython.cimports.neatstack.dataplane.channel.address import Address, is_v4, same
from cython.cimports.neatstack.dataplane.channel.atomic import store32
from cython.cimports.neatstack.dataplane.channel.buffers import tx_span
from cython.cimports.neatstack.dataplane.channel.layout import (
    NEAT_FAST,
    NEAT_FASTOPEN_CLIENT_BARE,
    NEAT_FASTOPEN_SERVER_BARE,
    NEAT_FLAG_FASTOPEN,
    fast_tag,
)
from cython.cimports.neatstack.dataplane.driver.device import Outgoing
from cython.cimports.neatstack.dataplane.ip.output import default_mss
from cython.cimports.neatstack.dataplane.stack import FAST_PEERS, FastKeys, FastPeer, Listener, Stack, View
from cython.cimports.neatstack.dataplane.tcp import congestion
from cython.cimports.neatstack.dataplane.tcp.isn import flow_words, siphash
from cython.cimports.neatstack.dataplane.tcp.listen import listener_numbered
from cython.cimports.neatstack.dataplane.tcp.options import parse, write_cookie
from cython.cimports.neatstack.dataplane.tcp.receive import text
from cython.cimports.neatstack.dataplane.tcp.seq import least
from cython.cimports.neatstack.dataplane.tcp.tcb import (
    TCB_COOKIE_EXPERIMENTAL,
    TCB_COOKIE_OWED,
    TCB_FASTOPEN,
    State,
    Tcb,
)
from cython.cimports.neatstack.dataplane.wire.headers import SYN, TCP_HEADER, Options, Segment

COOKIE = cython.declare(uint32_t, 8)  # bytes of those that we give
KEY = cython.declare(uint32_t, 16)  # bytes of one
LONGEST_COOKIE = cython.declare(uint32_t, 16)  # RFC 7413 section 4.1.1


# ---- server ----


def keys_from(text: cython.pointer[cython.const[uint8_t]], length: uint32_t) -> FastKeys:
    """None, one or two, of 16 bytes each."""
    keys: FastKeys
    memset(cython.address(keys), 0, cython.sizeof(keys))
    memcpy(keys.key, text, least(length, cython.sizeof(keys.key)))
    keys.count = least(length, cython.sizeof(keys.key)) // KEY
    return keys


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def keys_of(
    s: cython.pointer[Stack], listener: cython.pointer[cython.const[Listener]]
) -> cython.pointer[cython.const[FastKeys]]:
    """The listener's own (TCP_FASTOPEN_KEY), or those of the stack; also when it (NULL) is gone."""
    if listener != cython.NULL and listener.fast_keys.count:
        return cython.address(listener.fast_keys)
    return cython.address(s.fast_keys)


# rfc: 7413:4.1.2a
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def cookie_for(
    keys: cython.pointer[cython.const[FastKeys]], t: cython.pointer[cython.const[Tcb]], key: uint32_t
) -> uint64_t:
    """RFC 7413 section 4.1.2: of the peer's address, and ours, whatever the ports, with the first key or the second.

    The same as Linux makes with that key, so that servers of both kinds can share a name.
    """
    words: uint64_t[4]
    count: uint32_t
    if is_v4(t.remote_be):
        count = flow_words(words, t.local_be, t.remote_be)
    else:
        count = flow_words(words, t.remote_be, t.local_be)
    return siphash(keys.key + 2 * key, words, count, cython.cast(uint64_t, 8 * count) << 56)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def proven(
    keys: cython.pointer[cython.const[FastKeys]],
    t: cython.pointer[cython.const[Tcb]],
    cookie: cython.pointer[cython.const[uint8_t]],
    length: uint32_t,
) -> cython.int:
    """Which key the cookie was made with; -1: none."""
    key: uint32_t
    good: uint64_t
    if length == COOKIE:
        for key in range(keys.count):
            good = cookie_for(keys, t, key)
            if not memcmp(cython.address(good), cookie, COOKIE):
                return cython.cast(cython.int, key)
    return -1


# rfc: 7413:4.2.2a 5.1
def open_fast(
    s: cython.pointer[Stack],
    t: cython.pointer[Tcb],
    listener: cython.pointer[Listener],
    seg: cython.pointer[cython.const[Segment]],
) -> cython.void:
    """What the SYN of a new connection says about Fast Open (section 4.2.2), to a listener that has it.

    A cookie that is not good, or one too many of its kind, is answered as a SYN without text, and with a good one; one
    of the second key is good, and answered with one of the first. The operator may want no cookie (section 6.2).
    """
    options: Options
    most: uint32_t = listener.fastopen if listener.fastopen else listener.backlog
    key: cython.int = 0
    parse(seg.options, seg.options_length, cython.address(options))
    if not (options.has_fastopen or seg.len):
        return
    if not s.page.fastopen & NEAT_FASTOPEN_SERVER_BARE:
        if not options.has_fastopen:
            return
        key = proven(keys_of(s, listener), t, seg.options + options.cookie_at, options.cookie_length)
    if key >= 0 and listener.fast_pending < most:
        t.flags |= TCB_FASTOPEN
        congestion.start(t)
        if not key:
            return
    if options.has_fastopen:
        t.flags |= TCB_COOKIE_OWED
        if options.experimental:
            t.flags |= TCB_COOKIE_EXPERIMENTAL


# rfc: 7413:4.2.2b
def take_text_of_syn(s: cython.pointer[Stack], i: uint32_t, seg: cython.pointer[cython.const[Segment]]) -> cython.void:
    """The text on a SYN whose cookie was good."""
    copy: Segment = seg[0]
    copy.seq += 1
    copy.flags &= ~SYN
    if copy.len:
        text(s, i, cython.address(copy))
        s.tcbs[i].tally.syn_text = 1


# ---- client ----


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def place_of(s: cython.pointer[Stack], remote_be: Address) -> cython.pointer[FastPeer]:
    words: uint64_t[4]
    count: uint32_t = flow_words(words, remote_be, remote_be)
    hashed: uint64_t = siphash(s.isn_key, words, count, cython.cast(uint64_t, 17) << 56)
    return cython.address(s.region.fast_peers[hashed & (FAST_PEERS - 1)])


# rfc: 7413:4.2.2c 4.1.3a
def write_fast(
    s: cython.pointer[Stack],
    i: uint32_t,
    out: cython.pointer[Outgoing],
    length: uint32_t,
    taken: cython.pointer[uint32_t],
) -> uint32_t:
    """Add to a SYN or SYN-ACK whose header has `length` bytes so far; how many it has now, and of text in `taken`.

    Only a first SYN asks for a cookie, or has one and text: whatever was wrong with that, one that is sent again is
    plain (section 4.1.3.1).
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    to: cython.pointer[uint8_t] = out.header + out.transport + length
    cookie: uint64_t
    peer: cython.pointer[FastPeer]
    mss: uint32_t = t.rcv.mss
    if t.flags & TCB_COOKIE_OWED:
        cookie = cookie_for(keys_of(s, listener_numbered(s, t.listener)), t, 0)
        return length + write_cookie(
            to,
            cython.cast(cython.pointer[uint8_t], cython.address(cookie)),
            COOKIE,
            t.flags & TCB_COOKIE_EXPERIMENTAL,
        )
    if t.state != State.SYN_SENT or not v.options & NEAT_FLAG_FASTOPEN or t.snd.backoff:
        return length
    peer = place_of(s, t.remote_be)
    if not s.page.fastopen & NEAT_FASTOPEN_CLIENT_BARE:
        if not same(peer.remote_be, t.remote_be) or not peer.length or peer.length > LONGEST_COOKIE:
            return length + write_cookie(to, to, 0, False)
        length += write_cookie(to, peer.cookie, peer.length, False)
        mss = least(mss, peer.mss)
    taken[0] = least(v.tx_head, mss - (length - TCP_HEADER))
    if taken[0]:
        t.flags |= TCB_FASTOPEN
        tx_span(
            v,
            0,
            taken[0],
            cython.address(out.first),
            cython.address(out.first_length),
            cython.address(out.second),
        )
        out.second_length = taken[0] - out.first_length
        t.snd.max = t.snd.iss + 1 + taken[0]
        t.bytes_out = taken[0]
    return length


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def tell_programs(s: cython.pointer[Stack], remote_be: Address, known: cython.bint) -> cython.void:
    """On the replica's page: whether there is a cookie for a host."""
    tag: uint32_t = fast_tag(remote_be)
    store32(cython.address(s.replica_page.fast[tag % NEAT_FAST]), tag if known else 0)


# rfc: 7413:4.1.3 4.1.3a 4.1.3b
def learn(
    s: cython.pointer[Stack], t: cython.pointer[cython.const[Tcb]], seg: cython.pointer[cython.const[Segment]]
) -> cython.void:
    """A SYN-ACK to a SYN that asked for a cookie, or had one, brings a new one (section 4.1.3).

    Where the operator wants none, none was asked for.
    """
    peer: cython.pointer[FastPeer] = place_of(s, t.remote_be)
    options: Options
    parse(seg.options, seg.options_length, cython.address(options))
    if s.page.fastopen & NEAT_FASTOPEN_CLIENT_BARE or not options.has_fastopen or options.experimental:
        return
    if not options.cookie_length:
        return
    peer.length = 0  # a process that dies between two stores leaves no wrong cookie
    peer.remote_be = t.remote_be
    peer.mss = options.mss if options.mss else default_mss(t.remote_be)
    memcpy(peer.cookie, seg.options + options.cookie_at, options.cookie_length)
    peer.length = options.cookie_length
    tell_programs(s, t.remote_be, True)


# rfc: 7413:4.2.1a 4.1.3.1
def forget(s: cython.pointer[Stack], t: cython.pointer[cython.const[Tcb]]) -> cython.void:
    """A SYN with text was lost, and one without has arrived: perhaps somebody on the way does not like it."""
    peer: cython.pointer[FastPeer] = place_of(s, t.remote_be)
    if same(peer.remote_be, t.remote_be):
        peer.length = 0
        tell_programs(s, t.remote_be, False)
