"""How many replicas the load asks for: a pure decision, from how busy the replicas were.

It goes up at once when there is need, and comes down late and by one: to have a replica too many costs little.
"""

import math
from collections import deque
from dataclasses import dataclass

PERIOD = 0.5  # seconds between two samples
BUSY = 0.75  # share of its time that a replica may work, on average, before there is one more
AIM = 0.6  # share that is aimed at
IDLE = 0.5  # one less, if those that are left would work no more than this
UP_AFTER, DOWN_AFTER = 2.0, 10.0  # seconds of samples that a decision needs


@dataclass(frozen=True)
class Sample:
    """One look."""

    at: float  # monotonic seconds
    busy: float  # mean share of the time since the last look that the active replicas did not sleep
    dropped: int  # frames that found a full queue since then


@dataclass(frozen=True)
class Decision:
    """How many, and why: a clause for the log."""

    replicas: int
    reason: str


class Governor:
    """Remembers the samples since the last change."""

    def __init__(self, least: int, most: int) -> None:
        self.least = least
        self.most = most
        self._samples: deque[Sample] = deque()

    def forget(self) -> None:
        """The number of replicas has changed: what was measured before means nothing."""
        self._samples.clear()

    def decide(self, sample: Sample, active: int) -> Decision | None:
        """Take a look in; what is to be changed, if anything."""
        if not self.least <= active <= self.most:
            bounded = min(max(active, self.least), self.most)
            return Decision(bounded, f"{active} is not from {self.least} to {self.most}")
        self._samples.append(sample)
        while sample.at - self._samples[0].at > DOWN_AFTER + PERIOD:
            self._samples.popleft()
        return self._up(sample.at, active) or self._down(sample.at, active)

    def _up(self, now: float, active: int) -> Decision | None:
        recent = self._last(now, UP_AFTER)
        if not recent or active == self.most:
            return None
        busy, dropped = _mean(recent), sum(sample.dropped for sample in recent)
        if busy >= BUSY:
            wanted = min(self.most, max(active + 1, math.ceil(active * busy / AIM)))
            return Decision(wanted, f"busy {busy:.0%} of the last {UP_AFTER:g} s, {BUSY:.0%} is enough")
        if dropped and busy > IDLE:
            return Decision(active + 1, f"{dropped} frames found a full queue in the last {UP_AFTER:g} s")
        return None

    def _down(self, now: float, active: int) -> Decision | None:
        recent = self._last(now, DOWN_AFTER)
        if not recent or active == self.least:
            return None
        busy = _mean(recent)
        if busy * active / (active - 1) > IDLE or any(sample.dropped for sample in recent):
            return None
        return Decision(active - 1, f"busy {busy:.0%} of the last {DOWN_AFTER:g} s: {active - 1} can do it")

    def _last(self, now: float, seconds: float) -> list[Sample]:
        """The samples of that time; none when there are not yet that many."""
        if now - self._samples[0].at < seconds - PERIOD / 2:
            return []
        return [sample for sample in self._samples if now - sample.at < seconds]


def _mean(samples: list[Sample]) -> float:
    return sum(sample.busy for sample in samples) / len(samples)
