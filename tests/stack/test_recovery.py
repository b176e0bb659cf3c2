"""Deaths of all kinds in a running stack, while both ends of many connections send, and look at every byte."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from neatstack.experiment.netns import Lab, Process, Stack
from tests.support.puppet import Puppet
from tests.support.traffic import DEADLINE, Traffic, until

PAUSE = 1.2  # seconds between faults that a replica dies of by itself: dying again sooner resets all


@pytest.fixture(scope="module")
def stack(lab: Lab) -> Stack:
    return lab.stack(replicas=2, options=["--allow-faults"])


@pytest.fixture
def traffic(stack: Stack, port: int) -> Iterator[Traffic]:
    with stack.lab.scope():
        made = Traffic(stack, port)
        yield made
        made.finish()


def pids(stack: Stack) -> dict[str, int]:
    """Of everybody who serves."""
    status = stack.status()
    found = {str(replica["id"]): replica["pid"] for replica in status["replicas"] if replica["state"] == "running"}
    return found | {"manager": status["processes"]["manager"]["pid"]}


def replaced(stack: Stack, old: dict[str, int]) -> None:
    """Until others serve in the place of these."""

    def done() -> bool:
        now = pids(stack)
        return all(name in now and now[name] != pid for name, pid in old.items())

    until(done)


def test_killed_ten_times(stack: Stack, traffic: Traffic) -> None:
    for _ in range(10):
        before = pids(stack)
        stack.neat("kill", "0")
        replaced(stack, {"0": before["0"]})
        traffic.moves()
    assert traffic.reset() == []


@pytest.mark.parametrize("fault", ["segv", "abort", "hang"])
def test_broken_by_itself(stack: Stack, traffic: Traffic, fault: str) -> None:
    """At most the connection in hand is reset."""
    time.sleep(PAUSE)  # not for anything to happen: so that this death is the first in a second
    before = pids(stack)
    stack.neat("kill", "0", "--fault", fault)
    replaced(stack, {"0": before["0"]})
    traffic.moves()
    assert len(traffic.reset()) <= 1


def test_manager_and_replica_killed_at_once(stack: Stack, traffic: Traffic) -> None:
    before = pids(stack)
    os.kill(before["manager"], signal.SIGKILL)
    os.kill(before["1"], signal.SIGKILL)
    replaced(stack, {name: before[name] for name in ("manager", "1")})
    traffic.moves()
    assert traffic.reset() == []


def test_two_replicas_killed_at_once(stack: Stack, traffic: Traffic) -> None:
    """There is one spare: the other replica waits for the next."""
    before = pids(stack)
    for name in "01":
        os.kill(before[name], signal.SIGKILL)
    replaced(stack, {name: before[name] for name in "01"})
    traffic.moves()
    assert traffic.reset() == []


def test_program_killed(stack: Stack, traffic: Traffic) -> None:
    """Its peers are told, its channel is free again, and others do not notice."""
    with stack.lab.scope():
        puppet = Puppet(stack.programs)
        port = puppet.listen("0.0.0.0", 0, 64).getsockname()[1]
        clients = [stack.host.connect(stack.address, port, DEADLINE) for _ in range(4)]
        killed = puppet.process
        program = next(each for each in stack.status()["programs"] if each["pid"] in session(killed))
        os.kill(program["pid"], signal.SIGKILL)
        for client in clients:
            client.settimeout(DEADLINE)
            with pytest.raises(ConnectionResetError):
                client.recv(1)
            client.close()
    until(lambda: program["channel"] not in [each["channel"] for each in stack.status()["programs"]])
    traffic.moves()
    assert traffic.reset() == []


def session(process: Process) -> list[int]:
    """Pids of the session that a process leads."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == process.pid:
            found.append(int(stat.parent.name))
    return found
