"""How busy the replicas are: the share of time that each is not asleep, and frames that found a queue full."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence

from neatstack.control.device import QueueDrops
from neatstack.control.slots import PROGRESS, SLEEP_SEQ, SLEPT, Slot

PERIOD = 0.25  # seconds between two looks
RECENT = 0.5  # seconds over which `recent` says something
KEPT = 1.0  # seconds over which `busy` does
SECOND = 1_000_000_000  # ns


class Activity:
    """Looks at all replicas, again and again; a look is a few reads of memory."""

    def __init__(self, slots: Sequence[Slot], drops: QueueDrops) -> None:
        self._slots = slots
        self._drops = drops
        self._looks: dict[int, deque[tuple[int, int, int]]] = {slot.number: deque() for slot in slots}

    @property
    def queue_drops(self) -> int:
        """Frames that found the queue of their replica, or link's, full, ever."""
        return self._drops.read()

    def run(self) -> None:
        """Look from now on."""
        for slot in self._slots:
            looks = self._looks[slot.number]
            if slot.stage is None:
                looks.clear()
                continue
            now = time.monotonic_ns()
            looks.append((now, slept(slot, now), slot.incarnation))
            while now - looks[0][0] > KEPT * SECOND + PERIOD * SECOND / 2:
                looks.popleft()
        asyncio.get_running_loop().call_later(PERIOD, self.run)

    def busy(self, number: int) -> float | None:
        """The share, 0 to 1, over the last second; None: nobody has looked for long enough."""
        return self._share(number, KEPT)

    def recent(self, number: int) -> float | None:
        """The same, over half a second."""
        return self._share(number, RECENT)

    def _share(self, number: int, seconds: float) -> float | None:
        looks = self._looks[number]
        if len(looks) < 2:
            return None
        last = looks[-1]
        first = next(look for look in looks if last[0] - look[0] <= (seconds + PERIOD / 2) * SECOND)
        if first[0] == last[0]:
            return None
        share = 1 - (last[1] - first[1]) / (last[0] - first[0])
        return min(1.0, max(0.0, share))


def slept(slot: Slot, now: int) -> int:
    """ns that the replica has slept: what it has counted, and if it sleeps now, the time since its last batch."""
    words, longs = slot.words, slot.long_words
    asleep = now - longs[PROGRESS] if words[SLEEP_SEQ] & 1 else 0
    return int(longs[SLEPT] + max(0, asleep))
