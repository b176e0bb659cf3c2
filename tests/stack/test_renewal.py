"""Replicas of a running stack that are replaced on purpose, while many connections send and every byte is looked at."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neatstack import __version__
from neatstack.dataplane import version
from neatstack.experiment.netns import SOURCE, Lab, Process, Stack, neat
from neatstack.experiment.stage import PORT, Load, loaded, module

CONNECTIONS = 24
STATED = """
import json, sys
from neatstack import __version__ as VERSION
def state(): return {state!r}
def main(): print(json.dumps({{"version": VERSION, "parent": {parent!r}, "state": state(), "region_size": 1 << 20}}))
"""


@pytest.fixture(scope="module")
def stack(lab: Lab) -> Stack:
    return lab.stack(replicas=2)


@pytest.fixture(scope="module")
def load(stack: Stack) -> Iterator[Load]:
    """Connections that are always busy, for all tests of the module."""
    server = stack.programs.spawn(*module("server", PORT))
    stack.host.wait_port(stack.address, PORT, process=server)
    with loaded(stack.host, stack.address, PORT, CONNECTIONS, None) as load:
        yield load


@pytest.fixture(autouse=True)
def nothing_is_lost(load: Load) -> Iterator[None]:
    """By any test: no connection, no byte."""
    yield
    before = [len(times) for times in load.timeline.times]
    end = time.monotonic() + 20
    while not all(len(times) > count + 1 for times, count in zip(load.timeline.times, before, strict=True)):
        assert time.monotonic() < end, "a connection stands still"
        load.pump(0.05)
    assert load.timeline.troubles == [] and all(port for port in load.timeline.ports)


def command(stack: Stack, load: Load, *argv: object) -> Process:
    """Run `neat ARG...` to its end, while the load goes on."""
    process = stack.lab.spawn(neat(*argv), stack.env)
    while process.running():
        load.pump(0.02)
    return process


def told(stack: Stack, load: Load, *argv: object) -> dict[str, Any]:
    process = command(stack, load, *argv, "--json")
    assert process.wait(1) == 0, process.output
    return json.loads(process.output)


def refused(stack: Stack, load: Load, *argv: object) -> str:
    """What it says in its one line."""
    process = command(stack, load, *argv)
    assert process.wait(1) == 1
    assert process.output.startswith("neat: ") and process.output.count("\n") == 1
    return process.output


def layouts(stack: Stack) -> dict[str, dict[str, int]]:
    """Where replicas have their parts, as /proc/PID/maps says."""
    report = json.loads(stack.neat("status", "--isolation", "--json"))
    return {each["process"]: each["layout"] for each in report["processes"] if each["process"].startswith("replica")}


def test_rejuvenation(stack: Stack, load: Load) -> None:
    """Every incarnation has an address-space layout of its own."""
    seen = [layouts(stack)]
    for _ in range(3):
        answer = told(stack, load, "rejuvenate")
        assert [each["replica"] for each in answer["replaced"]] == [0, 1]
        assert all((each["lost"], each["kind"]) == (0, "rejuvenation") for each in answer["replaced"])
        assert sum(each["adopted"] for each in answer["replaced"]) >= CONNECTIONS
        seen.append(layouts(stack))
    for part in ("libc", "data_plane", "stack", "heap"):
        places = [layout[part] for each in seen for layout in each.values()]
        assert len(set(places)) == len(places) == 8, part
    told_so = command(stack, load, "rejuvenate").output
    assert re.fullmatch(r"(replica \d was rejuvenated: \d+ connections kept, a gap of \d+\.\d ms\n){2}", told_so)


def test_the_manager_is_killed_in_the_middle(stack: Stack, load: Load) -> None:
    """Whoever was being replaced is replaced, the others are left, and the next command does all."""
    before = stack.status()
    process = stack.lab.spawn(neat("rejuvenate"), stack.env)
    end = time.monotonic() + 20
    while "was rejuvenated" not in log(stack, before) and process.running():
        load.pump(0.002)
        assert time.monotonic() < end
    os.kill(before["processes"]["manager"]["pid"], signal.SIGKILL)
    while process.running():
        load.pump(0.02)
    assert len(told(stack, load, "rejuvenate")["replaced"]) == 2
    after = stack.status()
    for old, new in zip(before["replicas"], after["replicas"], strict=True):
        assert new["incarnation"] > old["incarnation"] and new["state"] == "running"


def log(stack: Stack, since: dict[str, Any]) -> str:
    """Of the manager; what it has said of an incarnation that was not there at `since`."""
    latest = max(replica["incarnation"] for replica in since["replicas"])
    text = (stack.run_dir / stack.name / "log").read_text()
    return text[max(text.rfind(f"incarnation {latest} serves"), 0) :]


@pytest.mark.heavy
def test_a_schedule_survives_the_manager(stack: Stack, load: Load) -> None:
    answer = told(stack, load, "rejuvenate", "--every", "3s", "--jitter", "0.1")
    assert answer["rejuvenation"]["every"] == 3 and 2 < answer["rejuvenation"]["next_in"] < 3.4
    before = stack.status()
    assert before["rejuvenation"]["jitter"] == 0.1
    os.kill(before["processes"]["manager"]["pid"], signal.SIGKILL)
    end = time.monotonic() + 20
    while True:
        load.pump(0.1)
        after = stack.status()
        pairs = list(zip(before["replicas"], after["replicas"], strict=True))
        if all(new["incarnation"] > old["incarnation"] and new["state"] == "running" for old, new in pairs):
            break
        assert time.monotonic() < end
    assert after["rejuvenation"]["every"] == 3
    assert "rejuvenation: every 3s ± 10%, next in" in stack.neat("status")
    assert command(stack, load, "rejuvenate", "--off").output == "rejuvenation: off\n"
    assert stack.status()["rejuvenation"] is None


# ---- other versions ----


class Prefix:
    """A virtual environment with a copy of the package, of another version."""

    def __init__(self, place: Path, number: str) -> None:
        self.path, self.parent = place / f"neat-{number}", place / f"source-{number}"
        venv.create(self.path, symlinks=True)
        ignored = shutil.ignore_patterns("__pycache__", "*.c", "*.h", "*.pxd")
        shutil.copytree(SOURCE / "neatstack", self.parent / "neatstack", ignore=ignored)
        (self.parent / "neatstack/__init__.py").write_text(f'__version__ = "{number}"\n')
        packages = next((self.path / "lib").glob("python3.*/site-packages"))
        (packages / "neat.pth").write_text(f"{self.parent}\n")

    def state(self, **other: Any) -> None:
        """Say that the state is another."""
        found = {**version.state(), **other}
        for file in (self.parent / "neatstack/dataplane").glob("version.*"):
            file.unlink()
        text = STATED.format(state=found, parent=str(self.parent))
        (self.parent / "neatstack/dataplane/version.py").write_text(text)


@pytest.fixture(scope="module")
def place(lab: Lab) -> Path:
    return lab.directory


@pytest.mark.heavy
def test_upgrade_and_back(stack: Stack, load: Load, place: Path) -> None:
    prefix = Prefix(place, "9.9")
    answer = told(stack, load, "upgrade", "--to", prefix.path)
    assert answer["version"] == "9.9"
    assert [(each["replica"], each["lost"], each["cause"]) for each in answer["replaced"]] == [
        (0, 0, "was upgraded to 9.9"), (1, 0, "was upgraded to 9.9"),
    ]  # fmt: skip
    status = stack.status()
    assert {replica["version"] for replica in status["replicas"]} == {"9.9"}
    for replica in status["replicas"]:
        assert str(prefix.parent) in Path(f"/proc/{replica['pid']}/maps").read_text()
    assert "version: 9.9\n" in stack.neat("status")
    os.kill(status["processes"]["manager"]["pid"], signal.SIGKILL)
    os.kill(status["replicas"][0]["pid"], signal.SIGKILL)
    end = time.monotonic() + 20
    while (now := stack.status()["replicas"][0])["state"] != "running" or now["pid"] == status["replicas"][0]["pid"]:
        load.pump(0.05)
        assert time.monotonic() < end
    assert now["version"] == "9.9"
    answer = told(stack, load, "upgrade")
    assert answer["version"] == __version__ and len(answer["replaced"]) == 2
    assert {replica["version"] for replica in stack.status()["replicas"]} == {__version__}


@pytest.mark.parametrize(("other", "words"), [
    ({"region": 99}, ("cannot take over", "--drain")),
    ({"sizes": {"Tcb": 8}}, ("cannot take over", "Tcb", "--drain")),
    ({"layout": 99}, ("start its programs again on a new one",)),
])  # fmt: skip
def test_another_state_is_refused(
    stack: Stack, load: Load, tmp_path: Path, other: dict[str, Any], words: tuple[str, ...]
) -> None:
    pids = [replica["pid"] for replica in stack.replicas()]
    prefix = Prefix(tmp_path, "8.0")
    prefix.state(**other)
    said = refused(stack, load, "upgrade", "--to", prefix.path)
    assert "version 8.0" in said and all(word in said for word in words)
    assert [replica["pid"] for replica in stack.replicas()] == pids


def test_one_that_cannot_serve_after_all(stack: Stack, load: Load, place: Path) -> None:
    """It says that it can, and its processes die: the old version goes on."""
    prefix = Prefix(place, "7.0")
    dataplane = prefix.parent / "neatstack/dataplane"
    engine = next(dataplane.glob("engine.*.so"))
    engine.write_bytes(engine.read_bytes()[:1000])
    said = refused(stack, load, "upgrade", "--to", prefix.path)
    assert "no process of version 7.0 becomes ready" in said and f"all replicas run {__version__}" in said
    assert {replica["version"] for replica in stack.replicas()} == {__version__}


def test_what_is_no_neatstack_is_refused(stack: Stack, load: Load, tmp_path: Path) -> None:
    """tests/control/test_code.py has all that a prefix can be."""
    pids = [replica["pid"] for replica in stack.replicas()]
    assert f"{tmp_path} has no bin/python" in refused(stack, load, "upgrade", "--to", tmp_path)
    assert [replica["pid"] for replica in stack.replicas()] == pids
