"""`neat kill` on a running stack: who is killed is replaced, and connections of others do not notice."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from neatstack.experiment.netns import LabError, Stack
from tests.support.puppet import Puppet


def until(true: Callable[[], Any], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def pids(stack: Stack) -> dict[str, int]:
    """Of everybody who can be killed and now runs."""
    status = stack.status()
    found = {str(replica["id"]): replica["pid"] for replica in status["replicas"] if replica["state"] == "running"}
    return found | {name: status["processes"][name]["pid"] for name in ("manager", "link")}


@pytest.mark.parametrize("target", ["0", "1", "manager", "link"])
def test_the_killed_one_is_replaced_alone(stack: Stack, port: int, target: str) -> None:
    """One replica's death leaves the connections of the other replica alone; manager and link carry none."""
    before = pids(stack)
    with stack.lab.scope():
        puppet = Puppet(stack.programs)
        listener = puppet.listen("0.0.0.0", port, 64)
        pairs = [(stack.host.connect(stack.address, port), listener.accept()) for _ in range(16)]
        listed = json.loads(stack.neat("ss", "--json"))["connections"]
        home = {c["remote_port"]: str(c["replica"]) for c in listed if c["state"] == "ESTABLISHED"}
        said = json.loads(stack.neat("kill", target, "--json"))
        assert (said["target"], said["pid"]) == (target, before[target])
        assert said["at_ns"] < time.monotonic_ns()
        until(lambda: pids(stack).get(target, said["pid"]) != said["pid"])
        others = [pair for pair in pairs if home[pair[0].getsockname()[1]] != target]
        assert others
        for client, served in others:
            client.sendall(b"ping")
            assert served.recv(4) == b"ping"
        for client, _ in pairs:
            client.close()
    until(lambda: len(pids(stack)) == 4)
    after = pids(stack)
    assert {name for name in after if after[name] != before[name]} == {target}


def test_told_in_a_line(stack: Stack) -> None:
    pid = pids(stack)["1"]
    assert stack.neat("kill", "1") == f"killed replica 1 (pid {pid})\n"
    until(lambda: len(pids(stack)) == 4)


@pytest.mark.parametrize(("arguments", "words"), [
    (("7",), "no replica 7; there are: 0, 1, manager, link"),
    (("0", "--fault", "segv"), "this stack allows no segv; start it with `neat up --allow-faults`"),
    (("link", "--fault", "hang"), "hang is only for replicas"),
])  # fmt: skip
def test_refused(stack: Stack, arguments: tuple[str, ...], words: str) -> None:
    before = pids(stack)
    with pytest.raises(LabError) as error:
        stack.neat("kill", *arguments)
    assert f"neat: {words}" in str(error.value)
    assert pids(stack) == before
