"""A laboratory that ends early leaves nothing behind."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from neatstack.experiment.netns import Lab


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_no_namespace(number: int) -> None:
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit), Lab() as lab:
            place = lab.namespace("left")
            assert Path("/run/netns", place.name).exists()
            signal.raise_signal(number)
        assert not Path("/run/netns", place.name).exists() and not lab.directory.exists()
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)
