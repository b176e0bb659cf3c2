"""What is decided about a death: the table."""

import signal

import pytest

from neatstack.control import recovery
from neatstack.control.recovery import Ending, How, Stage, count_failures, decide, describe

KILLED, ENDED = Ending(-signal.SIGKILL), Ending(-signal.SIGTERM)
SEGV, EXIT, UNKNOWN = Ending(-signal.SIGSEGV), Ending(0), Ending(None)
HUNG = Ending(-signal.SIGKILL, killed="it made no progress for 100 ms")
PARDONED = Ending(-signal.SIGKILL, killed="it was only half told", pardoned=True)
LONG_AGO, JUST_NOW = recovery.AGAIN, recovery.AGAIN - 1
RUNNING, ADOPTING, STARTING = Stage.RUNNING, Stage.ADOPTING, Stage.STARTING


@pytest.mark.parametrize(
    ("ending", "stage", "meant", "since_own", "how"),
    [
        (KILLED, RUNNING, "adopt", None, "adopt"),
        (KILLED, RUNNING, "reset", JUST_NOW, "adopt"),
        (ENDED, RUNNING, "suspect", None, "adopt"),
        (PARDONED, RUNNING, "adopt", JUST_NOW, "adopt"),
        (SEGV, RUNNING, "adopt", None, "suspect"),
        (SEGV, RUNNING, "reset", LONG_AGO, "suspect"),
        (SEGV, RUNNING, "adopt", JUST_NOW, "reset"),
        (EXIT, RUNNING, "adopt", None, "suspect"),
        (EXIT, RUNNING, "adopt", 0, "reset"),
        (UNKNOWN, RUNNING, "adopt", None, "suspect"),
        (HUNG, RUNNING, "adopt", None, "suspect"),
        (HUNG, RUNNING, "adopt", JUST_NOW, "reset"),
        (KILLED, ADOPTING, "adopt", None, "adopt"),
        (KILLED, ADOPTING, "suspect", JUST_NOW, "suspect"),
        (KILLED, ADOPTING, "reset", JUST_NOW, "reset"),
        (PARDONED, ADOPTING, "suspect", None, "suspect"),
        (SEGV, ADOPTING, "adopt", None, "reset"),
        (EXIT, ADOPTING, "suspect", LONG_AGO, "reset"),
        (UNKNOWN, ADOPTING, "adopt", None, "reset"),
        (HUNG, ADOPTING, "adopt", None, "reset"),
        # it has not looked at anything yet
        (SEGV, STARTING, "adopt", JUST_NOW, "adopt"),
        (HUNG, STARTING, "suspect", None, "suspect"),
        (KILLED, STARTING, "reset", None, "reset"),
    ],
)
def test_decision(ending: Ending, stage: Stage, meant: How, since_own: int | None, how: How) -> None:
    assert decide(ending, stage, meant, since_own, "adopt") == how
    assert decide(ending, stage, meant, since_own, "reset") == "reset"


def test_failures_in_a_row_are_held_back_but_victims_never() -> None:
    failures = 0
    for _ in range(1000):
        failures = count_failures(failures, KILLED, RUNNING, 0)
    assert recovery.delay(failures) == 0
    waits = []
    for _ in range(20):
        failures = count_failures(failures, SEGV, RUNNING, JUST_NOW)
        waits.append(recovery.delay(failures))
    assert waits[:2] == [0, 0] and 0 < waits[2] < waits[3] and waits[-1] == recovery.BACKOFF_MOST
    assert waits == sorted(waits)
    assert count_failures(failures, SEGV, RUNNING, LONG_AGO) == 1
    assert count_failures(failures, KILLED, ADOPTING, None) == failures + 1


def test_words() -> None:
    assert str(KILLED) == "was killed by SIGKILL"
    assert str(HUNG) == "was killed: it made no progress for 100 ms"
    assert describe(3) == "has exited with status 3"
    assert describe(-35) == "was killed by signal 35"
    assert describe(None) == "has ended"
