"""QUIC in user space, over our UDP."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.conftest import PLACES, Pair, also_over_ipv6

QUIC = Path(__file__).parent / "quic.py"


@also_over_ipv6(*PLACES)
def test_quic(pair: Pair, tmp_path: Path) -> None:
    pair.server.spawn(sys.executable, QUIC, "server", pair.address, pair.port, tmp_path)
    told = pair.client.run(sys.executable, QUIC, "client", pair.address, pair.port, 200_000)
    assert told.strip() == "3"
