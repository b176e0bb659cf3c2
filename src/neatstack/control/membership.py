"""Which groups the stack listens to, told to the routers and switches of its link: what IGMPv3 (RFC 9776) and MLDv2
(RFC 9777) have in common.

Every group is wanted from any source, so what is told is EXCLUDE of none. While a router of the link speaks an older
version, that one is spoken (RFC 9776 section 7.2.1, RFC 9777 section 8.2.1).
"""

import secrets
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable

IS_EXCLUDE, TO_INCLUDE, TO_EXCLUDE = 2, 3, 4  # records of a report: any source, as EXCLUDE of none
ROBUSTNESS = 2  # RFC 9777 section 9.1, RFC 9776 section 8.1: how often a change is told
UNSOLICITED_EVERY = 1.0  # seconds, sections 9.11 and 8.11: the most between the two
QUERY_EVERY = 125.0  # seconds, sections 9.2 and 8.2: between two queries of a router


class Membership(ABC):
    """The groups of one family. Addresses are bytes."""

    newest: int  # version that we speak
    everything: bytes  # how a query names all groups

    def __init__(self) -> None:
        self.groups: Counter[bytes] = Counter()  # how many want each
        self._older: dict[int, float] = {}  # until when there is a router of that version
        self._spoken = self.newest
        self._changes: dict[bytes, int] = {}  # how often each is still to be told
        self._changes_at = 0.0
        self._answer_at: float | None = None
        self._asked: set[bytes] = set()  # groups that are to be answered for

    @abstractmethod
    def _is_told(self, group: bytes) -> bool:
        """Must routers know of it?"""

    @abstractmethod
    def _report(self, records: list[tuple[int, bytes]]) -> None:
        """Send reports of the newest version."""

    @abstractmethod
    def _report_older(self, version: int, group: bytes, joined: bool) -> None:
        """Send a report of an older version, or what says there that nobody listens any more."""

    @abstractmethod
    def _older_for(self, wait: float) -> float:
        """Seconds for which a router of an older version is there that asks for answers within `wait`."""

    # rfc: 9777:6.1-change, 9776:5.1-change
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

    def tell_again(self, now: float) -> None:
        """What was told may not have been believed."""
        self._tell([(TO_EXCLUDE, group) for group in self.groups], now)

    def version(self, now: float) -> int:
        """The oldest that a router of the link speaks."""
        return min((version for version, until in self._older.items() if until > now), default=self.newest)

    # rfc: 9777:6.2-answer 6.2-combined 8.2.1-mode, 9776:5.2-answer 5.2-combined 7.2.1-mode 7.2.1-specific
    def _query(self, version: int, group: bytes, wait: float, now: float) -> None:
        """A router asks. The answer comes after a random delay, of at most `wait` seconds."""
        if version < self.newest and group == self.everything:
            self._older[version] = now + self._older_for(wait)
        self._switch(now)
        if group != self.everything and group not in self.groups:
            return
        answer_at = now + wait * secrets.randbelow(1000) / 1000
        if self._answer_at is None:
            self._asked = {group}
        else:
            self._asked.add(group)
        self._answer_at = min(answer_at, self._answer_at or answer_at)

    def run_timers(self, now: float) -> float | None:
        """Tell what is due; when the next is."""
        self._switch(now)
        if self._answer_at is not None and self._answer_at <= now:
            self._answer_at = None
            every = self.everything in self._asked
            self._tell([(IS_EXCLUDE, group) for group in self.groups if every or group in self._asked], now)
        if self._changes and self._changes_at <= now:
            self._tell_changes(self._changes, now)
            self._changes = {group: left - 1 for group, left in self._changes.items() if left > 1}
            self._wait(now)
        due = [self._answer_at] if self._answer_at is not None else []
        return min([*due, self._changes_at] if self._changes else due, default=None)

    # rfc: 9777:8.2.1-cancel, 9776:7.2.1-cancel
    def _switch(self, now: float) -> None:
        """What was to be told in another version than the one that is spoken now is told no more."""
        version = self.version(now)
        if version != self._spoken:
            self._spoken = version
            self._changes.clear()
            self._answer_at = None

    # rfc: 9777:9.1-robustness, 9776:8.1-robustness
    def _change(self, group: bytes, now: float) -> None:
        self._switch(now)
        if not self._changes:
            self._wait(now)
        self._changes[group] = ROBUSTNESS - 1
        self._tell_changes([group], now)

    def _tell_changes(self, groups: Iterable[bytes], now: float) -> None:
        self._tell([(TO_EXCLUDE if group in self.groups else TO_INCLUDE, group) for group in groups], now)

    def _wait(self, now: float) -> None:
        self._changes_at = now + UNSOLICITED_EVERY * (1 + secrets.randbelow(1000)) / 1000

    def _tell(self, records: list[tuple[int, bytes]], now: float) -> None:
        told = [record for record in records if self._is_told(record[1])]
        version = self.version(now)
        if version == self.newest:
            self._report(told)
            return
        for kind, group in told:
            self._report_older(version, group, kind != TO_INCLUDE)


# rfc: 9777:5.1.3-code, 9776:4.1.1-code
def scaled(code: int, bits: int) -> int:
    """What a response code of so many bits stands for (RFC 9776 section 4.1.1, RFC 9777 section 5.1.3)."""
    if code < 1 << bits - 1:
        return code
    mantissa = bits - 4
    return (code & (1 << mantissa) - 1 | 1 << mantissa) << ((code >> mantissa & 7) + 3)
