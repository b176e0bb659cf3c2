"""The neighbour table: struct Neighbour of the data plane, NEIGHBOURS of them in memory that replicas map read-only.

A replica looks an address up by its hash and linear probing until the first unused entry, so an entry once used is
used again but never becomes unused.
"""

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from neatstack.control.pages import MAPPED, NEIGHBOUR_SIZE, NEIGHBOURS

ENTRY = struct.Struct("=16s6sBx")
STATE_AT = 22
HASH_FACTOR = 2654435761  # Knuth's; the top ten bits of the product
HASH_SHIFT = 22


class State(IntEnum):
    """As the data plane numbers them."""

    UNUSED = 0
    ASKED = 1
    REACHABLE = 2
    FAILED = 3


@dataclass
class Neighbour:
    """One entry. An address has 4 or 16 bytes."""

    address: bytes
    mac: bytes
    state: State


class NeighbourTable:
    """The table. Writer: link alone."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._places: dict[bytes, int] = {}
        for place in range(NEIGHBOURS):
            entry = self._read(place)
            if entry.state != State.UNUSED:
                self._places[entry.address] = place

    def __iter__(self) -> Iterator[Neighbour]:
        return (self._read(place) for place in list(self._places.values()))

    def __len__(self) -> int:
        return len(self._places)

    def get(self, address: bytes) -> Neighbour | None:
        place = self._places.get(address)
        return None if place is None else self._read(place)

    def put(self, neighbour: Neighbour) -> bool:
        """Write an entry, in the place of a failed one if there is no other; False when there is no room."""
        place = self._places.get(neighbour.address)
        if place is None:
            place = self._find_place(neighbour.address)
            if place is None:
                return False
            old = self._read(place)
            if old.state != State.UNUSED:
                del self._places[old.address]
            self._places[neighbour.address] = place
        at = place * NEIGHBOUR_SIZE
        packed = ENTRY.pack(widened(neighbour.address), neighbour.mac, neighbour.state)
        if self._read(place).address != neighbour.address:
            # who looks now shall find the new address whole, or not at all
            self._memory[at + STATE_AT] = State.FAILED if self._read(place).state != State.UNUSED else State.UNUSED
        self._memory[at : at + STATE_AT] = packed[:STATE_AT]
        self._memory[at + STATE_AT] = packed[STATE_AT]
        return True

    def _find_place(self, address: bytes) -> int | None:
        first = start(address)
        for step in range(NEIGHBOURS):
            place = (first + step) % NEIGHBOURS
            if self._read(place).state in (State.UNUSED, State.FAILED):
                return place
        return None

    def _read(self, place: int) -> Neighbour:
        address, mac, state = ENTRY.unpack_from(self._memory, place * NEIGHBOUR_SIZE)
        return Neighbour(narrowed(address), mac, State(state))


def start(address: bytes) -> int:
    """Where the search for an address begins."""
    words = struct.unpack("=4I", widened(address))
    return ((words[0] ^ words[1] ^ words[2] ^ words[3]) * HASH_FACTOR & 0xFFFFFFFF) >> HASH_SHIFT


def widened(address: bytes) -> bytes:
    """As the table has it: an IPv4 address mapped."""
    return MAPPED + address if len(address) == 4 else address


def narrowed(address: bytes) -> bytes:
    """4 bytes for an IPv4 address, else 16."""
    return address[12:] if address.startswith(MAPPED) else address
