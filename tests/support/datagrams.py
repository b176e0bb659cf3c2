"""A UDP socket as a program sees it in shared memory, in plain Python, with what the manager does for it."""

from __future__ import annotations

import ctypes
import ipaddress
import itertools
from dataclasses import dataclass

from tests.support.layout import STRUCTURES, neat
from tests.support.program import Program, Socket, address_be, port_be

Record = STRUCTURES["neat_datagram"]
ALIGN = neat.DATAGRAM_ALIGN
_numbers = itertools.count(100_000)  # of bindings: the manager's job
_ports = itertools.count(33000)


def mapped(address: str) -> ctypes.Structure:
    """An address as the rings have it; "" is none."""
    return address_be(address or "::")


def text(address: bytes) -> str:
    """As people write it."""
    parsed = ipaddress.IPv6Address(bytes(address))
    return str(parsed.ipv4_mapped or parsed)


@dataclass(frozen=True)
class Received:
    """What recvmsg() would return."""

    payload: bytes
    source: tuple[str, int]
    destination: tuple[str, int]
    tos: int
    ttl: int
    flags: int
    error: int
    icmp: tuple[int, int]  # type and code
    time_ns: int


class DatagramSocket:
    """One slot, of one replica. `number` is the manager's; `attach` False: the manager is not asked."""

    def __init__(
        self,
        program: Program,
        port: int = 0,
        address: str = "0.0.0.0",
        *,
        flags: int = 0,
        bind: bool = True,
        slot: Socket | None = None,
    ) -> None:
        self.program, self.flags = program, flags
        self.port, self.address = port or next(_ports), address
        self.number = next(_numbers)
        self.slot = slot or program.free_slot()
        self.cookie = self.number
        self.told_at = 0  # position after our last command
        self.slot.open(neat.ROLE_DATAGRAM, listener=self.cookie)
        if bind:
            self.bind()

    def bind(self) -> None:
        self.program.engine.bind(self.number, self.program.channel, self.cookie, self.address, self.port, self.flags)

    def close(self) -> None:
        self.slot.closed = True
        self.program.engine.unbind(self.number)

    def connect(self, address: str, port: int) -> None:
        mine = self.slot.mine
        mine.remote_be, mine.remote_port_be = address_be(address), port_be(port)
        mine.generation = (mine.generation + 1) & 0xFFFFFFFF
        self.slot.look()

    # ---- rings ----

    def _put(self, at: int, data: bytes) -> None:
        base, size = self.slot._ring(sending=True)
        first = data[: size - at]
        self.program.memory[base + at : base + at + len(first)] = first
        self.program.memory[base : base + len(data) - len(first)] = data[len(first) :]

    def put(self, record: bytes, advance: int) -> None:
        """Write raw bytes at the send ring's head, and move it."""
        mine = self.slot.mine
        _, size = self.slot._ring(sending=True)
        if mine.tx_head == self.slot.replica.tx_tail:
            mine.tx_base = mine.tx_head
        self._put((mine.tx_head - mine.tx_base) % size, record)
        mine.tx_head = (mine.tx_head + advance) & 0xFFFFFFFF
        if (self.program.replica.commands_tail - self.told_at) & 0x80000000 == 0:  # the last command was taken
            self.slot.look()
            self.told_at = self.program.lines.commands_head

    def raw(self, record: bytes, advance: int) -> None:
        """As put(), of a program that does not care where it writes, nor how far."""
        mine = self.slot.mine
        _, size = self.slot._ring(sending=True)
        self._put((mine.tx_head - mine.tx_base) % size, record)
        mine.tx_head = (mine.tx_head + advance) & 0xFFFFFFFF

    def send(
        self, payload: bytes, address: str, port: int, *, source: str = "", tos: int = 0, ttl: int = 0,
        flags: int = 0, segment: int = 0,
    ) -> None:  # fmt: skip
        """sendmsg(); the engine is run by the test."""
        record = Record(length=len(payload), flags=flags, segment=segment, tos=tos, ttl=ttl)
        record.remote, record.local = mapped(address), mapped(source)
        record.remote_port_be = port_be(port)
        whole = bytes(record) + payload
        self.put(whole, -(-len(whole) // ALIGN) * ALIGN)

    @property
    def waiting(self) -> int:
        """Bytes in the receive ring, with headers."""
        return self.slot.readable

    def recv(self) -> Received | None:
        """The next datagram; None when there is none."""
        if not self.waiting:
            return None
        base, size = self.slot._ring(sending=False)
        mine, theirs = self.slot.mine, self.slot.replica

        def take(cursor: int, length: int) -> bytes:
            at = (cursor - theirs.rx_base) % size
            first = min(length, size - at)
            return (
                self.program.memory[base + at : base + at + first] + self.program.memory[base : base + length - first]
            )

        record = Record.from_buffer_copy(take(mine.rx_tail, ctypes.sizeof(Record)))
        payload = take(mine.rx_tail + ctypes.sizeof(Record), record.length)
        need = -(-(ctypes.sizeof(Record) + record.length) // ALIGN) * ALIGN
        mine.rx_tail = (mine.rx_tail + need) & 0xFFFFFFFF
        return Received(
            payload,
            (text(record.remote), port_be(record.remote_port_be)),
            (text(record.local), port_be(record.local_port_be)),
            record.tos, record.ttl, record.flags, record.error, (record.icmp_type, record.icmp_code), record.time_ns,
        )  # fmt: skip

    def recv_all(self) -> list[bytes]:
        found = []
        while (one := self.recv()) is not None:
            found.append(one.payload)
        return found
