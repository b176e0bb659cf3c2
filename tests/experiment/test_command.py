"""`neat experiment`: one line for whatever is wrong, and the right status and files at the end."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from neatstack.cli.experiment import recovery as command
from neatstack.control.errors import NeatError
from neatstack.experiment import recovery, stage
from neatstack.experiment.netns import LabError, environment
from neatstack.experiment.recovery import Plan
from neatstack.experiment.results import Fault
from tests.experiment.fake import fake_stage

NEAT = [sys.executable, "-c", "from neatstack.cli import main; main()"]
PLAN = Plan(2, (1,), ("kill",), ("adopt",), seed=1)
FILES = {"faults.csv", "gaps.csv", "summary.csv", "table.md"}
PLOTS = {"recovery.png", "recovery.svg"}


def neat(*arguments: object, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    env = environment(COLUMNS="200")
    argv = [*prefix, *NEAT, *map(str, arguments)]
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, cwd="/")


def test_help() -> None:
    told = neat("experiment", "--help").stdout
    for name in ("recovery", "elasticity", "scaling", "flows", "flood"):
        answer = neat("experiment", name, "--help")
        assert name in told
        assert answer.returncode == 0 and f"neat experiment {name}" in answer.stdout.split("Example")[1]


@pytest.mark.parametrize(("arguments", "words"), [
    (("recovery", "--faults", "0"), ("faults", "100000")),
    (("recovery", "--faults", "many"), ("--faults", "integer")),
    (("recovery", "--replicas", "1,x"), ("replicas", "1,2,4")),
    (("recovery", "--replicas", "17"), ("replicas", "16")),
    (("recovery", "--kinds", "kill,fire"), ("kinds", "'fire'", "hang")),
    (("recovery", "--modes", ""), ("modes", "adopt,reset")),
    (("recovery", "--connections", "5000"), ("connections", "4096")),
    (("recovery", "--seed", "-1"), ("seed",)),
    (("elasticity", "--scalings", "-1"), ("scalings", "0")),
    (("elasticity", "--most", "17"), ("most", "16")),
    (("elasticity", "--most", "1"), ("most", "--scalings 0")),
    (("elasticity", "--connections", "0"), ("connections", "4096")),
    (("scaling", "--replicas", "0"), ("replicas", "16")),
    (("scaling", "--servers", "1,,2"), ("servers", "1,2,4")),
    (("scaling", "--seconds", "0"), ("seconds", "600")),
    (("scaling", "--rounds", "many"), ("--rounds", "integer")),
    (("flows", "--flows", "0"), ("flows", "200000")),
    (("flows", "--before", "1"), ("before", "2 to 16")),
    (("flows", "--before", "4", "--after", "4"), ("after", "1 to 3")),
    (("flood", "--syns", "0"), ("syns", "100000000")),
    (("flood", "--clients", "257"), ("clients", "256")),
])  # fmt: skip
def test_bad_usage(arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    answer = neat("experiment", *arguments)
    assert answer.returncode == 2
    assert answer.stderr.startswith("neat: ") and answer.stderr.count("\n") == 1
    assert all(word in answer.stderr for word in words)


# nobody, but one who may read where the project lies, be it in a folder of root's own
NOBODY = "setpriv", "--reuid=65534", "--clear-groups", "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be somebody else")
@pytest.mark.parametrize("name", ["recovery", "elasticity", "scaling", "flows", "flood"])
def test_not_root(name: str) -> None:
    answer = neat("experiment", name, prefix=NOBODY)
    assert answer.returncode == 1 and answer.stderr.count("\n") == 1 and "root" in answer.stderr


class TestRun:
    """What the command does around the experiment."""

    @pytest.fixture(autouse=True)
    def fake(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stage, "open_stage", lambda lab, what, connections: fake_stage(lab, what))

    def test_everything_is_written(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        pytest.importorskip("matplotlib")
        assert command.run(PLAN, 8, tmp_path) == 0
        assert {file.name for file in tmp_path.iterdir()} == FILES | PLOTS
        assert "| adopt | 1 | kill | 2 | 100.0% |" in capsys.readouterr().out

    def test_without_matplotlib(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        assert command.run(PLAN, 8, tmp_path) == 0
        assert {file.name for file in tmp_path.iterdir()} == FILES
        assert "pip install neatstack[experiment]" in capsys.readouterr().err

    def test_a_wrong_byte(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        row = recovery.Run.row

        def wrong(self: recovery.Run, *arguments: object) -> Fault:
            made = row(self, *arguments)  # type: ignore[arg-type]
            made.wrong_bytes = 1
            return made

        monkeypatch.setattr(recovery.Run, "row", wrong)
        with pytest.raises(NeatError, match="2 bytes were wrong"):
            command.run(PLAN, 8, tmp_path)
        assert {file.name for file in tmp_path.iterdir()} >= FILES

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), LabError("the stack is gone\nneat: no more")])
    def test_an_end_in_between(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
        inject, calls = recovery.Run.inject, []

        def late(self: recovery.Run, draw: recovery.Draw) -> None:
            calls.append(draw)
            if len(calls) == 2:
                raise error
            inject(self, draw)

        monkeypatch.setattr(recovery.Run, "inject", late)
        if isinstance(error, KeyboardInterrupt):
            assert command.run(PLAN, 8, tmp_path) == 130
        else:
            with pytest.raises(NeatError, match="^the stack is gone; no more$"):
                command.run(PLAN, 8, tmp_path)
        assert (tmp_path / "faults.csv").read_text().count("\n") == 2  # titles and the first fault
        assert {file.name for file in tmp_path.iterdir()} >= FILES

    def test_no_place_to_write(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(NeatError, match="--out"):
            command.run(PLAN, 8, tmp_path / "file")
