"""The stack with its journal compiled out, to measure what the journal costs: a copy of the sources, built apart."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from neatstack.experiment.netns import LabError

ROOT = Path(__file__).resolve().parents[1]
COPY = ROOT / "build/nojournal"
FILES = ("setup.py", "pyproject.toml", "README.md", "LICENSE")
SUFFIXES = (".py", ".pxd", ".c", ".h", ".def")


def sources() -> list[Path]:
    """What the build needs, relative to ROOT."""
    found = [path.relative_to(ROOT) for path in (ROOT / "src").rglob("*") if path.suffix in SUFFIXES]
    return sorted([*found, *map(Path, FILES)])


def digest(files: list[Path]) -> str:
    """Of names and contents, and of the interpreter that the build is for."""
    whole = hashlib.sha256(sys.version.encode())
    for file in files:
        whole.update(f"{file}\0".encode() + hashlib.sha256((ROOT / file).read_bytes()).digest())
    return whole.hexdigest()


def build() -> Path:
    """The directory to import the package from. Builds only what has changed since the last time."""
    files, stamp = sources(), COPY / "digest"
    now = digest(files)
    if not stamp.exists() or stamp.read_text() != now:
        stamp.unlink(missing_ok=True)
        for old in [path for path in COPY.glob("src/**/*") if path.suffix in SUFFIXES]:
            if not (ROOT / old.relative_to(COPY)).exists():
                old.unlink()
        for file in files:
            place, data = COPY / file, (ROOT / file).read_bytes()
            if not place.exists() or place.read_bytes() != data:
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / file, place)
        compile_copy()
        stamp.write_text(now)
    return COPY / "src"


def compile_copy() -> None:
    argv = [sys.executable, "setup.py", "-q", "build_ext", "-i"]
    env = {**os.environ, "NEAT_BUILD": "nojournal"}
    done = subprocess.run(argv, cwd=COPY, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"the build without the journal has failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
