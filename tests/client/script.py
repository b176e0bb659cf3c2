"""`@on_stack`: the function is executed in a program that runs on a mirror stack."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

from tests.client.mirror import Mirror

ROOT = Path(__file__).parents[2]
SECONDS = 30
PRELUDE = f"import signal, sys; sys.path.insert(0, {str(ROOT)!r})\nfrom tests.client.inside import *\n"


def on_stack(body: Callable[[], None]) -> Callable[[Mirror], None]:
    source = textwrap.dedent(inspect.getsource(body)).removeprefix("@on_stack\n")
    code = f"{PRELUDE}{source}\n{body.__name__}()\n"

    def test(mirror: Mirror) -> None:
        with mirror.spawn(sys.executable, "-c", code, start_new_session=True) as process:
            try:
                _, told = process.communicate(timeout=SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # what it has forked too
                raise AssertionError(f"still runs after {SECONDS} s: {process.communicate()[1]}") from None
            assert process.returncode == 0, told

    test.__doc__ = body.__doc__
    return test
