"""The UDP of a mirror stack: what one socket sends to a port, the one bound there receives, in the same replica."""

from __future__ import annotations

import ctypes
import errno
import socket
import time
from dataclasses import dataclass, field
from typing import Any

from tests.support.layout import STRUCTURES, Address, neat

Record = STRUCTURES["neat_datagram"]
MASK = 0xFFFFFFFF
HEADER = ctypes.sizeof(Record)


def v4(address: ctypes.Structure) -> int:
    """The IPv4 address that is in a mapped one."""
    return int(address.lo >> 32)


def mapped(address_be: int) -> ctypes.Structure:
    return Address(0, address_be << 32 | 0xFFFF0000)


@dataclass(eq=False)
class Bound:
    number: int
    channel: int
    address: int
    port_be: int
    reuse: bool
    holders: set[int]
    slots: list[int] = field(default_factory=list)  # by replica


def need(length: int) -> int:
    return (HEADER + length + neat.DATAGRAM_ALIGN - 1) & -neat.DATAGRAM_ALIGN


class Datagrams:
    """The manager's and the replicas' part."""

    def __init__(self, mirror: Any) -> None:
        self.mirror = mirror
        self.bound: dict[int, Bound] = {}
        self.closing: list[Bound] = []
        self.stalled = False  # nothing is taken out of send rings

    # ---- the manager ----

    def bind(self, request: Any, reply: Any) -> None:
        reuse = bool(request.flags & (neat.BIND_REUSEADDR | neat.BIND_REUSEPORT))
        address_be = v4(request.address_be)
        if address_be & 0xFF != 127 and address_be not in (0, self.mirror.page.address_be):
            reply.error = errno.EADDRNOTAVAIL
            return
        port_be = request.port_be
        if not port_be:
            self.mirror.ports += 1
            port_be = socket.htons(self.mirror.ports)
        if any(b.port_be == port_be and not (b.reuse and reuse) for b in self.bound.values()):
            reply.error = errno.EADDRINUSE
            return
        self.mirror.bindings += 1
        number = self.mirror.bindings
        b = Bound(number, request.channel, address_be, port_be, reuse, {request.channel})
        for channel in self.mirror.channels[request.channel]:
            b.slots.append(
                next(
                    slot
                    for slot in range(channel.program.slots_used)
                    if (p := channel.sockets[slot].program).role == neat.ROLE_DATAGRAM
                    and p.listener == request.binding
                    and (channel.sockets[slot].replica.generation != p.generation)
                )
            )
            lines = channel.sockets[b.slots[-1]].replica
            lines.rx_head = lines.rx_base = lines.tx_tail = lines.listener = 0
            lines.generation = channel.sockets[b.slots[-1]].program.generation
            lines.state = neat.STATE_OPEN
        self.bound[number] = b
        reply.binding, reply.port_be = number, port_be

    def close(self, number: int, holder: int) -> None:
        b = self.bound[number]
        b.holders.discard(holder)
        if not b.holders:
            self._end(b)

    def inherit(self, parent: int, child: int) -> None:
        for b in self.bound.values():
            if parent in b.holders:
                b.holders.add(child)

    def drop(self, holder: int) -> None:
        for b in [b for b in self.bound.values() if holder in b.holders]:
            self.close(b.number, holder)

    def _end(self, b: Bound) -> None:
        self.work()
        del self.bound[b.number]
        for channel, slot in zip(self.mirror.channels[b.channel], b.slots, strict=True):
            self.mirror._free(channel, slot)

    # ---- the replicas ----

    def command(self, channel: Any, op: int, slot: int) -> None:
        if any(b.channel == channel.number and b.slots[channel.replica] == slot for b in self.bound.values()):
            channel.sockets[slot].replica.generation = channel.sockets[slot].program.generation
        elif op == neat.OP_DETACH:
            self.mirror._free(channel, slot)

    def work(self) -> bool:
        busy = False
        for b in [] if self.stalled else list(self.bound.values()):
            for channel, slot in zip(self.mirror.channels[b.channel], b.slots, strict=True):
                while channel.sockets[slot].program.tx_head != channel.sockets[slot].replica.tx_tail:
                    self._send(b, channel, slot)
                    busy = True
        return busy

    @staticmethod
    def _ring(channel: Any, slot: int, receive: bool) -> tuple[int, int]:
        header = channel.header
        at = header.buffers_at + slot * (header.rx_size + header.tx_size)
        return (at, header.rx_size) if receive else (at + header.rx_size, header.tx_size)

    def _send(self, b: Bound, channel: Any, slot: int) -> None:
        program, lines = channel.sockets[slot].program, channel.sockets[slot].replica
        base, size = self._ring(channel, slot, False)

        def take(cursor: int, length: int) -> bytes:
            at = (cursor - program.tx_base) % size
            first = min(length, size - at)
            return channel.memory[base + at : base + at + first] + channel.memory[base : base + length - first]

        record = Record.from_buffer_copy(take(lines.tx_tail, HEADER))
        payload = take(lines.tx_tail + HEADER, record.length)
        lines.tx_tail = (lines.tx_tail + need(record.length)) & MASK
        step = record.segment or len(payload) or 1
        for at in range(0, max(len(payload), 1), step):
            self._arrive(b, channel, record, payload[at : at + step])
        for number in b.holders:
            self.mirror._event(number, channel, slot)

    def _arrive(self, source: Bound, channel: Any, sent: Any, payload: bytes) -> None:
        """Connected sockets first; `channel` says which replica it is."""
        peer = lambda b: self.mirror.channels[b.channel][channel.replica].sockets[b.slots[channel.replica]].program  # noqa: E731
        ours = [b for b in self.bound.values() if b.port_be == sent.remote_port_be]
        fitting = [b for b in ours if not peer(b).shut & neat.SHUT_ABORT]
        there = [b for b in fitting if v4(peer(b).remote_be) and peer(b).remote_port_be == source.port_be]
        there = there or [b for b in fitting if not v4(peer(b).remote_be)]
        if not there:
            self._refuse(source, channel, sent, payload)
            return
        target = there[-1]
        into = self.mirror.channels[target.channel][channel.replica]
        slot = target.slots[channel.replica]
        record = Record(length=len(payload), tos=sent.tos, ttl=sent.ttl or 64, time_ns=time.monotonic_ns())
        record.remote, record.local = sent.local, sent.remote
        record.remote_port_be, record.local_port_be = source.port_be, sent.remote_port_be
        self._put(into, slot, bytes(record) + payload, need(len(payload)))
        for number in target.holders:
            self.mirror._event(number, into, slot)

    def _refuse(self, source: Bound, channel: Any, sent: Any, payload: bytes) -> None:
        slot = source.slots[channel.replica]
        program, lines = channel.sockets[slot].program, channel.sockets[slot].replica
        if program.flags & neat.FLAG_ERRORS:
            record = Record(length=len(payload), flags=neat.DATAGRAM_ERROR, error=errno.ECONNREFUSED)
            record.icmp_type = record.icmp_code = 3
            record.remote, record.local, record.remote_port_be = sent.remote, sent.remote, sent.remote_port_be
            self._put(channel, slot, bytes(record) + payload, need(len(payload)))
        elif not v4(program.remote_be):
            return
        lines.error = errno.ECONNREFUSED
        lines.listener += 1

    def _put(self, channel: Any, slot: int, data: bytes, length: int) -> None:
        program, lines = channel.sockets[slot].program, channel.sockets[slot].replica
        base, size = self._ring(channel, slot, True)
        waiting = (lines.rx_head - program.rx_tail) & MASK
        if waiting + length > size or (program.receive_buffer and waiting >= program.receive_buffer):
            return
        at = (lines.rx_head - lines.rx_base) % size
        first = data[: size - at]
        channel.memory[base + at : base + at + len(first)] = first
        channel.memory[base : base + len(data) - len(first)] = data[len(first) :]
        lines.rx_head = (lines.rx_head + length) & MASK
