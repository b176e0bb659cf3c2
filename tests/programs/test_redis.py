"""redis-server, redis-cli and redis-benchmark."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from neatstack.experiment.netns import LabError, Stack
from tests.conftest import Pair, also_over_ipv6


@pytest.fixture
def redis(pair: Pair, tmp_path: Path) -> Pair:
    serve(pair, tmp_path, pair.any)
    return pair


def serve(pair: Pair, place: Path, *addresses: str) -> None:
    pair.serve(
        "redis-server", "--port", pair.port, "--bind", *addresses, "--protected-mode", "no", "--save", "",
        "--appendonly", "no", "--dir", place,
    )  # fmt: skip


@also_over_ipv6("stack-kernel", "kernel-stack")
def test_cli(redis: Pair) -> None:
    cli = ["redis-cli", "-h", redis.address, "-p", redis.port]
    assert redis.client.run(*cli, "ping").strip() == "PONG"
    value = hashlib.shake_128(b"value").hexdigest(500_000)
    assert redis.client.run(*cli, "-x", "set", "key", stdin=value.encode()).strip() == "OK"
    assert redis.client.run(*cli, "get", "key").strip() == value
    assert redis.client.run(*cli, "strlen", "key").strip() == "1000000"


def test_pipeline(redis: Pair) -> None:
    commands = "".join(f"SET key{i} {i}\nGET key{i}\n" for i in range(2000))
    told = redis.client.run("redis-cli", "-h", redis.address, "-p", redis.port, stdin=commands.encode()).split()
    assert told == [word for i in range(2000) for word in ("OK", str(i))]


@also_over_ipv6("stack-stack")
def test_benchmark(redis: Pair) -> None:
    told = redis.client.run(
        "redis-benchmark", "-h", redis.address, "-p", redis.port, "-n", 5000, "-c", 20, "-d", 512,
        "-t", "set,get,lpush,lpop", "--csv", timeout=60,
    )  # fmt: skip
    rates = [float(line.split(",")[1].strip('"')) for line in told.splitlines()[1:]]
    assert len(rates) == 4 and all(rate > 100 for rate in rates), told


@pytest.mark.parametrize("pair", ["stack-kernel over IPv6"], indirect=True)
@pytest.mark.parametrize("addresses", [("::",), ("0.0.0.0", "::")], ids=["IPv6", "both"])
def test_a_socket_of_each_family(pair: Pair, tmp_path: Path, addresses: tuple[str, ...]) -> None:
    """They share a port; one that is for IPv6 only takes no IPv4."""
    serve(pair, tmp_path, *addresses)
    cli = ["redis-cli", "-p", pair.port]
    assert pair.client.run(*cli, "-h", pair.address, "ping").strip() == "PONG"
    if len(addresses) == 2:
        assert pair.client.run(*cli, "-h", Stack.address, "ping").strip() == "PONG"
    else:
        with pytest.raises(LabError, match="refused"):
            pair.client.run(*cli, "-h", Stack.address, "ping")
