"""What has happened to the stack, for people and for what shows it to them; bounded, and the newest last."""

import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any, Literal

from neatstack.control.recovery import Recovery

Kind = Literal[
    "crash", "rejuvenation", "upgrade", "scale_up", "scale_down", "drained", "deadline", "autoscale", "manager"
]  # fmt: skip
KEPT = 4096


@dataclass(frozen=True)
class Event:
    """One thing that happened. Its ids go up by one."""

    id: int
    at_ns: int  # CLOCK_MONOTONIC
    time: float  # seconds since 1970
    kind: Kind
    replica: int | None
    text: str
    gap_ms: float | None = None  # how long nobody served the replica's flows
    adopted: int | None = None  # connections
    lost: int | None = None


class Events:
    """The last of them."""

    def __init__(self) -> None:
        self._kept: deque[Event] = deque(maxlen=KEPT)
        self._next = 1

    def add(self, kind: Kind, text: str, *, replica: int | None = None, **more: Any) -> None:
        """It has happened just now."""
        self._kept.append(Event(self._next, time.monotonic_ns(), time.time(), kind, replica, text, **more))
        self._next += 1

    def recovered(self, record: Recovery) -> None:
        """A replica's process was replaced."""
        gap = (record.running_ns - record.died_ns) / 1e6
        text = f"replica {record.replica} {record.cause}; {record.how}"
        counts = {"gap_ms": round(gap, 3), "adopted": record.adopted, "lost": record.lost}
        self.add(record.kind, text, replica=record.replica, **counts)

    def since(self, number: int) -> dict[str, Any]:
        """Those from id `number` on, and the id to ask with next."""
        return {"events": [asdict(event) for event in self._kept if event.id >= number], "next": self._next}
