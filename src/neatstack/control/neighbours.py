"""The neighbour table: struct Neighbour of the data plane, NEIGHBOURS of them in memory that replicas map read-only.

A replica looks an address up by its hash and linear probing until the first unused entry, so an entry once used is
used again but never becomes unused.
"""

import itertools
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from neatstack.control.pages import NEIGHBOUR_SIZE, NEIGHBOURS

ADDRESS = 4  # bytes of an address in the table
ENTRY = struct.Struct("=4s6sBx")
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
    """One entry."""

    address: bytes
    mac: bytes
    state: State


class NeighbourTable:
    """The table. Writer: link alone."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._places: dict[bytes, int] = {}
        self._aside: dict[bytes, Neighbour] = {}  # those whose address has no place in an entry: IPv6
        for place in range(NEIGHBOURS):
            entry = self._read(place)
            if entry.state != State.UNUSED:
                self._places[entry.address] = place

    def __iter__(self) -> Iterator[Neighbour]:
        return itertools.chain((self._read(place) for place in list(self._places.values())), self._aside.values())

    def __len__(self) -> int:
        return len(self._places) + len(self._aside)

    def get(self, address: bytes) -> Neighbour | None:
        if len(address) != ADDRESS:
            return self._aside.get(address)
        place = self._places.get(address)
        return None if place is None else self._read(place)

    def put(self, neighbour: Neighbour) -> bool:
        """Write an entry, in the place of a failed one if there is no other; False when there is no room."""
        if len(neighbour.address) != ADDRESS:
            return self._put_aside(neighbour)
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
        packed = ENTRY.pack(neighbour.address, neighbour.mac, neighbour.state)
        if self._read(place).address != neighbour.address:
            # who looks now shall find the new address whole, or not at all
            self._memory[at + 10] = State.FAILED if self._read(place).state != State.UNUSED else State.UNUSED
        self._memory[at : at + 10] = packed[:10]
        self._memory[at + 10] = packed[10]
        return True

    def _put_aside(self, neighbour: Neighbour) -> bool:
        if neighbour.address not in self._aside and len(self._aside) >= NEIGHBOURS:
            failed = (each.address for each in self._aside.values() if each.state == State.FAILED)
            victim = next(failed, None)
            if victim is None:
                return False
            del self._aside[victim]
        self._aside[neighbour.address] = neighbour
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
        return Neighbour(address, mac, State(state))


def start(address: bytes) -> int:
    """Where the search for an address begins."""
    return (int.from_bytes(address, "little") * HASH_FACTOR & 0xFFFFFFFF) >> HASH_SHIFT
