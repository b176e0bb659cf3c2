"""Python servers: asyncio, and those that fork and exec."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Pair, also_over_ipv6

HERE = Path(__file__).parent


@also_over_ipv6("stack-kernel", "kernel-stack")
def test_echo(pair: Pair) -> None:
    pair.serve("python3", HERE / "echo_server.py", pair.any, pair.port)
    told = pair.client.run("python3", HERE / "echo_client.py", pair.address, pair.port, 50, 200_000, 1)
    assert int(told) > 1_000_000


@pytest.mark.parametrize("kind", ["fork", "inetd", "exec"])
def test_fork_and_exec(pair: Pair, kind: str) -> None:
    pair.serve("python3", HERE / "fork_server.py", kind, pair.any, pair.port)
    told = pair.client.run("python3", HERE / "echo_client.py", pair.address, pair.port, 20, 100_000, 2)
    assert int(told) > 500_000


LOCKED = """
import ctypes, re, socket, sys
if ctypes.CDLL(None, use_errno=True).mlockall(3):  # all there is, and all that will be
    sys.exit("mlockall: errno %d" % ctypes.get_errno())
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as made:
    made.sendall(b"x")
print(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read()).group(1))
"""


def test_a_program_that_locks_its_memory(pair: Pair) -> None:
    """What it shares with the stack is not made real to the last page."""
    pair.serve("python3", HERE / "echo_server.py", pair.any, pair.port)
    kilobytes = pair.client.run("python3", "-c", LOCKED, pair.address, pair.port)
    assert int(kilobytes) < 1 << 20
