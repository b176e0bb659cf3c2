"""Who is asked for a hardware address, how often, and what is believed: the same for ARP and neighbour discovery.

Neighbour unreachability detection (RFC 4861 section 7.3) is simplified: a neighbour that is known is asked again from
time to time, used or not, and forgotten when it does not answer. Addresses are 4 bytes (IPv4) or 16 (IPv6).
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from neatstack.control.neighbours import Neighbour, NeighbourTable, State

ASK_EVERY = 1.0  # seconds between two requests for one address (RFC 1122 section 2.3.2.1; RFC 4861: RETRANS_TIMER)
ASK_MOST = 3  # RFC 4861 section 10: MAX_MULTICAST_SOLICIT, MAX_UNICAST_SOLICIT
REFRESH_AFTER = 60.0  # seconds after which a neighbour is asked whether it is still there
CONFIRM_AFTER = 5.0  # the same for one that nobody has asked: RFC 4861 section 10, DELAY_FIRST_PROBE_TIME
LEARN_MOST = 512  # entries that requests of others may make; the rest is for addresses that replicas want
NO_MAC = bytes(6)


@dataclass
class Enquiry:
    """An address that is being asked for."""

    next_at: float
    asked: int = 0


class Neighbourhood:
    """The neighbours of both families. `ask` sends a request to a hardware address, or to all (None)."""

    def __init__(
        self,
        table: NeighbourTable,
        ask: Callable[[bytes, bytes | None], None],
        found: Callable[[], None],
        failed: Callable[[bytes], None],
    ) -> None:
        self.table = table
        self._ask, self._found, self._failed = ask, found, failed
        self.enquiries: dict[bytes, Enquiry] = {}
        now = time.monotonic()
        # those found in the table are asked soon, but not all at once
        known = [neighbour.address for neighbour in table if neighbour.state in (State.REACHABLE, State.ASKED)]
        self.refresh_at = {address: now + secrets.randbelow(1000) / 1000 for address in known}
        self.ask_every = ASK_EVERY

    def known(self, address: bytes) -> bytes | None:
        """The hardware address of a neighbour, if there is one to use."""
        entry = self.table.get(address)
        return entry.mac if entry is not None and entry.state == State.REACHABLE else None

    def has_room(self, address: bytes) -> bool:
        """May somebody who was not asked take a place in the table?"""
        return self.table.get(address) is not None or len(self.table) < LEARN_MOST

    # rfc: 4861:7.2.2-2
    def want(self, address: bytes) -> None:
        """Somebody wants to send to `address`, which is a neighbour's."""
        if address in self.enquiries or self.known(address) is not None:
            return
        if self.table.put(Neighbour(address, NO_MAC, State.ASKED)):
            self.enquiries[address] = Enquiry(time.monotonic())
            self.run_timers(time.monotonic())

    def learn(self, address: bytes, mac: bytes) -> None:
        """It has answered."""
        self._put(address, mac, REFRESH_AFTER)
        self.enquiries.pop(address, None)
        self._found()

    def hear(self, address: bytes, mac: bytes, confirm: float = CONFIRM_AFTER) -> None:
        """It says so itself, unasked: good enough to use, until it was asked (RFC 4861: STALE)."""
        before = self.known(address)
        if before == mac or not self.has_room(address):
            return
        self._put(address, mac, confirm)
        self.enquiries.pop(address, None)
        self._found()

    def doubt(self, address: bytes) -> None:
        """Something else says that it is elsewhere: ask it."""
        if address not in self.enquiries and self.known(address) is not None:
            self.refresh_at[address] = time.monotonic()

    def forget(self, address: bytes) -> None:
        """Nobody is there."""
        self.enquiries.pop(address, None)
        self.refresh_at.pop(address, None)
        self.table.put(Neighbour(address, NO_MAC, State.FAILED))
        self._failed(address)

    def _put(self, address: bytes, mac: bytes, refresh_after: float) -> None:
        if self.table.put(Neighbour(address, mac, State.REACHABLE)):
            self.refresh_at[address] = time.monotonic() + refresh_after

    def run_timers(self, now: float) -> float | None:
        """Ask what is due to be asked; when the next is due (monotonic seconds), None: nothing is."""
        for address, due in list(self.refresh_at.items()):
            if due <= now:
                del self.refresh_at[address]
                self.enquiries.setdefault(address, Enquiry(now))
        for address, enquiry in list(self.enquiries.items()):
            if enquiry.next_at <= now:
                self._ask_again(address, enquiry, now)
        due_times = [enquiry.next_at for enquiry in self.enquiries.values()] + list(self.refresh_at.values())
        return min(due_times, default=None)

    # rfc: 4861:7.3.3-1 7.3.3-2 7.2.2-2, 1122:arp-flush arp-flood dead-gateway no-pings
    def _ask_again(self, address: bytes, enquiry: Enquiry, now: float) -> None:
        """The neighbour itself while we believe to know it, else everybody; or give up."""
        if enquiry.asked >= ASK_MOST:
            self.forget(address)
            return
        self._ask(address, self.known(address) if enquiry.asked < ASK_MOST - 1 else None)
        enquiry.asked += 1
        enquiry.next_at = now + self.ask_every
