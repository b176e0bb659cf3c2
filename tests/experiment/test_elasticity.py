"""The experiment of elasticity, on a stage without a stack: what is counted, the files, and that it ends well."""

from __future__ import annotations

import contextlib
import csv
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neatstack.cli.experiment import elasticity as command
from neatstack.control.errors import NeatError
from neatstack.experiment import elasticity
from neatstack.experiment.elasticity import Arena, Plan, Results, Run, experiment
from neatstack.experiment.netns import Lab, LabError, Process
from neatstack.experiment.stage import loaded
from tests.experiment.fake import hold, local, serve

STOP = 0.04  # seconds that nobody is served while the stack changes
CONNECTIONS = 8
PLAN = Plan(scalings=6, renewals=4, most=4, seed=3, quiet=2)


class FakeElastic:
    """A stack that stops the server for a while at every change; what it says can be told."""

    client: Process

    def __init__(self, server: Process, replicas: int) -> None:
        self.server, self.replicas = server, replicas
        self.scalings: list[int] = []
        self.refuses = ""
        self.wrong = 0

    def stop(self) -> None:
        hold(self.server, self.client)
        threading.Timer(STOP, os.kill, [self.server.pid, signal.SIGCONT]).start()
        time.sleep(STOP / 2)

    def scale(self, replicas: int) -> dict[str, Any]:
        if self.refuses:
            raise LabError(self.refuses)
        self.stop()
        before, self.replicas = self.replicas, replicas
        self.scalings.append(replicas)
        return {"ok": True, "from": before, "to": replicas, "draining": [*range(replicas, before)], "took_ms": 1.5}

    def rejuvenate(self) -> dict[str, Any]:
        self.stop()
        replaced = [{"replica": n, "gap_ms": 2.0 + n, "adopted": 3, "lost": 0} for n in range(self.replicas)]
        return {"ok": True, "replaced": replaced}

    def upgrade(self) -> dict[str, Any]:
        return {**self.rejuvenate(), "version": "2"}

    def status(self) -> dict[str, Any]:
        return {"steering": {"wrong_replica": self.wrong}}


class Arenas:
    """Opens one, and remembers it."""

    def __init__(self, lab: Lab, life: int = 50) -> None:
        self.lab, self.life = lab, life

    @contextlib.contextmanager
    def __call__(self, replicas: int) -> Iterator[Arena]:
        with self.lab.scope():
            server, port = serve(local(self.lab))
            self.stack = FakeElastic(server, replicas)
            with loaded(local(self.lab), "127.0.0.1", port, CONNECTIONS, None, self.life, 1) as load:
                self.load, self.stack.client = load, load.process
                yield load, self.stack


def rows(file: Path) -> list[dict[str, str]]:
    with file.open() as lines:
        return list(csv.DictReader(lines))


def test_the_same_seed_gives_the_same_changes() -> None:
    draws = list(PLAN.draws(1))
    assert draws == list(PLAN.draws(1)) != list(Plan(6, 4, 4, seed=4, quiet=2).draws(1))
    assert [draw.kind for draw in draws] == ["nothing"] * 2 + ["scale"] * 7 + ["rejuvenate", "upgrade"] * 2
    assert len(draws) == PLAN.steps
    numbers = [1, *(draw.replicas for draw in draws if draw.kind == "scale")]
    assert all(1 <= number <= 4 for number in numbers)
    assert all(one != other for one, other in zip(numbers[:6], numbers[1:7], strict=True))


def test_changes_on_a_stage_without_a_stack(tmp_path: Path) -> None:
    results, told = Results(tmp_path), []
    with Lab() as lab:
        arenas = Arenas(lab)
        experiment(PLAN, arenas, results, lambda what, done, lost: told.append((what, done, lost)))
        assert arenas.load.timeline.ended > CONNECTIONS
    results.finish(["about"])
    assert [done for _, done, _ in told] == list(range(PLAN.steps + 1)) and told[-1] == ("done", PLAN.steps, 0)
    assert [change.after for change in results.changes if change.kind == "scale"] == arenas.stack.scalings
    for change in results.changes:
        assert change.without_loss and len(change.gaps) == CONNECTIONS
        assert change.serving_ms is not None and change.gap_max_ms is not None
        if change.kind != "nothing":
            assert change.gap_max_ms >= STOP * 1000 and change.took_ms is not None and change.took_ms >= STOP * 500
    assert sum(change.ended for change in results.changes) <= arenas.load.timeline.ended
    renewed = [change for change in results.changes if change.kind in ("rejuvenate", "upgrade")]
    assert [(each.replaced, each.adopted, each.replica_gap_max_ms) for each in renewed] == [(4, 12, 5.0)] * 4
    summary = {row["kind"]: row for row in rows(tmp_path / "summary.csv")}
    assert {kind: row["changes"] for kind, row in summary.items()} == {
        "nothing": "2", "scale": "7", "rejuvenate": "2", "upgrade": "2",
    }  # fmt: skip
    assert summary["upgrade"]["replica_gap_max_ms"] == "5.000" and summary["scale"]["replica_gap_max_ms"] == ""
    assert len(rows(tmp_path / "changes.csv")) == PLAN.steps
    gaps = [row["of"] for row in rows(tmp_path / "gaps.csv")]
    assert gaps.count("connection") == PLAN.steps * CONNECTIONS and gaps.count("replica") == 16
    assert "| rejuvenate | 2 | 100.0% | 0 | 0 | 0 | 0 |" in (tmp_path / "table.md").read_text()


def test_orderly_ends_are_no_losses_and_lost_connections_are_counted(tmp_path: Path) -> None:
    results = Results(tmp_path)
    with Lab() as lab, Arenas(lab, life=50)(1) as (load, stack):
        run = Run(load, stack, results)
        assert isinstance(stack, FakeElastic)
        scale, port = stack.scale, stack.server.argv[-1]

        def lossy(replicas: int) -> dict[str, Any]:
            stack.server.stop()
            stack.wrong += 2
            stack.server = local(lab).spawn(*stack.server.argv[:-1], port)
            time.sleep(0.5)
            return scale(replicas)

        stack.scale = lossy  # type: ignore[method-assign]
        run.changes(Plan(1, 0, 2, seed=1, quiet=1), 1, lambda *_: None)
    nothing, scaled = results.changes
    assert nothing.ended > 10 and nothing.without_loss
    assert 0 < scaled.connections_lost and scaled.failed_requests == scaled.connections_lost
    assert scaled.wrong_replica == 2 and scaled.wrong_bytes == 0 and not scaled.without_loss


def test_a_stack_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, and what there was until then is in the files."""
    real = FakeElastic.scale

    def once(self: FakeElastic, replicas: int) -> dict[str, Any]:
        self.refuses = "the stack refuses scale: no" if self.scalings else ""
        return real(self, replicas)

    monkeypatch.setattr(FakeElastic, "scale", once)
    monkeypatch.setattr(elasticity, "arena", lambda lab, plan, connections: Arenas(lab))
    with pytest.raises(NeatError, match="^the stack refuses scale: no$"):
        command.run(PLAN, CONNECTIONS, tmp_path)
    assert [row["kind"] for row in rows(tmp_path / "changes.csv")] == ["nothing", "nothing", "scale"]
    assert (tmp_path / "table.md").exists()


def test_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(self: FakeElastic) -> dict[str, Any]:
        signal.raise_signal(signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
        return {}

    monkeypatch.setattr(FakeElastic, "upgrade", late)
    monkeypatch.setattr(elasticity, "arena", lambda lab, plan, connections: Arenas(lab))
    assert command.run(PLAN, CONNECTIONS, tmp_path) == 130
    assert [row["kind"] for row in rows(tmp_path / "changes.csv")][-1] == "rejuvenate"
