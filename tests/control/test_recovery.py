"""What is decided about a death: the table."""

import itertools
import signal
from typing import get_args

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
        (KILLED, RUNNING, "fresh", None, "adopt"),
        (SEGV, RUNNING, "fresh", None, "suspect"),
        (SEGV, RUNNING, "reset", LONG_AGO, "suspect"),
        (SEGV, RUNNING, "suspect", LONG_AGO, "suspect"),
        (SEGV, RUNNING, "adopt", JUST_NOW, "reset"),
        (SEGV, RUNNING, "suspect", JUST_NOW, "reset"),
        (SEGV, RUNNING, "reset", JUST_NOW, "reset"),  # it has served: the memory is not to blame
        (SEGV, RUNNING, "fresh", JUST_NOW, "reset"),
        (EXIT, RUNNING, "adopt", None, "suspect"),
        (EXIT, RUNNING, "adopt", 0, "reset"),
        (UNKNOWN, RUNNING, "adopt", None, "suspect"),
        (HUNG, RUNNING, "adopt", None, "suspect"),
        (HUNG, RUNNING, "adopt", JUST_NOW, "reset"),
        (KILLED, ADOPTING, "adopt", None, "adopt"),
        (KILLED, ADOPTING, "suspect", JUST_NOW, "suspect"),
        (KILLED, ADOPTING, "reset", JUST_NOW, "reset"),
        (KILLED, ADOPTING, "fresh", JUST_NOW, "fresh"),
        (ENDED, ADOPTING, "reset", None, "reset"),
        (PARDONED, ADOPTING, "suspect", None, "suspect"),
        (PARDONED, ADOPTING, "reset", JUST_NOW, "reset"),
        (PARDONED, ADOPTING, "fresh", None, "fresh"),
        (SEGV, ADOPTING, "adopt", None, "reset"),
        (EXIT, ADOPTING, "suspect", LONG_AGO, "reset"),
        (UNKNOWN, ADOPTING, "adopt", None, "reset"),
        (HUNG, ADOPTING, "adopt", None, "reset"),
        (SEGV, ADOPTING, "suspect", JUST_NOW, "reset"),
        (SEGV, ADOPTING, "reset", None, "fresh"),
        (EXIT, ADOPTING, "reset", LONG_AGO, "fresh"),
        (UNKNOWN, ADOPTING, "reset", JUST_NOW, "fresh"),
        (HUNG, ADOPTING, "reset", JUST_NOW, "fresh"),
        (SEGV, ADOPTING, "fresh", JUST_NOW, "fresh"),
        (HUNG, ADOPTING, "fresh", None, "fresh"),
        # it has not looked at anything yet
        (SEGV, STARTING, "adopt", JUST_NOW, "adopt"),
        (HUNG, STARTING, "suspect", None, "suspect"),
        (KILLED, STARTING, "reset", None, "reset"),
        (SEGV, STARTING, "reset", JUST_NOW, "reset"),
        (UNKNOWN, STARTING, "fresh", JUST_NOW, "fresh"),
        (PARDONED, STARTING, "adopt", None, "adopt"),
    ],
)
def test_decision(ending: Ending, stage: Stage, meant: How, since_own: int | None, how: How) -> None:
    assert decide(ending, stage, meant, since_own, "adopt") == how
    # the option is about those that have served; what has not is repeated, or escalates, as ever
    assert decide(ending, stage, meant, since_own, "reset") == ("reset" if stage is RUNNING else how)


@pytest.mark.parametrize("option", ["adopt", "reset"])
def test_memory_is_given_up_only_for_a_reset_that_failed(option: str) -> None:
    """In the whole table."""
    endings = (KILLED, ENDED, PARDONED, SEGV, EXIT, UNKNOWN, HUNG)
    hows: tuple[How, ...] = get_args(How)
    assert hows == ("adopt", "suspect", "reset", "fresh")
    for ending, stage, meant, since_own in itertools.product(endings, Stage, hows, (None, 0, JUST_NOW, LONG_AGO)):
        how = decide(ending, stage, meant, since_own, option)
        failed = stage is ADOPTING and not ending.outside
        assert (how == "fresh") == (stage is not RUNNING and (meant == "fresh" or (meant == "reset" and failed)))
        if stage is STARTING or (stage is ADOPTING and ending.outside):
            assert how == meant
        elif stage is ADOPTING:
            assert hows.index(how) > hows.index(meant) or how == meant == "fresh"
        elif option == "reset":
            assert how == "reset"


def test_escalation() -> None:
    """One that dies whatever is done: suspect, reset, fresh, and fresh from then on, until one has served."""
    how: How = "fresh"
    hows = []
    for stage, since_own in ((RUNNING, None), (RUNNING, 0), (ADOPTING, 0), (ADOPTING, 0), (RUNNING, 0), (ADOPTING, 0)):
        how = decide(SEGV, stage, how, since_own, "adopt")
        hows.append(how)
    assert hows == ["suspect", "reset", "fresh", "fresh", "reset", "fresh"]
    assert decide(SEGV, RUNNING, "fresh", LONG_AGO, "adopt") == "suspect"


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
