"""iperf3, in both directions and with parallel streams."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.conftest import Pair


def iperf3(pair: Pair, *options: str) -> dict[str, Any]:
    """What the client says in the end."""
    for _ in range(20):  # the server listens anew after each client, and the first was whoever waited for the port
        told = json.loads(
            pair.client.run("iperf3", "-J", "-c", pair.address, "-p", pair.port, "-t1", *options, timeout=20)
        )
        if "error" not in told or told["start"]["connected"]:  # else refused, or reset in the queue of one that closes
            break
        time.sleep(0.1)
    assert "error" not in told, told["error"]
    return told["end"]


def streams(pair: Pair, *options: str) -> None:
    end = iperf3(pair, *options)
    assert end["sum_received"]["bytes"] > 10_000_000
    assert end["sum_received"]["bytes"] >= 0.5 * end["sum_sent"]["bytes"]


def datagrams(pair: Pair, *options: str) -> None:
    """10 Mbit/s, so that even a busy machine has no reason to lose any."""
    total = iperf3(pair, "-u", "-b10M", *options)["sum"]
    assert total["packets"] > (500 if "-l1400" in options else 100)
    assert total["lost_packets"] <= 0.05 * total["packets"]


@pytest.mark.parametrize("options", [[], ["-R"], ["-P4"]], ids=["up", "down", "four streams"])
def test_iperf3(pair: Pair, options: list[str]) -> None:
    pair.serve("iperf3", "-s", "-p", pair.port)
    streams(pair, *options)


@pytest.mark.parametrize(
    "options",
    [["-l1400"], ["-l1400", "-R"], ["-l8000"], ["-l8000", "-R"]],
    ids=["up", "down", "fragments up", "fragments down"],
)
def test_iperf3_udp(pair: Pair, options: list[str]) -> None:
    pair.serve("iperf3", "-s", "-p", pair.port)
    datagrams(pair, *options)


@pytest.mark.parametrize("pair", ["stack-kernel over IPv6", "kernel-stack over IPv6"], indirect=True)
def test_iperf3_over_ipv6(pair: Pair) -> None:
    pair.serve("iperf3", "-s", "-p", pair.port)
    streams(pair, "-6")
    datagrams(pair, "-6", "-l1400", "-R")
    datagrams(pair, "-6", "-l8000")
