"""Rates from successive answers, in virtual time."""

import dataclasses
import json
from typing import Any

import pytest

from neatstack.observe.rates import SERIES, Meter, ProcessView, Rates, growth
from tests.observe.fake import LAST, replica, status


def after(seconds: float, several: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    return status(several, at=1.0 + seconds, **changes)


def test_the_first_answer_has_no_rates() -> None:
    view = Meter().take(status(2))
    assert (view.name, view.address, view.device, view.version, view.uptime) == (
        "web", "10.77.0.2/24", "neat0", "0.1.0", 61.5,
    )  # fmt: skip
    assert view.rates == Rates() and view.seconds == 0 and view.history["requests"] == ()
    assert (view.active, view.draining, view.max_replicas, view.spares_ready, view.spares) == (2, (), 4, 1, 1)
    assert (view.pins, view.wrong_replica, view.queue_drops, view.programs, view.connections) == (3, 0, 4, 1, 10)
    assert len(view.table) == 256
    assert view.processes["manager"] == ProcessView(pid=901, cpu_seconds=0.5, resident=20 << 20)
    first, second = view.replicas
    assert (first.busy, first.takes_new, first.buckets, first.pins, first.dropped) == (0.25, True, 128, 0, 2)
    assert second.pins == 3 and second.pid == 1001
    assert view.share(first) == 0.5


def test_all_addresses_of_a_stack_that_tells_them() -> None:
    told = {**status(2), "addresses": ["10.77.0.2/24", "fd77::2/64"]}
    assert Meter().take(told).address == "10.77.0.2/24 fd77::2/64"


def test_rates_between_two_answers() -> None:
    meter = Meter()
    meter.take(status(2))
    grown = {
        "packets_in": 300, "packets_out": 190, "bytes_in": 12_000, "bytes_out": 190_000, "requests": 140,
        "connections_accepted": 50, "connections_opened": 5, "retransmits": 3, "drop_sequence": 7,
    }  # fmt: skip
    view = meter.take(after(2, [replica(0, counters=grown), replica(1)]))
    assert view.seconds == 2
    assert view.replicas[0].rates == Rates(50, 100, 50, 1000, 50_000, 6, 1, 3.5)
    assert view.replicas[0].rates.packets == 150 and view.replicas[0].rates.bytes == 51_000
    assert view.replicas[1].rates == Rates()
    assert view.rates == view.replicas[0].rates
    assert view.history["requests"] == (50,) and view.history["connections"] == (10,) and view.history["busy"] == (0.5,)
    assert view.replicas[0].history["packets_in"] == (100,)


def test_a_counter_that_goes_back_began_again() -> None:
    assert growth(5, 7) == 2 and growth(100, 7) == 7
    meter = Meter()
    meter.take(status([replica(0, counters={"requests": 1000})]))
    view = meter.take(after(1, [replica(0, counters={"requests": 30})]))
    assert view.rates.requests == 30
    assert view.rates.packets_in == 0


def test_replicas_come_and_go() -> None:
    meter = Meter(history=4)
    meter.take(status(1))
    view = meter.take(after(1, [replica(0), replica(1, counters={"requests": 10**6})]))
    assert view.replicas[1].rates == Rates() and view.replicas[1].history["requests"] == (0.0,)
    view = meter.take(after(2, [replica(0), replica(1, counters={"requests": 10**6 + 5})]))
    assert view.replicas[1].rates.requests == 5
    for second in (3, 4):
        assert [each.id for each in meter.take(after(second, [replica(0)])).replicas] == [0]
    view = meter.take(after(5, [replica(0), replica(1, counters={"requests": 10**6 + 99})]))
    assert view.replicas[1].rates == Rates()  # nobody knows when it was
    assert view.replicas[1].history["requests"] == (5.0, 0.0, 0.0, 0.0)
    for second in range(6, 12):
        meter.take(after(second, [replica(0)]))
    assert meter._tracks.keys() == {0}


def test_history_is_bounded_and_complete() -> None:
    meter = Meter(history=3)
    for second in range(10):
        view = meter.take(after(second, [replica(0, counters={"requests": second * second})]))
    assert view.history["requests"] == view.replicas[0].history["requests"] == (13.0, 15.0, 17.0)
    assert view.history.keys() == set(SERIES) and all(len(values) == 3 for values in view.history.values())


def test_answers_of_one_moment_keep_the_rates() -> None:
    meter = Meter()
    meter.take(status(1))
    rates = meter.take(after(1, [replica(0, counters={"requests": 50})])).rates
    view = meter.take(after(1, [replica(0, counters={"requests": 50})]))
    assert view.rates == rates and view.history["requests"] == (10,)


def test_a_manager_restarts() -> None:
    meter = Meter()
    meter.take(status(1))
    other = {"manager": {"pid": 5000}}
    view = meter.take(after(1, [replica(0, counters={"requests": 45})], processes=other, uptime_s=0.1))
    assert view.manager_restarts == 1 and view.rates.requests == 5  # counters are the replicas' own
    assert meter.take(after(2, [replica(0)], processes=other)).manager_restarts == 1


def test_busy_is_told_or_computed() -> None:
    meter, told = Meter(), {"busy": None}
    assert meter.take(status([replica(0, **told)])).replicas[0].busy is None
    slept = {"slept_ns": 10_000_000_000 + 1_500_000_000}
    assert meter.take(after(2, [replica(0, counters=slept, **told)])).replicas[0].busy == 0.25
    assert meter.take(after(3, [replica(0, busy=7)])).replicas[0].busy == 1.0
    older = replica(0)
    del older["busy"], older["counters"]["slept_ns"]
    meter = Meter()
    meter.take(status([older]))
    view = meter.take(after(1, [{**older, "cpu_seconds": 1.5}]))
    assert view.replicas[0].busy == 0.5
    assert meter.take(after(2, [{**older, "pid": 77, "cpu_seconds": 0.1}])).replicas[0].busy is None


def test_draining_and_scaling() -> None:
    scaling = {"active": 1, "draining": [1], "auto": {"min": 1, "max": 4}, "under_way": "2 to 1"}
    leaving = replica(1, state="draining", takes_new=False)
    view = Meter().take(status([replica(0), leaving], scaling=scaling))
    assert (view.active, view.draining, view.auto, view.under_way) == (1, (1,), {"min": 1, "max": 4}, "2 to 1")
    assert view.share(view.replicas[0]) == 1.0 and view.share(view.replicas[1]) == 0.0


def test_recoveries() -> None:
    view = Meter().take(status([replica(0, recoveries=2, incarnation=3, last_recovery=LAST)]))
    assert view.replicas[0].recoveries == 2
    last = view.replicas[0].last_recovery
    assert last is not None and (last.gap_ms, last.how, last.adopted) == (3.5, "adopt", 5)
    view = Meter().take(status([replica(0, last_recovery={**LAST, "running_ns": 0})]))
    assert view.replicas[0].last_recovery is not None and view.replicas[0].last_recovery.gap_ms is None


OLDER = {
    "name": "web", "address": "10.77.0.2/24", "max_replicas": 4,
    "replicas": [{"id": 0, "pid": 7, "state": "running", "packets_in": 10, "drops": {"wrong_replica": 2}}],
    "steering": {"buckets": {"0": 256}, "pins": 0},
}  # fmt: skip


def test_a_stack_that_knows_less() -> None:
    meter = Meter()
    view = meter.take(OLDER, now_ns=10**9)
    assert (view.active, view.draining, view.version, view.table, view.wrong_replica) == (1, (), None, (), 2)
    view = meter.take({**OLDER, "replicas": [{**OLDER["replicas"][0], "packets_in": 60}]}, now_ns=2 * 10**9)  # type: ignore[index]
    assert view.rates.packets_in == 50 and view.replicas[0].rates.requests == 0


@pytest.mark.parametrize("answer", [
    {}, {"replicas": None}, {"replicas": [None, 3, {}, {"id": "x"}]}, {"steering": [], "device": 5, "spares": "no"},
    {"replicas": [{"id": 0, "counters": [1], "drops": None, "busy": "x", "last_recovery": 7, "state": None}]},
    {"scaling": {"active": None, "draining": None, "auto": 3}, "processes": {"manager": None}},
])  # fmt: skip
def test_nonsense_is_harmless(answer: dict[str, Any]) -> None:
    meter = Meter()
    for second in (1, 2):
        meter.take(answer, now_ns=second * 10**9)
        meter.take(status(2, at=second + 0.5))


def test_views_are_json() -> None:
    view = Meter().take(status(2))
    assert json.loads(json.dumps(dataclasses.asdict(view)))["replicas"][1]["id"] == 1
