"""iperf3, in both directions and with parallel streams."""

from __future__ import annotations

import json
import time

import pytest

from tests.conftest import Pair


@pytest.mark.parametrize("options", [[], ["-R"], ["-P4"]], ids=["up", "down", "four streams"])
def test_iperf3(pair: Pair, options: list[str]) -> None:
    pair.serve("iperf3", "-s", "-p", pair.port)
    for _ in range(20):  # the server listens anew after each client, and the first was whoever waited for the port
        told = json.loads(
            pair.client.run("iperf3", "-J", "-c", pair.address, "-p", pair.port, "-t1", *options, timeout=20)
        )
        if "error" not in told or told["start"]["connected"]:  # else refused, or reset in the queue of one that closes
            break
        time.sleep(0.1)
    assert "error" not in told, told["error"]
    received = told["end"]["sum_received"]
    assert received["bytes"] > 10_000_000
    assert received["bytes"] >= 0.5 * told["end"]["sum_sent"]["bytes"]


@pytest.mark.parametrize(
    "options",
    [["-l1400"], ["-l1400", "-R"], ["-l8000"], ["-l8000", "-R"]],
    ids=["up", "down", "fragments up", "fragments down"],
)
def test_iperf3_udp(pair: Pair, options: list[str]) -> None:
    """10 Mbit/s each way, so that even a busy machine has no reason to lose any."""
    pair.serve("iperf3", "-s", "-p", pair.port)
    for _ in range(20):
        told = json.loads(
            pair.client.run(
                "iperf3",
                "-J",
                "-u",
                "-b10M",
                "-c",
                pair.address,
                "-p",
                pair.port,
                "-t1",
                *options,
                timeout=20,
            )
        )
        if "error" not in told or told["start"]["connected"]:  # else refused, or reset in the queue of one that closes
            break
        time.sleep(0.1)
    assert "error" not in told, told["error"]
    total = told["end"]["sum"]
    assert total["packets"] > (500 if "-l1400" in options else 100)
    assert total["lost_packets"] <= 0.05 * total["packets"]
