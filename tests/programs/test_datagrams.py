"""Programs that speak UDP."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from neatstack.experiment.netns import Stack
from tests.conftest import Pair, also_over_ipv6

ECHO = Path(__file__).parent / "datagram_echo.py"


@pytest.mark.parametrize("kind", ["server", "asyncio"])
@pytest.mark.parametrize("bound", ["any", "own"])
def test_echo(pair: Pair, kind: str, bound: str) -> None:
    pair.server.spawn(sys.executable, ECHO, kind, "0.0.0.0" if bound == "any" else pair.address, pair.port)
    told = json.loads(pair.client.run(sys.executable, ECHO, "client", pair.address, pair.port, 200))
    assert told == {"answers": 200, "sources": [[pair.address, pair.port]]}


CLIENT = """
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
"""
REFUSED = f"""{CLIENT}
s.connect((sys.argv[1], int(sys.argv[2])))
s.send(b"anybody?")
try:
    s.recv(10)
except ConnectionRefusedError:
    print("refused")
"""


LARGE = f"""{CLIENT}
where = sys.argv[1], int(sys.argv[2])
if sys.argv[3] == "connect":
    s.connect(where)
right = 0
for size in (1473, 3000, 8000, 60000, 65527 if ":" in where[0] else 65507):  # the last is the longest
    for n in range(5):
        data = bytes([n]) * size
        s.sendto(data, where)
        right += s.recv(70000) == data
print(right)
"""


@also_over_ipv6("stack-kernel")
@pytest.mark.parametrize("way", ["connect", "sendto"])
def test_datagrams_larger_than_a_packet(pair: Pair, way: str) -> None:
    """In fragments both ways; they may come to another replica than the rest of their flow."""
    pair.server.spawn(sys.executable, ECHO, "server", pair.any, pair.port)
    json.loads(pair.client.run(sys.executable, ECHO, "client", pair.address, pair.port, 1))
    assert pair.client.run(sys.executable, "-c", LARGE, pair.address, pair.port, way).strip() == "25"


@also_over_ipv6("stack-kernel", "kernel-stack")
def test_a_closed_port(pair: Pair) -> None:
    assert pair.client.run(sys.executable, "-c", REFUSED, pair.address, pair.port).strip() == "refused"


def test_ss_shows_them(stack: Stack, port: int) -> None:
    with stack.lab.scope():
        server = stack.programs.spawn(sys.executable, ECHO, "server", "0.0.0.0", port)
        stack.host.run(sys.executable, ECHO, "client", stack.address, port, 1)
        told = json.loads(stack.neat("ss", "--json"))["datagrams"]
        assert [each["programs"][0]["pid"] for each in told if each["port"] == port] == [server.pid]


def test_a_replica_dies_under_load(stack: Stack, port: int) -> None:
    """The sockets go on; what is lost is what was under way."""
    with stack.lab.scope():
        stack.programs.spawn(sys.executable, ECHO, "server", "0.0.0.0", port)
        clients = [stack.host.spawn(sys.executable, ECHO, "steady", stack.address, port, 2) for _ in range(4)]
        for replica in (0, 1):
            time.sleep(0.6)
            stack.neat("kill", replica)
        for client in clients:
            assert client.wait(20) == 0, client.output
            told = json.loads(client.output)
            assert told["answers"] > 100 and told["losses"] <= 4, told
