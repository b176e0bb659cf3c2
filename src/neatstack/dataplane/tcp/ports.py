"""Local ports of connections that we open: random (RFC 6056 algorithm 1), and the return flow comes to this replica."""

import cython
from cython.cimports.libc.stdint import uint16_t, uint32_t, uint64_t
from cython.cimports.neatstack.dataplane.channel.address import Address
from cython.cimports.neatstack.dataplane.driver.flowhash import bucket, flow_hash
from cython.cimports.neatstack.dataplane.ip.output import is_local
from cython.cimports.neatstack.dataplane.stack import Stack
from cython.cimports.neatstack.dataplane.tcp.isn import random32
from cython.cimports.neatstack.dataplane.tcp.listen import find_listener
from cython.cimports.neatstack.dataplane.tcp.table import find
from cython.cimports.neatstack.dataplane.wire.bytes import swap16

FIRST = cython.declare(uint32_t, 32768)  # Linux: net.ipv4.ip_local_port_range
COUNT = cython.declare(uint32_t, 60999 - 32768 + 1)
TRIES = cython.declare(uint32_t, 8192)  # bounds the time that one connect() takes


# rfc: 6056:3.3a
def usable(
    s: cython.pointer[Stack], local_be: Address, local_port_be: uint16_t, remote_be: Address, remote_port_be: uint16_t
) -> cython.bint:
    """Whether a connection may be opened on this flow: it is new, and its packets will be steered here.

    Connections to ourselves never leave this replica, so they are not steered. A bucket that moves is nobody's (see
    NEAT_TABLE_MOVING).
    """
    hashed: uint32_t
    if not is_local(s, remote_be):
        hashed = flow_hash(s.page.hash_key, remote_be, local_be, remote_port_be, local_port_be)
        if s.page.table[bucket(hashed)] != s.replica:
            return False
    return find(s, local_be, local_port_be, remote_be, remote_port_be) == 0


# rfc: 6056:3.2 3.3
def choose(s: cython.pointer[Stack], local_be: Address, remote_be: Address, remote_port_be: uint16_t) -> uint16_t:
    """A port in network order; 0: none was found. A listener's own port is left to it."""
    at: uint32_t = cython.cast(uint32_t, cython.cast(uint64_t, random32(s)) * COUNT >> 32)
    port_be: uint16_t
    for _ in range(TRIES):
        port_be = swap16(cython.cast(uint16_t, FIRST + at))
        if usable(s, local_be, port_be, remote_be, remote_port_be):
            if find_listener(s, local_be, port_be) == cython.NULL:
                return port_be
        at += 1
        if at == COUNT:
            at = 0
    return 0
