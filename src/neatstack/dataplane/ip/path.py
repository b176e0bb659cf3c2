"""What the paths to other hosts can carry (RFC 1191), kept for ten minutes, by each replica for its own flows.

It stands on the replica's page, where programs read it, and the replica's successor does.
No less than 552 bytes is believed, as with Linux's min_pmtu: a forged error must not make crumbs of us. To a path that
is said to be narrower packets of that size go without Don't Fragment, and routers cut them.
"""

import cython
from cython.cimports.libc.stdint import uint16_t, uint32_t, uint64_t
from cython.cimports.neatstack.dataplane.channel.address import Address, is_v4, same
from cython.cimports.neatstack.dataplane.channel.atomic import fence, store_release
from cython.cimports.neatstack.dataplane.channel.layout import NEAT_PATHS, Path, path_place
from cython.cimports.neatstack.dataplane.ip.output import link_mtu
from cython.cimports.neatstack.dataplane.stack import Stack

LEAST_MTU = cython.declare(uint32_t, 552)
LEAST_MTU6 = cython.declare(uint32_t, 1280)  # RFC 8200 section 5
REMEMBERED = cython.declare(uint64_t, 600000000000)  # ns (RFC 1191 section 6.3)


# rfc: 4821:5.2a 5.2b
@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def path_of(s: cython.pointer[Stack], remote_be: Address) -> cython.pointer[Path]:
    return cython.address(s.replica_page.paths[path_place(remote_be)])


def recall_paths(s: cython.pointer[Stack]) -> cython.void:
    """What a predecessor has heard holds on."""
    n: uint32_t
    for n in range(NEAT_PATHS):
        if s.replica_page.paths[n].narrow:
            s.narrow_paths = 1


# rfc: 1191:3f 6.3, 8201:4-again 5.3-aging
def path_mtu(s: cython.pointer[Stack], remote_be: Address) -> uint32_t:
    path: cython.pointer[Path] = path_of(s, remote_be)
    if not same(path.remote_be, remote_be) or s.now >= path.until_ns or path.mtu > link_mtu(s, remote_be):
        return 0
    return path.mtu


def is_narrow(s: cython.pointer[Stack], remote_be: Address) -> cython.bint:
    path: cython.pointer[Path] = path_of(s, remote_be)
    return path.narrow != 0 and same(path.remote_be, remote_be) and s.now < path.until_ns


# rfc: 1191:5
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def plateau(length: uint32_t) -> uint32_t:
    """What a router that does not tell its MTU may have: the next lower common one (RFC 1191 section 7.1)."""
    if length > 8166:
        return 8166
    if length > 4352:
        return 4352
    if length > 2002:
        return 2002
    if length > 1492:
        return 1492
    return 1006 if length > 1006 else LEAST_MTU


# rfc: 1191:3b 3d 3e, 8201:4-reduce 4-least 4-increase, 1122:longest-sent, 8200:5-path
def learn_path(s: cython.pointer[Stack], remote_be: Address, mtu: uint32_t, length: uint32_t) -> uint32_t:
    """A router says that a packet of `length` bytes was too long for its next link, which takes `mtu` (0: it does not
    say). What is believed of it; 0: nothing, for no router of ours says so."""
    path: cython.pointer[Path] = path_of(s, remote_be)
    if not is_v4(remote_be) and mtu < LEAST_MTU6:  # RFC 8201 section 4: it never is, and such a message is no good
        return 0
    if mtu == 0:
        mtu = plateau(length)
    if mtu >= link_mtu(s, remote_be):
        return 0
    known: uint32_t = path_mtu(s, remote_be)
    if known and mtu > known:
        return known
    store_release(cython.address(path.mtu), 0)
    fence()
    path.remote_be = remote_be
    path.narrow = mtu < LEAST_MTU
    if path.narrow:
        mtu = LEAST_MTU
        s.narrow_paths = 1
    path.until_ns = s.now + REMEMBERED
    store_release(cython.address(path.mtu), mtu)
    return mtu


# rfc: 6864:4.3-unique 4.2-copies
def own_identification(s: cython.pointer[Stack], count: uint32_t) -> uint16_t:
    """Of `count` packets that may come in fragments. All replicas send from one address: each has its own, which come
    round as late as they can (RFC 6864 section 4.3)."""
    own: uint32_t = 65536 // (s.page.replicas if s.page.replicas else 1)
    number: uint32_t = s.fragments_id % own
    s.fragments_id = cython.cast(uint16_t, (number + count) % own)
    return cython.cast(uint16_t, number + own * s.replica)
