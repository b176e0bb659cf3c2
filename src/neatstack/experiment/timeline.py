"""What the clients saw: the time of every answer on every connection, and what went wrong when.

Times are nanoseconds of CLOCK_MONOTONIC since the load's base. A *place* is the client's: when its connection is lost,
the next one follows in the same place, so that a gap spans both.
"""

from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass

ANSWER, OPENED, LOST, TIMEOUT, WRONG, DROPPED, ENDED = range(7)  # kinds of events, 3 bits
PLACES = 1 << 13
WINDOW = 1_000_000_000  # ns after a fault in which an interval that begins may count as its gap
KIND_SHIFT, TIME_SHIFT = 13, 16
KIND_MASK = 7 << KIND_SHIFT
WITH_VALUE = (OPENED, WRONG)


@dataclass(frozen=True)
class Trouble:
    """Something that went wrong. LOST, TIMEOUT, DROPPED (a wrong answer: closed by us), or WRONG with bytes."""

    time: int
    kind: int
    place: int
    count: int = 1


class Timeline:
    """Answers, openings and troubles, in the order in which they happened."""

    def __init__(self, places: int) -> None:
        self.times = [array("q") for _ in range(places)]
        self.opened: list[int | None] = [None] * places  # when; None: not open now
        self.ports = [0] * places
        self.strangers: set[int] = set()  # places whose connection is new: nobody has asked yet whose it is
        self.troubles: list[Trouble] = []
        self.now = 0  # time of the latest event
        self.answers = 0
        self.ended = 0  # connections that the client has closed in order
        self._bytes = b""
        self._owing: int | None = None  # a word whose value has not come yet

    def feed(self, data: bytes) -> None:
        """Take in bytes of the log; words may be cut anywhere."""
        data = self._bytes + data
        whole = len(data) & ~7
        self._bytes = data[whole:]
        words = array("q")
        words.frombytes(data[:whole])
        times, answers = self.times, 0
        for word in words:
            if self._owing is not None:
                self._event(self._owing, word)
                self._owing = None
            elif not word & KIND_MASK:
                times[word & PLACES - 1].append(word >> TIME_SHIFT)
                self.now = word >> TIME_SHIFT
                answers += 1
            elif word >> KIND_SHIFT & 7 in WITH_VALUE:
                self._owing = word
            else:
                self._event(word, 1)
        self.answers += answers

    def _event(self, word: int, value: int) -> None:
        when, kind, place = word >> TIME_SHIFT, word >> KIND_SHIFT & 7, word & PLACES - 1
        self.now = when
        if kind == OPENED:
            self.opened[place] = when
            self.ports[place] = value
            self.strangers.add(place)
            return
        if kind == ENDED:
            self.ended += 1
        else:
            self.troubles.append(Trouble(when, kind, place, value))
        if kind != WRONG:
            self.opened[place] = None
            self.strangers.discard(place)

    def open(self) -> bool:
        """Are all connections open, and has each had an answer?"""
        return None not in self.opened and all(self.times)

    def served(self, place: int, since: int, running: int) -> int | None:
        """When the first answer came, not before `running`, to a request that was sent after `since`; None: not yet."""
        opened = self.opened[place]
        if opened is None:
            return None
        times = self.times[place]
        # closed loop: a request is sent when its connection opens, or when the answer before it is complete
        at = bisect_left(times, opened) if opened >= since else bisect_left(times, since) + 1
        at = max(at, bisect_left(times, running))
        return times[at] if at < len(times) else None

    def all_served(self, since: int, running: int) -> int | None:
        """When every place had been served so; None: not yet."""
        moments = []
        for place in range(len(self.times)):
            moment = self.served(place, since, running)
            if moment is None:
                return None
            moments.append(moment)
        return max(moments)

    def gap(self, place: int, at: int, until: int) -> int:
        """The longest time (ns) between two consecutive answers that spans `at` or begins between `at` and `until`.

        Without a later answer the time counts up to the latest event of all.
        """
        times = self.times[place]
        first = max(0, bisect_right(times, at) - 1)
        end = max(first + 1, bisect_left(times, until))
        longest = 0
        for index in range(first, min(end, len(times))):
            if first < index == end - 1 and until < at + WINDOW:
                break  # it spans the next fault here, and counts there
            following = times[index + 1] if index + 1 < len(times) else self.now
            longest = max(longest, following - times[index])
        return longest

    def seen(self, place: int, until: int) -> bool:
        """Has an answer come at or after `until`?"""
        times = self.times[place]
        return bool(times) and times[-1] >= until

    def between(self, begin: int, end: int) -> list[Trouble]:
        """Troubles from `begin` up to, not including, `end`."""
        return [trouble for trouble in self.troubles if begin <= trouble.time < end]

    def forget(self, before: int) -> None:
        """Drop what is older, but for the last answer of each place."""
        for times in self.times:
            del times[: max(0, bisect_right(times, before) - 1)]
        self.troubles = [trouble for trouble in self.troubles if trouble.time >= before]
