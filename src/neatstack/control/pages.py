"""Memory that the manager makes for others: the stack page, replica pages, neighbours, regions, doorbells."""

import fcntl
import mmap
import os
import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Address

MAGIC = 0x5441454E  # NEAT_MAGIC
VERSION = 6  # NEAT_LAYOUT_VERSION
BUCKETS = 256  # NEAT_BUCKETS
MOST_REPLICAS = 16  # NEAT_MAX_REPLICAS
TABLE_MOVING = 0x40  # NEAT_TABLE_MOVING: any replica that is steered a SYN of this bucket may take it
TABLE_MOVED = 0x80  # NEAT_TABLE_MOVED, with the next owner in the lower bits: only that one may
STACK_PAGE = struct.Struct("=9I6s2x2I4x3Q256s")  # struct neat_stack_page; padded where C pads
GENERATION_AT = 8
REPLICA_PAGE_SIZE = 4096
NEIGHBOURS = 1024
NEIGHBOUR_SIZE = 12  # struct Neighbour
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def memory(name: str, size: int) -> int:
    """New zeroed memory of `size` bytes, which nobody can resize any more: a shrunk file is a SIGBUS in its readers."""
    descriptor = os.memfd_create(f"neat-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
    return descriptor


def doorbell() -> int:
    """A new eventfd. Never read: who waits for it waits edge-triggered."""
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)


def read_only(descriptor: int) -> int:
    """A new descriptor of the same memory that cannot be mapped to write."""
    return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)


def as_be(address: IPv4Address) -> int:
    """The number that a uint32_t holding the address in network byte order has here."""
    return int.from_bytes(address.packed, "little")


@dataclass
class StackPage:
    """struct neat_stack_page, as the manager knows it. Change the fields, then `write`."""

    address: IPv4Address
    netmask: IPv4Address
    gateway: IPv4Address | None
    mtu: int
    replicas: int
    active: int
    mac: bytes
    link_queue: int
    backlog_max: int
    keys: tuple[int, int, int]
    table: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    generation: int = 0

    def write(self, page: mmap.mmap) -> None:
        """Write all, then the generation, so that who sees the new generation sees the rest."""
        self.generation += 1
        packed = STACK_PAGE.pack(
            MAGIC,
            VERSION,
            self.generation,
            as_be(self.address),
            as_be(self.netmask),
            as_be(self.gateway) if self.gateway else 0,
            self.mtu,
            self.replicas,
            self.active,
            self.mac,
            self.link_queue,
            self.backlog_max,
            *self.keys,
            bytes(self.table),
        )
        after = GENERATION_AT + 4
        page[:GENERATION_AT] = packed[:GENERATION_AT]
        page[after : STACK_PAGE.size] = packed[after:]
        page[GENERATION_AT:after] = packed[GENERATION_AT:after]

    @classmethod
    def read(cls, page: mmap.mmap) -> "StackPage":
        """What a page says; raises ValueError for another layout."""
        values = STACK_PAGE.unpack_from(page)
        if values[:2] != (MAGIC, VERSION):
            raise ValueError("stack page of another version")
        address, netmask, gateway = (IPv4Address(value.to_bytes(4, "little")) for value in values[3:6])
        return cls(
            address=address,
            netmask=netmask,
            gateway=gateway if int(gateway) else None,
            mtu=values[6],
            replicas=values[7],
            active=values[8],
            mac=values[9],
            link_queue=values[10],
            backlog_max=values[11],
            keys=values[12:15],
            table=list(values[15]),
            generation=values[2],
        )
