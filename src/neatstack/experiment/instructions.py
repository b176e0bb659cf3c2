"""Instructions per request as replicas grow, counted by valgrind's callgrind: no core is faster or busier than another.

What is counted is a replica's own work in user space: from the frame in the device's queue over IP, TCP and the sockets
to the frames sent, in engines.py. System calls, the kernel and the programs are not in it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from neatstack.control.errors import NeatError
from neatstack.experiment.netns import LabError, environment

COUNTED = "*dataplane_5batch_rounds"  # batch.rounds as Cython calls it: what Engine.run() does
BEGIN = "*sched_yield"
REQUESTS, CONNECTIONS, AT_ONCE = 16384, 128, 8
LIMIT = 600.0  # seconds
NO_VALGRIND = "valgrind is missing, which counts instructions; install it: apt-get install valgrind"


@dataclass(frozen=True)
class Count:
    """What was counted for so many replicas together."""

    replicas: int
    requests: int
    at_once: int
    instructions: int

    @property
    def each(self) -> float:
        """Instructions per request."""
        return self.instructions / self.requests


def need_valgrind() -> None:
    """Raises NeatError when it is not there."""
    if shutil.which("valgrind", path=environment()["PATH"]) is None:
        raise NeatError(NO_VALGRIND)


def count(replicas: int, requests: int = REQUESTS, at_once: int = AT_ONCE) -> Count:
    """Run it under callgrind. Raises LabError."""
    need_valgrind()
    with tempfile.TemporaryDirectory(prefix="neat-count-") as directory:
        out = Path(directory) / "callgrind"
        argv = [
            *("valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"),
            *(f"--toggle-collect={COUNTED}", f"--zero-before={BEGIN}"),
            *(sys.executable, "-m", "neatstack.experiment.engines"),
            *map(str, (replicas, requests, CONNECTIONS, at_once)),
        ]
        env = environment(PYTHONHASHSEED="0")
        done = subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT)
        if done.returncode:
            raise LabError(f"counting instructions has failed\n{done.stderr}")
        found = re.search(r"^(?:totals|summary): (\d+)", out.read_text(), re.MULTILINE)
    counted = int(found[1]) if found else 0
    if not counted:
        raise LabError("valgrind has counted no instruction: the compiled modules have no symbols")
    return Count(replicas, requests // replicas * replicas, at_once, counted)
