"""redis-server, redis-cli and redis-benchmark."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.conftest import Pair


@pytest.fixture
def redis(pair: Pair, tmp_path: Path) -> Pair:
    pair.serve(
        "redis-server", "--port", pair.port, "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "",
        "--appendonly", "no", "--dir", tmp_path,
    )  # fmt: skip
    return pair


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


def test_benchmark(redis: Pair) -> None:
    told = redis.client.run(
        "redis-benchmark", "-h", redis.address, "-p", redis.port, "-n", 5000, "-c", 20, "-d", 512,
        "-t", "set,get,lpush,lpop", "--csv", timeout=60,
    )  # fmt: skip
    rates = [float(line.split(",")[1].strip('"')) for line in told.splitlines()[1:]]
    assert len(rates) == 4 and all(rate > 100 for rate in rates), told
