"""A state region as Python values, read while its replica goes on writing.

Each record is copied, then read: a record that changes under the copy may mix two moments of one connection, but
nothing of what is read is used as an address.
"""

import cython
from cython.cimports.cpython.buffer import PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t
from cython.cimports.libc.string import memcpy
from cython.cimports.neatstack.dataplane.channel.address import Address, is_v4, v4
from cython.cimports.neatstack.dataplane.channel.region import valid
from cython.cimports.neatstack.dataplane.stack import DROPS, MAX_LISTENERS, Counters, Listener, RegionHeader
from cython.cimports.neatstack.dataplane.tcp.tcb import NO_CHANNEL, TCB_ACCEPTED, TCB_PASSIVE, Tcb

from neatstack.dataplane.tcp.tcb import State

# In the order of enum Drop.
DROP_NAMES = (
    "short",
    "ethertype",
    "not_ours",
    "ip_header",
    "ip_checksum",
    "fragment",
    "protocol",
    "tcp_header",
    "tcp_checksum",
    "martian",
    "no_port",
    "syn_queue",
    "accept_queue",
    "no_memory",
    "sequence",
    "old_ack",
    "blind_attack",
    "ranges",
    "moved",
    "neighbour",
    "device",
    "command",
    "offload",
    "udp_header",
    "udp_checksum",
    "udp_port",
    "udp_full",
    "icmp",
    "udp_send",
    "overlap",
    "fragment_again",
    "reassembly_time",
    "reassembly_room",
    "ttl",
)
STATE_NAMES = {int(state): state.name for state in State}

FREE = cython.declare(uint8_t, State.FREE)
CLOSED = cython.declare(uint8_t, State.CLOSED)  # nothing is left but what a program has not closed yet

if len(DROP_NAMES) != DROPS:
    raise ImportError("DROP_NAMES does not name the reasons of enum Drop")


def address_text(address_be: Address) -> str:
    """As people write it (RFC 5952)."""
    last: uint32_t = v4(address_be)
    if is_v4(address_be):
        return f"{last & 255}.{last >> 8 & 255}.{last >> 16 & 255}.{last >> 24}"
    raw: bytes = cython.cast(cython.p_char, cython.address(address_be))[:16]
    text = ":".join(f"{raw[k] << 8 | raw[k + 1]:x}" for k in range(0, 16, 2))
    for zeros in range(8, 1, -1):  # the first of the longest runs of zero words
        run = ":".join("0" * zeros)
        at = f":{text}:".find(f":{run}:")
        if at >= 0:
            return f"{text[: max(at - 1, 0)]}::{text[at + len(run) + 1 :]}"
    return text


def port_number(port_be: uint16_t) -> int:
    return (port_be & 255) << 8 | port_be >> 8


@cython.final
@cython.cclass
class Region:
    """A region's memory, checked to be one. ValueError if it is not, or is of another version."""

    def __cinit__(self, buffer: object):
        PyObject_GetBuffer(buffer, cython.address(self._view), PyBUF_SIMPLE)
        self.base = cython.cast(cython.pointer[uint8_t], self._view.buf)
        if self._view.len < cython.cast(cython.Py_ssize_t, cython.sizeof(RegionHeader)):
            raise ValueError("not a state region: too short")
        memcpy(cython.address(self.header), self.base, cython.sizeof(RegionHeader))
        if not valid(cython.address(self.header), self._view.len):
            raise ValueError("not a state region of this version")

    def __dealloc__(self):
        PyBuffer_Release(cython.address(self._view))


def counters(buffer: object) -> dict[str, int]:
    """All counters of the replica; frames dropped are under drop_REASON."""
    region: Region = Region(buffer)
    return counters_of(cython.cast(cython.pointer[Counters], region.base + region.header.counters_at))


def connections(buffer: object, limit: int = 100_000) -> list[dict[str, object]]:
    """The replica's connections, at most `limit`. Times are in microseconds, sizes in bytes."""
    region: Region = Region(buffer)
    tcbs: cython.pointer[Tcb] = cython.cast(cython.pointer[Tcb], region.base + region.header.tcbs_at)
    return connections_of(cython.address(region.header), tcbs, limit)


def listeners(buffer: object) -> list[dict[str, object]]:
    """The replica's listeners."""
    region: Region = Region(buffer)
    return listeners_of(cython.cast(cython.pointer[Listener], region.base + region.header.listeners_at))


def counters_of(c: cython.pointer[cython.const[Counters]]) -> dict:
    copy: Counters = c[0]
    named: dict = copy
    drops: list = named.pop("drops")
    named.update({f"drop_{name}": count for name, count in zip(DROP_NAMES, drops, strict=True)})
    return named


def connection_of(i: cython.uint, t: cython.pointer[cython.const[Tcb]]) -> dict:
    copy: Tcb = t[0]
    return {
        "index": i,
        "state": STATE_NAMES.get(copy.state, "?"),
        "local_address": address_text(copy.local_be),
        "local_port": port_number(copy.local_port_be),
        "remote_address": address_text(copy.remote_be),
        "remote_port": port_number(copy.remote_port_be),
        "channel": -1 if copy.channel == NO_CHANNEL else copy.channel,
        "listener": copy.listener if copy.flags & TCB_PASSIVE else 0,
        "accepted": bool(copy.flags & TCB_ACCEPTED),
        "send_q": copy.snd.max - copy.snd.una,
        "mss": copy.snd.mss,
        "rtt": copy.rtt.srtt,
        "rttvar": copy.rtt.rttvar,
        "rto": copy.rtt.rto,
        "cwnd": copy.cc.cwnd,
        "ssthresh": copy.cc.ssthresh,
        "snd_wnd": copy.snd.wnd,
        "rcv_wnd": copy.rcv.wnd,
        "wscale": f"{copy.snd.wscale},{copy.rcv.wscale}",
        "retransmits": copy.cc.retransmits,
        "bytes_in": copy.bytes_in,
        "bytes_out": copy.bytes_out,
    }


def connections_of(
    header: cython.pointer[cython.const[RegionHeader]], tcbs: cython.pointer[cython.const[Tcb]], limit: cython.int
) -> list:
    found: list = []
    i: uint32_t
    for i in range(1, header.tcbs_used):
        if len(found) >= limit:
            break
        if tcbs[i].state != FREE and tcbs[i].state != CLOSED:
            found.append(connection_of(i, cython.address(tcbs[i])))
    return found


def listeners_of(listeners: cython.pointer[cython.const[Listener]]) -> list:
    found: list = []
    i: cython.int
    for i in range(MAX_LISTENERS):
        copy: Listener = listeners[i]
        if not copy.number:
            continue
        found.append(
            {
                "number": copy.number,
                "address": address_text(copy.address_be),
                "port": port_number(copy.port_be),
                "backlog": copy.backlog,
                "half_open": copy.half_open,
                "waiting": copy.waiting,
                "overflows": copy.overflows,
                "channels": [n for n in range(256) if copy.channels[n >> 6] >> (n & 63) & 1],
            }
        )
    return found
