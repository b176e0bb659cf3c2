"""The experiment: what is derived from what was seen, the files, and that it ends well in every case."""

from __future__ import annotations

import contextlib
import csv
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from neatstack.experiment import recovery
from neatstack.experiment.netns import Lab, environment
from neatstack.experiment.recovery import Plan, experiment
from neatstack.experiment.results import Fault, Results, Series, markdown, percentile, summarize
from neatstack.experiment.stage import Combination, open_stage
from neatstack.experiment.timeline import LOST, OPENED, WINDOW, WRONG, Timeline
from tests.experiment.fake import CONNECTIONS, STOP, FakeStack, fake_stage

ROOT = Path(__file__).parents[2]
MS = 1_000_000  # ns


def timeline(*events: tuple[float, int, int, int | None], places: int = 1) -> Timeline:
    """Of (ms, place, kind, value)."""
    made = Timeline(places)
    for when, place, kind, value in events:
        made.feed(struct.pack("=q", int(when * MS) << 16 | kind << 13 | place))
        if value is not None:
            made.feed(struct.pack("=q", value))
    return made


def answers(*times: float) -> Timeline:
    return timeline((0, 0, OPENED, 4000), *((when, 0, 0, None) for when in times))


class TestGap:
    def test_the_interval_that_spans_the_fault(self) -> None:
        assert answers(1, 2, 9, 10).gap(0, 5 * MS, 1005 * MS) == 7 * MS

    def test_one_that_begins_within_a_second(self) -> None:
        seen = answers(1, 2, 3, 500, 900, 1800, 1801)
        assert seen.gap(0, 2 * MS, 1002 * MS) == 900 * MS

    def test_one_that_begins_later_does_not_count(self) -> None:
        seen = answers(1, 2, 3, 800, 1100, 5000)
        assert seen.gap(0, 2 * MS, 1002 * MS) == 797 * MS

    def test_one_that_ended_before_does_not_count(self) -> None:
        assert answers(1, 900, 901, 903, 904).gap(0, 902 * MS, 1902 * MS) == 2 * MS

    def test_what_spans_the_next_fault_counts_there(self) -> None:
        seen = answers(1, 4, 5, 60, 61)
        assert seen.gap(0, 3 * MS, 10 * MS) == 3 * MS
        assert seen.gap(0, 10 * MS, 10 * MS + WINDOW) == 55 * MS

    def test_no_further_answer(self) -> None:
        seen = timeline((0, 0, OPENED, 1), (1, 0, 0, None), (0, 1, OPENED, 2), (90, 1, 0, None), places=2)
        assert seen.gap(0, 5 * MS, 1005 * MS) == 89 * MS

    def test_forgetting_changes_nothing(self) -> None:
        seen = answers(*range(1, 50), 70, 71)
        before = seen.gap(0, 60 * MS, 1060 * MS), seen.served(0, 60 * MS, 0)
        seen.forget(60 * MS)
        assert len(seen.times[0]) == 3
        assert (seen.gap(0, 60 * MS, 1060 * MS), seen.served(0, 60 * MS, 0)) == before == (21 * MS, 71 * MS)


class TestServed:
    def test_an_answer_to_a_request_after_the_fault(self) -> None:
        seen = answers(1, 4, 6)
        assert seen.served(0, 3 * MS, 0) == 6 * MS  # the one at 4 was asked for at 1
        assert seen.served(0, 5 * MS, 0) is None

    def test_not_before_the_replica_runs_again(self) -> None:
        assert answers(1, 4, 6, 20, 21).served(0, 3 * MS, 15 * MS) == 20 * MS

    def test_a_connection_that_was_opened_again(self) -> None:
        events = [(0, 0, OPENED, 1), (1, 0, 0, None), (6, 0, LOST, None)]
        assert timeline(*events).served(0, 5 * MS, 0) is None
        events += [(7, 0, OPENED, 2), (9, 0, 0, None)]
        seen = timeline(*events)
        assert seen.served(0, 5 * MS, 0) == 9 * MS
        assert seen.ports == [2] and seen.strangers == {0}
        assert [trouble.kind for trouble in seen.between(5 * MS, 7 * MS)] == [LOST]

    def test_the_last_of_all(self) -> None:
        events = [(0, 0, OPENED, 1), (0, 1, OPENED, 2), (1, 0, 0, None), (2, 1, 0, None), (5, 0, 0, None)]
        assert timeline(*events, places=2).all_served(MS // 2, 0) is None
        events += [(7, 1, 0, None)]
        assert timeline(*events, places=2).all_served(MS // 2, 0) == 7 * MS


def test_the_log_may_be_cut_anywhere() -> None:
    words = [7 * MS << 16, 8 * MS << 16 | OPENED << 13, 4321, 9 * MS << 16 | WRONG << 13, 12, 10 * MS << 16]
    data = struct.pack("=6q", *words)
    for cut in range(len(data)):
        made = Timeline(1)
        made.feed(data[:cut])
        made.feed(data[cut:])
        assert list(made.times[0]) == [7 * MS, 10 * MS] and made.ports == [4321]
        assert [(each.kind, each.count) for each in made.troubles] == [(WRONG, 12)]


def fault(number: int, lost: int = 0, serving: float | None = 5.0, **more: object) -> Fault:
    values = dict(
        mode="adopt", replicas=2, kind="segv", number=number, seed=7, replica=1, time_s=1.5, connections_before=30,
        connections_lost=lost, failed_requests=lost, gap_p50_ms=1.0, gap_p99_ms=2.0, gap_max_ms=3.0, wrong_bytes=0,
        recovered=not lost, how="suspect", adopted=30 - lost, lost_by_stack=lost, serving_ms=serving, what="",
    )  # fmt: skip
    return Fault(**{**values, **more})  # type: ignore[arg-type]


class TestStatistics:
    def test_percentiles_are_nearest_ranks(self) -> None:
        hundred = list(range(100, 0, -1))
        assert [percentile(hundred, part) for part in (0.5, 0.99, 1.0)] == [50, 99, 100]
        assert percentile([4.0], 0.99) == 4.0 and percentile([], 0.5) is None

    def test_a_series(self) -> None:
        series = Series([fault(0), fault(1, lost=1), fault(2, lost=5, serving=None), fault(3, wrong_bytes=4)])
        series.gaps += [1.0] * 98 + [50.0, 200.0]
        row = summarize(Combination("adopt", 2, "segv"), series)
        assert (row["faults"], row["without_loss"], row["lost_mean"], row["lost_max"]) == (4, 0.5, 1.5, 5)
        assert (row["gap_p50_ms"], row["gap_p99_ms"], row["gap_max_ms"]) == (1.0, 50.0, 200.0)
        assert (row["failed_requests"], row["wrong_bytes"], row["serving_max_ms"]) == (6, 4, 5.0)
        assert row["not_served_again"] == 1

    def test_the_table(self) -> None:
        series = Series([fault(0), fault(1, lost=1)], [1.0, 2.0])
        lines = markdown([summarize(Combination("adopt", 2, "segv"), series)], ["about"]).splitlines()
        assert lines[2] == "| adopt | 2 | segv | 2 | 50.0% | 0.50 | 1 | 1 | 1.0 | 2.0 | 2.0 | 0 | 5.0 |"
        assert len({line.count("|") for line in lines[:3]}) == 1
        assert lines[4] == "about"

    def test_the_same_seed_gives_the_same_faults(self) -> None:
        plan = Plan(20, (1, 2), ("kill", "flip"), ("adopt", "reset"), seed=5)
        first, second = (list(plan.draws(Combination(mode, 2, "flip"))) for mode in ("adopt", "reset"))
        assert first == second and len(first) == 20
        assert first != list(plan.draws(Combination("adopt", 2, "kill")))
        assert first != list(Plan(20, (2,), ("flip",), ("adopt",), seed=6).draws(Combination("adopt", 2, "flip")))
        assert {draw.replica for draw in first} == {0, 1} and len(plan.combinations()) == 8


def rows(file: Path) -> list[dict[str, str]]:
    with file.open() as lines:
        return list(csv.DictReader(lines))


def test_files(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.add(fault(0), {3: 1.25, 4: 80.0}, set())
    results.add(fault(1, lost=1, mode="reset", serving=None), {3: 900.5}, {3})
    results.finish(["about"])
    assert [row["connections_lost"] for row in rows(tmp_path / "faults.csv")] == ["0", "1"]
    assert [row["serving_ms"] for row in rows(tmp_path / "faults.csv")] == ["5.000", ""]
    gaps = [(row["number"], row["connection"], row["gap_ms"], row["lost"]) for row in rows(tmp_path / "gaps.csv")]
    assert gaps == [("0", "3", "1.250", "0"), ("0", "4", "80.000", "0"), ("1", "3", "900.500", "1")]
    assert [row["mode"] for row in rows(tmp_path / "summary.csv")] == ["adopt", "reset"]
    assert "(never: 1)" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize("empty", [True, False])
def test_plots(tmp_path: Path, empty: bool) -> None:
    pytest.importorskip("matplotlib")
    from neatstack.experiment.plot import draw

    series = {}
    if not empty:
        for mode in ("adopt", "reset"):
            for kind in ("kill", "hang"):
                series[Combination(mode, 2, kind)] = Series([fault(0), fault(1, lost=2)], [1.0, 5.0, 300.0])
    draw(series, tmp_path)
    assert (tmp_path / "recovery.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "recovery.svg").read_text()[:1000]


def test_a_series_on_a_stage_without_a_stack(tmp_path: Path) -> None:
    results = Results(tmp_path)
    plan = Plan(6, (2,), ("kill",), ("adopt",), seed=3)
    told: list[int] = []
    with Lab() as lab:
        experiment(plan, lambda what: fake_stage(lab, what), results, lambda what, done, lost: told.append(done))
    results.finish([])
    (series,) = results.series.values()
    assert told == [0, 1, 2, 3, 4, 5, 6]
    assert [each.number for each in series.faults] == list(range(6))
    assert [each.seed for each in series.faults] == [draw.seed for draw in plan.draws(plan.combinations()[0])]
    for each in series.faults:
        assert (each.connections_lost, each.failed_requests, each.wrong_bytes) == (0, 0, 0)
        assert each.recovered and each.how == "adopt" and each.adopted == each.connections_before > 0
        assert each.gap_max_ms is not None and each.gap_max_ms >= STOP * 1000
        assert each.serving_ms is not None and each.serving_ms >= STOP * 1000
        assert each.what == "what it was"
    assert len(series.gaps) == sum(each.connections_before for each in series.faults) < 6 * CONNECTIONS + 1
    assert series.rate and series.rate > 100


def test_a_stack_that_does_not_serve_again_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = Results(tmp_path)
    plan = Plan(4, (2,), ("kill",), ("adopt",), seed=3)
    monkeypatch.setattr(FakeStack, "fatal", list(plan.draws(plan.combinations()[0]))[1].seed)
    monkeypatch.setattr(recovery, "SETTLE_LIMIT", 3.0)
    with Lab() as lab:
        experiment(plan, lambda what: fake_stage(lab, what), results, lambda *_: None)
    results.finish([])
    (series,) = results.series.values()
    assert [(each.number, each.recovered, each.serving_ms is None) for each in series.faults] == [
        (0, True, False), (1, False, True), (2, True, False), (3, True, False),
    ]  # fmt: skip
    never = series.faults[1].gap_p50_ms
    assert never is not None and never >= 3000 - 100


def test_interrupted_it_writes_what_it_has(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "tests.experiment.fake", str(tmp_path), "100000"]
    env = environment()
    with subprocess.Popen(argv, cwd=ROOT, env=env, stdout=subprocess.PIPE, start_new_session=True) as running:
        assert running.stdout
        try:
            for _ in range(6):
                assert running.stdout.readline() == b"fault\n"
            programs = children(running.pid)
            running.send_signal(signal.SIGINT)
            running.communicate(timeout=30)
            assert running.returncode == 130
        finally:
            running.kill()
    numbers = [int(row["number"]) for row in rows(tmp_path / "faults.csv")]
    assert len(numbers) >= 4 and numbers == list(range(len(numbers)))
    assert [int(row["faults"]) for row in rows(tmp_path / "summary.csv")] == [len(numbers)]
    assert rows(tmp_path / "gaps.csv") and "| adopt | 2 | kill |" in (tmp_path / "table.md").read_text()
    assert len(programs) == 2 and not any(Path(f"/proc/{pid}").exists() for pid in programs)


def children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


@pytest.mark.heavy
def test_killed_replicas_cost_no_connection(lab: Lab, tmp_path: Path) -> None:
    """On a real stack of two replicas, under load, every byte checked."""
    results = Results(tmp_path)
    plan = Plan(5, (2,), ("kill",), ("adopt",), seed=1)
    experiment(plan, lambda what: open_stage(lab, what, 64), results, lambda *_: None)
    results.finish([])
    (series,) = results.series.values()
    assert len(series.faults) == 5
    for each in series.faults:
        assert (each.connections_lost, each.failed_requests, each.wrong_bytes) == (0, 0, 0)
    assert all(each.how == "adopt" and each.recovered and each.connections_before for each in series.faults)
