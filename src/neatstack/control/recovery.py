"""What is done about a replica's death: the decision, as a pure function, and the record that is kept of it.

A replica that was killed from outside is innocent: all its connections are taken over. One that died of itself may do
so again for the same reason, most likely the connection that it had in hand. One that dies again at once has something
wrong in its memory that nobody knows: its connections are reset, and their peers are told. One that dies even of that
gets new memory.
"""

import signal
from dataclasses import dataclass
from enum import Enum
from typing import Literal

# take over everything; everything but the connection in hand; only to reset every connection; nothing, with new memory
How = Literal["adopt", "suspect", "reset", "fresh"]
Kind = Literal["crash", "rejuvenation", "upgrade"]  # of a replacement

OUTSIDE = (signal.SIGKILL, signal.SIGTERM)  # signals that a replica does not cause itself
AGAIN = 1_000_000_000  # ns; dying of itself twice in so short a time is answered with a reset
FREE_FAILURES = 2  # failures in a row that are answered at once
BACKOFF_LEAST, BACKOFF_MOST = 0.02, 2.0  # seconds
HISTORY = 4096  # recoveries remembered


class Stage(Enum):
    """How far the process that died had come."""

    STARTING = "starting"  # it has not yet said that it is ready: it has looked at nothing that it was given
    ADOPTING = "adopting"  # it has not yet answered `run`
    RUNNING = "running"


@dataclass(frozen=True)
class Purpose:
    """Why a process that serves is replaced on purpose."""

    kind: Kind
    why: str  # such as "was rejuvenated"


@dataclass(frozen=True)
class Ending:
    """How a process ended."""

    code: int | None = None  # exit status, or minus the signal's number; None: nobody knows
    killed: str | None = None  # why we killed it ourselves, if we did
    pardoned: bool = False  # it was killed for no fault of its own
    purpose: Purpose | None = None  # it was told to stop

    @property
    def outside(self) -> bool:
        """Was the cause outside of the process? What nobody knows is held against it."""
        if self.killed is not None:
            return self.pardoned
        if self.purpose is not None and (self.code is None or self.code >= 0):
            return True
        return self.code is not None and -self.code in OUTSIDE

    @property
    def intended(self) -> bool:
        """Has it ended because it was to be replaced? One that crashes before it stops has not."""
        return self.purpose is not None and self.outside

    def __str__(self) -> str:
        if self.purpose is not None and self.intended:
            return f"{self.purpose.why}; {self.killed}" if self.killed is not None else self.purpose.why
        return f"was killed: {self.killed}" if self.killed is not None else describe(self.code)


@dataclass
class Recovery:
    """One replacement of a replica's process."""

    replica: int
    incarnation: int  # the new one
    cause: str
    how: How
    died_ns: int  # CLOCK_MONOTONIC, when the death was noticed
    running_ns: int = 0  # when the new incarnation served; 0: not yet
    adopted: int = 0  # connections
    lost: int = 0
    took_us: int = 0  # of the new incarnation itself, to adopt
    kind: Kind = "crash"


def describe(code: int | None) -> str:
    """An exit status, or minus a signal's number, in words."""
    if code is None:
        return "has ended"
    if code >= 0:
        return f"has exited with status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def decide(ending: Ending, stage: Stage, meant: How, since_own: int | None, option: str) -> How:
    """How the slot's next incarnation starts.

    `meant` is how the one that died was started, `since_own` the ns since the slot's last death of itself (None: there
    was none), `option` the stack's option `recovery`.
    """
    if stage is Stage.STARTING or (stage is Stage.ADOPTING and ending.outside):
        return meant  # adopting may be repeated
    if stage is Stage.ADOPTING:
        return "fresh" if meant in ("reset", "fresh") else "reset"
    if option == "reset" and not ending.intended:
        return "reset"
    if ending.outside:
        return "adopt"
    return "reset" if since_own is not None and since_own < AGAIN else "suspect"


def count_failures(failures: int, ending: Ending, stage: Stage, since_own: int | None) -> int:
    """Deaths in a row that look as if the next incarnation would die too."""
    if stage is not Stage.RUNNING:
        return failures + 1
    if ending.outside:
        return 0
    return failures + 1 if since_own is not None and since_own < AGAIN else 1


def delay(failures: int) -> float:
    """Seconds to wait before the next attempt."""
    if failures <= FREE_FAILURES:
        return 0.0
    return min(BACKOFF_LEAST * 2.0 ** min(failures - FREE_FAILURES, 16), BACKOFF_MOST)
