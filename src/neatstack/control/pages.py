"""Memory that the manager makes for others: the stack page, replica pages, neighbours, regions, doorbells."""

import fcntl
import mmap
import os
import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Any

MAGIC = 0x5441454E  # NEAT_MAGIC
VERSION = 15  # NEAT_LAYOUT_VERSION
BUCKETS = 256  # NEAT_BUCKETS
MOST_REPLICAS = 16  # NEAT_MAX_REPLICAS
TABLE_MOVING = 0x40  # NEAT_TABLE_MOVING: any replica that is steered a SYN of this bucket may take it
TABLE_MOVED = 0x80  # NEAT_TABLE_MOVED, with the next owner in the lower bits: only that one may
STACK_PAGE = struct.Struct("=8I2BH2I6s2B2I2H3Q16s3I4x192s2560s256s")  # struct neat_stack_page; padded where C pads
FIELDS = (
    "magic version generation address netmask gateway mtu mtu6 ttl hop_limit icmp_errors replicas active mac"
    " ecn receive_shift link_queue backlog_max without fastopen key0 key1 key2 gateway6 owns ways unsent_most"
    " own routes table"
).split()
OWN = struct.Struct("=16s2I")  # struct neat_own
ROUTE = struct.Struct("=16s16sI4x")  # struct neat_route
MOST_ADDRESSES = 8  # NEAT_MAX_ADDRESSES
MOST_ROUTES = 8  # of the operator; these,
MOST_PREFIXES = 8  # what routers say to be on the link,
MOST_REDIRECTS = 48  # and the redirects that are obeyed: together NEAT_MAX_ROUTES
DEPRECATED = 1  # NEAT_OWN_DEPRECATED
ECN = {"off": 0, "active": 1, "passive": 2}
WITHOUT = {"timestamps": 1, "sack": 2, "window_scaling": 4, "slow_start_after_idle": 8}  # enum neat_without, by options
FASTOPEN = 0x607  # enum neat_fastopen, all of it
MAPPED = bytes(10) + b"\xff\xff"  # RFC 4291 section 2.5.5.2
GENERATION_AT = 8
REPLICA_PAGE_SIZE = 4096
NEIGHBOURS = 1024
NEIGHBOUR_SIZE = 24  # struct Neighbour
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


def receive_shift(buffer: int) -> int:
    """The window scale with which all of a receive buffer can be offered (RFC 7323 section 2)."""
    return max(7, min(14, buffer.bit_length() - 16))


def as_be(address: IPv4Address) -> int:
    """The number that a uint32_t holding the address in network byte order has here."""
    return int.from_bytes(address.packed, "little")


Address = IPv4Address | IPv6Address


def wide(address: Address) -> bytes:
    """struct neat_address"""
    return MAPPED + address.packed if isinstance(address, IPv4Address) else address.packed


def narrow(octets: bytes) -> Address:
    """What `wide` was given."""
    address = IPv6Address(octets)
    return address.ipv4_mapped or address


@dataclass(frozen=True)
class Own:
    """struct neat_own: an address of the stack. `prefix` is that of its family."""

    address: Address
    prefix: int
    flags: int = 0

    def pack(self) -> bytes:
        return OWN.pack(wide(self.address), self.prefix + 96 * (self.address.version == 4), self.flags)

    @classmethod
    def unpack(cls, data: bytes) -> "Own":
        octets, prefix, flags = OWN.unpack(data)
        address = narrow(octets)
        return cls(address, prefix - 96 * (address.version == 4), flags)


@dataclass(frozen=True)
class Route:
    """struct neat_route. `prefix` is that of the destination's family; without a gateway its hosts are on the link."""

    destination: Address
    prefix: int
    gateway: Address | None = None

    @property
    def network(self) -> IPv4Network | IPv6Network:
        return ip_network((self.destination, self.prefix))

    def pack(self) -> bytes:
        gateway = wide(self.gateway) if self.gateway else bytes(16)
        return ROUTE.pack(wide(self.destination), gateway, self.prefix + 96 * (self.destination.version == 4))

    @classmethod
    def unpack(cls, data: bytes) -> "Route":
        octets, gateway, prefix = ROUTE.unpack(data)
        destination = narrow(octets)
        return cls(destination, prefix - 96 * (destination.version == 4), narrow(gateway) if any(gateway) else None)


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
    own: list[Own] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)
    gateway6: IPv6Address | None = None
    mtu6: int = 0
    ttl: int = 64
    hop_limit: int = 64  # of IPv6
    icmp_errors: int = 200  # in a second, of each replica
    ecn: int = 0  # numbered as Linux's tcp_ecn
    receive_shift: int = 0  # of windows; 0: 7
    without: int = 0
    fastopen: int = 0  # numbered as Linux's tcp_fastopen
    unsent_most: int = 0  # bytes; 0: no limit

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
            self.mtu6,
            self.ttl,
            self.hop_limit,
            self.icmp_errors,
            self.replicas,
            self.active,
            self.mac,
            self.ecn,
            self.receive_shift,
            self.link_queue,
            self.backlog_max,
            self.without,
            self.fastopen,
            *self.keys,
            self.gateway6.packed if self.gateway6 else bytes(16),
            len(self.own),
            len(self.routes),
            self.unsent_most,
            b"".join(own.pack() for own in self.own),
            b"".join(route.pack() for route in self.routes),
            bytes(self.table),
        )
        after = GENERATION_AT + 4
        page[:GENERATION_AT] = packed[:GENERATION_AT]
        page[after : STACK_PAGE.size] = packed[after:]
        page[GENERATION_AT:after] = packed[GENERATION_AT:after]

    @classmethod
    def read(cls, page: mmap.mmap) -> "StackPage":
        """What a page says; raises ValueError for another layout."""
        said: dict[str, Any] = dict(zip(FIELDS, STACK_PAGE.unpack_from(page), strict=True))
        if (said.pop("magic"), said.pop("version")) != (MAGIC, VERSION):
            raise ValueError("stack page of another version")
        for name in ("address", "netmask", "gateway"):
            said[name] = IPv4Address(said[name].to_bytes(4, "little"))
        said["gateway"] = said["gateway"] if int(said["gateway"]) else None
        said["gateway6"] = IPv6Address(said["gateway6"]) if any(said["gateway6"]) else None
        said["keys"] = said.pop("key0"), said.pop("key1"), said.pop("key2")
        said["own"] = [Own.unpack(said["own"][n * OWN.size :][: OWN.size]) for n in range(said.pop("owns"))]
        said["routes"] = [Route.unpack(said["routes"][n * ROUTE.size :][: ROUTE.size]) for n in range(said.pop("ways"))]
        said["table"] = list(said["table"])
        return cls(**said)
