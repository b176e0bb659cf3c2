"""QUIC in user space, over our UDP."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.conftest import Pair

QUIC = Path(__file__).parent / "quic.py"


def test_quic(pair: Pair, tmp_path: Path) -> None:
    pair.server.spawn(sys.executable, QUIC, "server", pair.address, pair.port, tmp_path)
    told = pair.client.run(sys.executable, QUIC, "client", pair.address, pair.port, 200_000)
    assert told.strip() == "3"
