"""The experiment of the SYN flood: frames that are right, a small one on a real stack, and one that goes wrong."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from neatstack.cli.experiment import flood as command
from neatstack.control.errors import NeatError
from neatstack.experiment import flood
from neatstack.experiment.flood import Outcome, Syns, experiment, serving
from neatstack.experiment.netns import Lab
from tests.support.packet import parse

SYNS = 6000
BACKLOG = 64


def test_every_frame_is_right_and_another() -> None:
    made = Syns(b"\x02\0\0\0\0\x02", "10.0.0.2", 80)
    flows = set()
    for number in (0, 1, 2, 255, 256, 65534, 65535, 65536, 1 << 20, (1 << 31) - 1):
        segment = parse(bytes(made.numbered(number)))  # raises when a checksum is wrong
        assert (segment.flags, segment.destination, segment.destination_port) == ("S", "10.0.0.2", 80)
        assert segment.mss == 1460
        flows.add((segment.source, segment.source_port))
    assert len(flows) == 10 and all(source.startswith("198.18.") for source, _ in flows)


def test_clients_do_not_notice(lab: Lab) -> None:
    told: list[int] = []
    with serving(lab, 2, SYNS, 2, f"max_backlog = {BACKLOG}\n") as (sender, worker, path):
        outcome = experiment(2, SYNS, sender, worker, path, lambda step, _: told.append(step))
    assert told == list(range(flood.STEPS + 1))
    assert outcome.good and outcome.syns == SYNS, outcome
    assert outcome.cookies > 0 or outcome.lost_at_device > SYNS // 2, outcome
    assert outcome.most_connections < 2 * 2 * BACKLOG + 400  # and what the clients have left in TIME-WAIT
    assert outcome.resident_most - outcome.resident_before < 8 << 20


@pytest.mark.parametrize("failed", [0, 1])
def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failed: int) -> None:
    def fake(replicas: int, syns: int, *_: Any) -> Outcome:
        return Outcome(syns, replicas, 2.0, syns / 2, 0, 5, 9, 3, failed, 0, 12.0, 77, 4096, 8192)

    monkeypatch.setattr(flood, "experiment", fake)
    monkeypatch.setattr(flood, "serving", lambda *_: Nothing())
    if failed:
        with pytest.raises(NeatError, match="not every client"):
            command.run(10, 2, 1, tmp_path)
    else:
        assert command.run(10, 2, 1, tmp_path) == 0
    (row,) = csv.DictReader((tmp_path / "summary.csv").open())
    assert (row["syns"], row["failed"], row["cookies"]) == ("10", str(failed), "5")
    assert f"| 10 | 2 | 5 | 0 | 5 | 9 | 3 | {failed} | 0 | 12 | 77 | 4 | 8 |" in (tmp_path / "table.md").read_text()


class Nothing:
    def __enter__(self) -> tuple[None, None, None]:
        return None, None, None

    def __exit__(self, *error: object) -> None: ...
