"""The build with AddressSanitizer and UndefinedBehaviorSanitizer: the tests on it, and fuzzing with coverage guidance.

They stand in a file of their own: they come last, and the second builds what the first has built.
"""

import os
import subprocess
import sys

import pytest

from tests.fuzz.sanitized import ROOT
from tests.fuzz.targets import TARGETS

pytestmark = [pytest.mark.heavy, pytest.mark.background]


def test_the_same_in_the_sanitized_build(sanitized):
    """AddressSanitizer and UndefinedBehaviorSanitizer, in a tree of its own (see sanitize.sh); begun with the run."""
    status, printed = sanitized()
    assert status == 0, printed[-20_000:]
    assert "runtime error" not in printed


def test_guided_by_coverage():
    """Some seconds for each target; `make fuzz` gives it more."""
    done = subprocess.run(
        [ROOT / "tests/fuzz/fuzz.sh", sys.executable],
        cwd=ROOT,
        env=os.environ | {"SECONDS_ALL": str(4 * len(TARGETS))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("fuzz: ") == len(TARGETS)
    print(done.stdout)
