"""One change at a time; what has happened is remembered, but not for ever."""

import pytest

from neatstack.control.change import Change
from neatstack.control.errors import NeatError
from neatstack.control.events import KEPT, Events
from neatstack.control.recovery import Recovery


def test_a_second_change_is_refused_until_the_first_is_done() -> None:
    change = Change()
    with change.begin("scaling from 1 to 2 replicas"):
        with pytest.raises(NeatError, match="^scaling from 1 to 2 replicas is under way; try again when it is done$"):
            with change.begin("another"):
                raise AssertionError
        assert change.under_way == "scaling from 1 to 2 replicas"
    with pytest.raises(ZeroDivisionError), change.begin("one that fails"):
        raise ZeroDivisionError
    assert change.under_way is None


def test_events_are_told_from_an_id_on() -> None:
    events = Events()
    events.add("scale_up", "from 1 to 2 replicas")
    answer = events.since(0)
    assert [event["text"] for event in answer["events"]] == ["from 1 to 2 replicas"]
    assert events.since(answer["next"])["events"] == []
    events.recovered(Recovery(1, 2, "was killed by SIGKILL", "adopt", 10_000_000, 14_500_000, 7, 0, 900))
    (event,) = events.since(answer["next"])["events"]
    assert event["text"] == "replica 1 was killed by SIGKILL; adopt"
    assert (event["kind"], event["gap_ms"], event["adopted"], event["lost"]) == ("crash", 4.5, 7, 0)


def test_the_oldest_events_go() -> None:
    events = Events()
    for number in range(KEPT + 10):
        events.add("drained", str(number))
    kept = events.since(0)["events"]
    assert len(kept) == KEPT and kept[0]["text"] == "10" and kept[-1]["id"] + 1 == events.since(0)["next"]
