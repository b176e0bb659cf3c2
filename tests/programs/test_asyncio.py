"""A Python asyncio server and client."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import Pair

HERE = Path(__file__).parent


def test_echo(pair: Pair) -> None:
    pair.serve("python3", HERE / "echo_server.py", "0.0.0.0", pair.port)
    told = pair.client.run("python3", HERE / "echo_client.py", pair.address, pair.port, 50, 200_000, 1)
    assert int(told) > 1_000_000
