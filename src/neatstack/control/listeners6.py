"""Which groups of IPv6 the stack listens to, told to the routers and switches of its link (RFC 3810, MLDv2).

Every group is wanted from any source, so what is told is EXCLUDE of none.
"""

import secrets
from collections import Counter
from collections.abc import Callable, Iterable

from neatstack.control import frames6
from neatstack.control.frames6 import IS_EXCLUDE, TO_EXCLUDE, TO_INCLUDE, Packet

ROBUSTNESS = 2  # RFC 3810 section 9.1: how often a change is told
UNSOLICITED_EVERY = 1.0  # seconds, section 9.11: the most between the two
MOST_RECORDS = 60  # in one report: 1200 bytes
SHORTEST_QUERY = 24  # bytes, of MLDv1


class Listeners:
    """The groups of the stack. `source` is its link-local address, or the unspecified one until there is one."""

    def __init__(self, source: Callable[[], bytes], report: Callable[[bytes, bytes], None]) -> None:
        self._source, self._report = source, report
        self.groups: Counter[bytes] = Counter()  # how many want each
        self._changes: dict[bytes, int] = {}  # how often each is still to be told
        self._changes_at = 0.0
        self._answer_at: float | None = None
        self._asked: set[bytes] = set()  # groups that are to be answered for; empty: all

    # rfc: 3810:6.1-1
    def join(self, group: bytes, now: float) -> None:
        """One more wants it."""
        self.groups[group] += 1
        if self.groups[group] == 1:
            self._change(group, now)

    def leave(self, group: bytes, now: float) -> None:
        """One less does."""
        if group not in self.groups:
            return
        self.groups[group] -= 1
        if not self.groups[group]:
            del self.groups[group]
            self._change(group, now)

    def tell_again(self) -> None:
        """There is a valid source now, which reports need to be believed (RFC 3590 section 4)."""
        self._tell((TO_EXCLUDE, group) for group in self.groups)

    # rfc: 3810:6.2-1
    def query(self, packet: Packet, now: float) -> bool:
        """A router asks (RFC 3810 section 5.1); False: not validly. The answer comes after a random delay (6.2)."""
        message = packet.message
        if packet.code or packet.hops != 1 or not frames6.is_link_local(packet.source) or len(message) < SHORTEST_QUERY:
            return False
        group = message[8:24]
        if group != frames6.UNSPECIFIED and group not in self.groups:
            return True
        wait = max_response(int.from_bytes(message[4:6], "big")) / 1000
        answer_at = now + wait * secrets.randbelow(1000) / 1000
        if self._answer_at is None:
            self._asked = {group}
        else:
            self._asked.add(group)
        self._answer_at = min(answer_at, self._answer_at or answer_at)
        return True

    def run_timers(self, now: float) -> float | None:
        """Tell what is due; when the next is."""
        if self._answer_at is not None and self._answer_at <= now:
            self._answer_at = None
            all_of_them = frames6.UNSPECIFIED in self._asked
            self._tell((IS_EXCLUDE, group) for group in self.groups if all_of_them or group in self._asked)
        if self._changes and self._changes_at <= now:
            self._tell_changes(now)
        due = [self._answer_at] if self._answer_at is not None else []
        return min([*due, self._changes_at] if self._changes else due, default=None)

    def _change(self, group: bytes, now: float) -> None:
        if group == frames6.ALL_NODES:
            return  # RFC 3810 section 6: never told
        self._changes[group] = ROBUSTNESS
        self._tell_changes(now)

    def _tell_changes(self, now: float) -> None:
        self._tell((TO_EXCLUDE if group in self.groups else TO_INCLUDE, group) for group in self._changes)
        self._changes = {group: left - 1 for group, left in self._changes.items() if left > 1}
        self._changes_at = now + UNSOLICITED_EVERY * (1 + secrets.randbelow(1000)) / 1000

    def _tell(self, records: Iterable[tuple[int, bytes]]) -> None:
        told = [record for record in records if record[1] != frames6.ALL_NODES]
        for first in range(0, len(told), MOST_RECORDS):
            self._report(self._source(), frames6.report(told[first : first + MOST_RECORDS]))


def max_response(code: int) -> int:
    """Milliseconds that a Maximum Response Code stands for (RFC 3810 section 5.1.3)."""
    return code if code < 0x8000 else (code & 0x0FFF | 0x1000) << ((code >> 12 & 7) + 3)
