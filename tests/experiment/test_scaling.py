"""The experiment of scaling: what is derived from the samples, the files, and who writes which lines of memory."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from neatstack.cli.experiment import scaling as command
from neatstack.experiment import instructions, lines, scaling
from neatstack.experiment.instructions import Count
from neatstack.experiment.lines import PROGRAM, REPLICA, Lines, Part
from neatstack.experiment.netns import Lab, LabError
from neatstack.experiment.scaling import KERNEL, Plan, Results, Sample, experiment

FILES = {"samples.csv", "summary.csv", "instructions.csv", "lines.csv", "table.md", "scaling.png", "scaling.svg"}


def sample(replicas: int, number: int, rate: float, servers: int = 2) -> Sample:
    return Sample(servers, replicas, number, rate, 1000, server_us=3.0, stack_us=4.0, cores_us=1e6 / rate)


def rows(file: Path) -> list[dict[str, str]]:
    with file.open() as opened:
        return list(csv.DictReader(opened))


class TestMemory:
    def test_no_line_is_changed_by_both_sides(self) -> None:
        """The socket library and engines, on the same channels, in turns."""
        parts = lines.turns(steps=1500, seed=5)
        assert [part.by_both for part in parts] == [0] * len(parts)
        for part in parts:
            by = {PROGRAM: part.by_program, REPLICA: part.by_replica}
            assert all(not count for writer, count in by.items() if writer != part.writer), part
            assert part.writer == "manager" or by[part.writer], f"nothing was done with {part.part}"

    def test_a_line_that_both_change_is_found(self) -> None:
        from neatstack.experiment.channel import Program

        program = Program(1, 16, 4096)
        watch = lines.Watch(program.memory)
        program.look(3)
        watch.note(PROGRAM)
        program.look(4)  # in the same line of the command ring
        watch.note(REPLICA)
        program.close()
        found = {part.part: part for part in lines.parts_of([watch])}
        assert [(name, part.by_both) for name, part in found.items() if part.by_both] == [
            ("cursors of the program", 1), ("commands", 1),
        ]  # fmt: skip
        assert sum(part.lines for part in found.values()) <= len(program.memory) // lines.LINE

    def test_a_program_that_ends(self) -> None:
        with pytest.raises(LabError, match="the program on the channels has ended"):
            lines.turns(steps=3, seed="no number")  # type: ignore[arg-type]

    def test_without_the_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lines, "LIBRARY", Path("/nowhere"))
        with pytest.raises(LabError, match="not built"):
            lines.turns(steps=3)

    def test_names_of_processes_and_memory(self) -> None:
        named = {"replica 3": "replica", "program 77 (nginx)": "program", "neat-channel-0-12": "channel"}
        assert {name: lines.kind_of(name) for name in named} == named


class TestResults:
    def test_medians_and_ratios(self, tmp_path: Path) -> None:
        results = Results(tmp_path)
        for number, (theirs, ours) in enumerate([(100.0, 120.0), (50.0, 80.0), (100.0, 100.0)], 1):
            results.add(sample(KERNEL, number, theirs))
            results.add(sample(4, number, ours))
        kernel, neat = results.summary()
        assert (kernel["stack"], kernel["rate"], kernel["rate_ratio"]) == ("kernel", 100.0, 1.0)
        assert (neat["stack"], neat["rate"], neat["rate_ratio"]) == ("4 replicas", 100.0, 1.2)
        assert neat["cores_ratio"] == pytest.approx(1 / 1.2)

    def test_files(self, tmp_path: Path) -> None:
        results = Results(tmp_path)
        results.add(sample(KERNEL, 1, 100.0))
        results.add(sample(1, 1, 150.0))
        results.counts = [Count(1, 1000, 8, 4_000_000), Count(8, 1000, 8, 4_020_000)]
        results.lines = Lines([Part("commands", PROGRAM, 128, 32, 0, 0)], 10)
        table = results.finish(["about"])
        assert "| 2 | 1 replica | 150 | 1.50 |" in table and "about" in table
        assert "| 8 | 1,000 | 4,020,000 | 4,020.0 | 1.0050 |" in table
        assert "| commands | program | 128 | 32 | 0 | 0 |" in table
        assert [row["ratio"] for row in rows(tmp_path / "instructions.csv")] == ["1.000", "1.005"]
        assert [row["by_both"] for row in rows(tmp_path / "lines.csv")] == ["0"]
        assert len(rows(tmp_path / "samples.csv")) == len(rows(tmp_path / "summary.csv")) == 2

    @pytest.mark.parametrize("empty", [True, False])
    def test_plots(self, tmp_path: Path, empty: bool) -> None:
        pytest.importorskip("matplotlib")
        from neatstack.experiment.plot_scaling import draw

        results = Results(tmp_path)
        for replicas in () if empty else (KERNEL, 1, 2):
            results.add(sample(replicas, 1, 100.0))
        draw(results.summary(), [] if empty else [{"replicas": 1, "each": 4000.0}], tmp_path)
        assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (tmp_path / "scaling.svg").read_text()[:1000]


def test_interrupted_it_writes_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")

    def interrupted(plan: Plan, open_places: Any, results: Results, tell: scaling.Progress) -> None:
        tell(0, "something")
        results.add(sample(KERNEL, 1, 100.0))
        raise KeyboardInterrupt

    monkeypatch.setattr(scaling, "experiment", interrupted)
    assert command.run(Plan((1,), (1,), 1, 1), tmp_path) == 130
    assert {file.name for file in tmp_path.iterdir()} == FILES
    assert len(rows(tmp_path / "summary.csv")) == 1


@pytest.mark.heavy
def test_a_small_one_on_real_stacks(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instructions, "REQUESTS", 512)
    monkeypatch.setattr(scaling, "COUNTED", (1, 2))
    results, told = Results(tmp_path), []
    plan = Plan((1, 2), (2,), 1, 1)
    experiment(plan, lambda *what: scaling.places(lab, *what), results, lambda done, what: told.append(done))
    assert told[-1] == len(told) - 2 == 3 + 2 + 1
    assert [each.replicas for each in results.samples] == [KERNEL, 1, 2]
    assert all(each.rate > 0 and each.server_us > 0 and each.cores_us > 0 for each in results.samples)
    assert [each.stack_us > 0 for each in results.samples] == [False, True, True]
    assert results.lines and results.lines.by_both == results.lines.between_replicas == 0
    memory = {row["memory"]: row["written"] for row in results.lines.shared}
    assert memory == {"channel": "program", "region": "nobody", "replica": "nobody"}
    assert results.finish([]).count("| 2 replicas |") == 1
