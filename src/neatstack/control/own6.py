"""The stack's own IPv6 addresses: duplicate address detection before each is used, and their lifetimes (RFC 4862)."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv6Address
from typing import Any

from neatstack.control import frames6
from neatstack.control.addressing import MOST_ADDRESSES
from neatstack.control.interface_id import interface_id
from neatstack.control.listeners6 import Listeners

ID_RETRIES = 3  # RFC 7217 section 7: IDGEN_RETRIES
HOST = 128  # length of the prefix of an address in whose network nobody is reached directly


class State(Enum):
    """RFC 4862 section 5.4."""

    TENTATIVE = "tentative"
    ASSIGNED = "assigned"
    DUPLICATE = "duplicate"


@dataclass
class Own:
    """One address. Times are of CLOCK_MONOTONIC."""

    address: bytes
    length: int
    state: State = State.TENTATIVE
    formed: bool = False  # of a prefix and an identifier of ours
    valid_until: float = math.inf
    preferred_until: float = math.inf
    sent: int = 0  # solicitations of duplicate address detection
    next_at: float = 0.0
    duplicates: int = 0  # DAD_Counter of RFC 7217

    def __str__(self) -> str:
        return str(IPv6Address(self.address))

    def to_data(self) -> dict[str, Any]:
        """For the manager, who keeps it for the next link."""
        return {
            "address": str(self),
            "length": self.length,
            "formed": self.formed,
            "valid_until": None if math.isinf(self.valid_until) else self.valid_until,
            "preferred_until": None if math.isinf(self.preferred_until) else self.preferred_until,
        }

    # rfc: 4862:5.7-1
    @classmethod
    def from_data(cls, data: dict[str, Any]) -> "Own":
        """One that was in use already: it is not tentative again."""
        valid, preferred = (
            math.inf if data[name] is None else data[name] for name in ("valid_until", "preferred_until")
        )
        packed = IPv6Address(data["address"]).packed
        return cls(packed, data["length"], State.ASSIGNED, data["formed"], valid, preferred)


class OwnAddresses:
    """All of them."""

    def __init__(
        self,
        secret: bytes,
        interface: str,
        most: int,
        send: Callable[[bytes, bytes, bytes], None],
        changed: Callable[[], None],
        listeners: Listeners,
        transmits: int,
    ) -> None:
        self.secret, self.interface = secret, interface
        self.most = min(most, MOST_ADDRESSES)  # what IPv4 addresses leave
        self._send, self._changed = send, changed  # source, destination, message of ICMPv6
        self.listeners = listeners
        self.transmits = transmits  # RFC 4862 section 5.1: DupAddrDetectTransmits
        self.by_address: dict[bytes, Own] = {}
        self.ask_every = 1.0  # seconds: RETRANS_TIMER

    def __iter__(self) -> Iterator[Own]:
        return iter(list(self.by_address.values()))

    # rfc: 4862:5.4.2-1, 4861:7.2.1-1
    def add(self, own: Own) -> bool:
        """One more; False when there is no room. It is used once duplicate address detection has found no other."""
        if own.address in self.by_address or len(self.by_address) >= self.most:
            return False
        self.by_address[own.address] = own
        now = time.monotonic()
        self.listeners.join(frames6.solicited_node(own.address), now)
        own.next_at = now
        self.run_timers(now)
        return True

    def form(
        self, prefix: bytes, length: int, valid_until: float = math.inf, preferred_until: float = math.inf
    ) -> bool:
        """One of a prefix of 64 bits and a stable identifier."""
        address = prefix[:8] + interface_id(self.secret, prefix, self.interface)
        own = Own(address, length, formed=True, valid_until=valid_until, preferred_until=preferred_until)
        return self.add(own)

    # rfc: 4861:7.2.1-2
    def remove(self, own: Own) -> None:
        """It is used no more."""
        del self.by_address[own.address]
        self.listeners.leave(frames6.solicited_node(own.address), time.monotonic())
        if own.state is State.ASSIGNED:
            self._changed()

    # rfc: 4862:5.4.5-1 5.5.4-1
    def assigned(self) -> list[Own]:
        """Those that may be used: link-local last, deprecated ones after the others."""
        now = time.monotonic()
        usable = [own for own in self.by_address.values() if own.state is State.ASSIGNED]
        return sorted(usable, key=lambda own: (frames6.is_link_local(own.address), own.preferred_until <= now))

    # rfc: 4862:5.5.4-2
    def has(self, address: bytes) -> bool:
        own = self.by_address.get(address)
        return own is not None and own.state is State.ASSIGNED

    @property
    def link_local(self) -> bytes | None:
        """The one to speak with to neighbours and routers."""
        return next((own.address for own in self.assigned() if frames6.is_link_local(own.address)), None)

    # rfc: 8504:6.6-selection
    def source_for(self, destination: bytes) -> bytes | None:
        """RFC 6724 section 5: rules 1, 2, 3 and 8."""
        local = frames6.is_link_local(destination) or destination[:2] == b"\xff\x02"
        now = time.monotonic()
        candidates = [(own, own.address == destination) for own in self.assigned()]
        fit = [
            (same, frames6.is_link_local(own.address) == local, own.preferred_until > now, _common(own, destination))
            for own, same in candidates
        ]
        return max(zip(fit, candidates, strict=True), key=lambda each: each[0])[1][0].address if fit else None

    # rfc: 4862:5.4.3-1 5.4.4-1 5.4.5-2
    def found_elsewhere(self, address: bytes, mac: bytes) -> None:
        """Another node uses it, or wants to (RFC 4862 sections 5.4.3 to 5.4.5)."""
        own = self.by_address.get(address)
        if own is None or own.state is not State.TENTATIVE:
            return
        print(f"link: {own} is already used by {mac.hex(':')}", file=sys.stderr, flush=True)
        own.state = State.DUPLICATE
        if own.formed and own.duplicates < ID_RETRIES:
            self.remove(own)
            identifier = interface_id(self.secret, own.address[:8], self.interface, own.duplicates + 1)
            again = Own(own.address[:8] + identifier, own.length, formed=True, duplicates=own.duplicates + 1)
            again.valid_until, again.preferred_until = own.valid_until, own.preferred_until
            self.add(again)
        self._changed()

    @property
    def pending(self) -> bool:
        """Is one still tentative?"""
        return any(own.state is State.TENTATIVE for own in self.by_address.values())

    def run_timers(self, now: float) -> float | None:
        """Look for duplicates, and end addresses whose lifetime is over; when the next is due."""
        for own in self:
            if own.valid_until <= now:
                self.remove(own)
            elif own.state is State.TENTATIVE and own.next_at <= now:
                self._detect(own, now)
        due = [own.valid_until for own in self if not math.isinf(own.valid_until)]
        due += [own.next_at for own in self if own.state is State.TENTATIVE]
        due += [own.preferred_until for own in self if now < own.preferred_until < math.inf]
        return min(due, default=None)

    # rfc: 4862:5.4-1 5.1-1, 9777:5.2.14-again
    def _detect(self, own: Own, now: float) -> None:
        """RFC 4862 section 5.4.2: ask whether somebody has it; a second of silence after that it is ours."""
        if own.sent < self.transmits:
            own.sent += 1
            own.next_at = now + self.ask_every
            group = frames6.solicited_node(own.address)
            self._send(frames6.UNSPECIFIED, group, frames6.solicitation(own.address, None))
            return
        own.state = State.ASSIGNED
        if frames6.is_link_local(own.address):
            self.listeners.tell_again(time.monotonic())
        self._changed()


def _common(own: Own, destination: bytes) -> int:
    """Bits that are the same, up to the length of the prefix."""
    differ = int.from_bytes(own.address, "big") ^ int.from_bytes(destination, "big")
    return min(128 - differ.bit_length(), 64 if own.length == HOST else own.length)
