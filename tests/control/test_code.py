"""What an installation says of itself, and all that a prefix can be that has no neatstack."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import venv
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

from neatstack import __version__
from neatstack.control import code
from neatstack.control.code import Code, own, probe
from neatstack.control.errors import NeatError

SOURCE = Path(__file__).parents[2] / "src"
GOOD: dict[str, Any] = {
    "version": "1.0", "parent": str(SOURCE), "region_size": 4096,
    "state": {"layout": 1, "protocol": 1, "region": 1, "sizes": {}},
}  # fmt: skip


def script(path: Path, text: str) -> str:
    """A prefix whose bin/python is this shell script."""
    (path / "bin").mkdir(parents=True)
    (path / "bin/python").write_text(f"#!/bin/sh\n{text}\n")
    (path / "bin/python").chmod(0o755)
    return str(path)


def refusal(prefix: str) -> str:
    with pytest.raises(NeatError) as error:
        asyncio.run(probe(prefix, 1024))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_our_own_files() -> None:
    found = asyncio.run(probe(None, 1024))
    assert found == own(1024)
    assert (found.version, found.parent, found.python) == (__version__, str(SOURCE), sys.executable)
    assert Code.from_data(json.loads(json.dumps(found.to_data()))) == found
    assert own(2048).region_size > found.region_size


def test_an_environment_with_the_package(tmp_path: Path) -> None:
    venv.create(tmp_path / "env", symlinks=True)
    next((tmp_path / "env/lib").glob("*/site-packages")).joinpath("neat.pth").write_text(f"{SOURCE}\n")
    found = asyncio.run(probe(str(tmp_path / "env"), 1024))
    assert (found.prefix, found.python) == (str(tmp_path / "env"), str(tmp_path / "env/bin/python"))
    assert found.takes_over_from(own(1024)) and found.speaks_as(own(1024))


def test_what_is_described_is_checked(tmp_path: Path) -> None:
    assert asyncio.run(probe(script(tmp_path / "good", f"echo '{json.dumps(GOOD)}'"), 1024)).version == "1.0"
    wrong: list[dict[str, Any]] = [
        {"version": "1.0\n"}, {"version": 5}, {"version": ""}, {"version": "x" * 65}, {"parent": "/nonexistent"},
        {"parent": 1}, {"region_size": -1}, {"region_size": 1e9}, {"region_size": True}, {"region_size": 1 << 50},
        {"state": {}}, {"state": 7}, {"state": None},
    ]  # fmt: skip
    for number, part in enumerate(wrong):
        answer = json.dumps({**GOOD, **part}).replace("\\", "\\\\")
        assert "runs no neatstack" in refusal(script(tmp_path / str(number), f"printf '%s' '{answer}'")), part


@pytest.mark.parametrize(("text", "words"), [
    ("", "answers in another way"),
    ("echo hello", "answers in another way"),
    ("echo '[]'", "answers in another way"),
    ("echo 5", "answers in another way"),
    ("printf '\\377\\376'", "answers in another way"),
    ("exit 3", "exit status 3"),
    ("exec yes", "says too much"),
    ("""printf '%s' '{"error": "two\\nlines"}'""", "no neatstack that works (two lines)"),
])  # fmt: skip
def test_rubbish(tmp_path: Path, text: str, words: str) -> None:
    assert words in refusal(script(tmp_path / "prefix", text))


def test_no_prefix(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert "does not exist" in refusal(str(tmp_path / "none"))
    assert "is no directory" in refusal(str(file))
    assert "has no bin/python" in refusal(str(tmp_path))
    broken = Path(script(tmp_path / "broken", ""))
    (broken / "bin/python").write_bytes(b"\x7fELF nothing more")
    assert "cannot be run" in refusal(str(broken))
    venv.create(tmp_path / "bare", symlinks=True)
    assert "has no neatstack that works (No module named" in refusal(str(tmp_path / "bare"))


def test_one_that_hangs_is_ended_with_all_that_it_has_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "PROBE_TIME", 0.5)
    mark = str(tmp_path / "mark")
    began = time.monotonic()
    hangs = script(tmp_path / "hangs", f"{sys.executable} -c 'import time; time.sleep(600)' {mark} & wait")
    assert "has not answered for 0.5 s" in refusal(hangs)
    assert time.monotonic() - began < 5
    assert subprocess.run(["pgrep", "-f", mark], capture_output=True).stdout == b""


def test_one_that_has_started_what_cannot_be_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has started holds its output, in a session of its own: nobody waits for that."""
    monkeypatch.setattr(code, "PROBE_TIME", 0.5)
    pid = tmp_path / "pid"
    prefix = script(tmp_path / "prefix", f"setsid sleep 600 & echo $! > {pid}\nexec yes")
    try:
        assert "says too much" in refusal(prefix)
    finally:
        os.kill(int(pid.read_text()), SIGKILL)
