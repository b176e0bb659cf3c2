"""The experiment of very many flows: on a real stack, with a few of them, and with a scale-down that loses some."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from neatstack.cli.experiment import flows as command
from neatstack.control.errors import NeatError
from neatstack.experiment import flows
from neatstack.experiment.flows import Outcome, experiment, serving
from neatstack.experiment.netns import Lab, LabError
from neatstack.experiment.stage import Control

FLOWS = 300


def run(lab: Lab, scale: Any) -> Outcome:
    told: list[int] = []
    with serving(lab, 2, FLOWS) as (clients, control):
        outcome = experiment(FLOWS, 2, 1, clients, control, lambda to: scale(control, to), lambda n, _: told.append(n))
    assert told == list(range(flows.STEPS + 1))
    return outcome


def test_all_are_answered(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows, "EACH", 100)  # three clients and servers
    outcome = run(lab, lambda control, to: None)
    assert outcome.good and (outcome.answered, outcome.lost, outcome.wrong_bytes) == (FLOWS, 0, 0)


def test_what_is_lost_is_counted(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica is made to lose its connections, as a broken one does when it dies of itself again at once."""
    monkeypatch.setattr(Lab, "stack", with_options(Lab.stack, "--recovery", "reset"))
    outcome = run(lab, lambda control, to: control.inject(0, "kill", 0))
    assert not outcome.good and 0 < outcome.lost < FLOWS and outcome.answered == FLOWS - outcome.lost


def with_options(start: Any, *options: str) -> Any:
    return lambda self, **given: start(self, options=options, **given)


def test_too_few_descriptors(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows, "DESCRIPTORS", 1 << 40)
    with pytest.raises(LabError, match="ulimit"), serving(lab, 2, 10):
        pass


@pytest.mark.parametrize("lost", [0, 1])
def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: int) -> None:
    def fake(count: int, before: int, after: int, *_: Any) -> Outcome:
        return Outcome(count, before, after, 1.0, 2.0, count - lost, 1.0, lost, 0, 0, 0, 7)

    monkeypatch.setattr(flows, "experiment", fake)
    monkeypatch.setattr(Control, "scale", None)
    monkeypatch.setattr(flows, "serving", lambda *_: Nothing())
    if lost:
        with pytest.raises(NeatError, match="not every connection"):
            command.run(10, 4, 1, tmp_path)
    else:
        assert command.run(10, 4, 1, tmp_path) == 0
    (row,) = csv.DictReader((tmp_path / "summary.csv").open())
    assert (row["flows"], row["lost"], row["pins"]) == ("10", str(lost), "7")
    assert f"| 10 | 4 | 1 | 2 | 7 | {10 - lost} | {lost} |" in (tmp_path / "table.md").read_text()


class Nothing:
    def __enter__(self) -> tuple[None, Any]:
        return None, Control

    def __exit__(self, *error: object) -> None: ...
