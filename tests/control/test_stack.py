"""A whole stack in a namespace: up, found, disturbed, down, with nothing left."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from neatstack.experiment.netns import Lab, Stack, neat, run
from tests.support.puppet import Puppet

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make namespaces")


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


@pytest.fixture
def stack(lab: Lab) -> Stack:
    return lab.stack(replicas=2)


def until(true: Callable[[], Any], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def has_spare(stack: Stack) -> None:
    """Wait until everything that the stack starts is there."""
    until(lambda: [spare["ready"] for spare in stack.status()["spares"]] == [True])


def answers_arp(stack: Stack) -> bool:
    """The kernel finds our hardware address, anew."""
    stack.host.ip("neigh", "flush", "all")
    with stack.host.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.sendto(b"", (stack.address, 9))
        time.sleep(0.1)
        return stack.status()["device"]["mac"] in stack.host.ip("neigh", "show", stack.address)


def test_up_and_down_leave_nothing(lab: Lab) -> None:
    stack = lab.stack(replicas=3)
    has_spare(stack)
    pids = stack.pids()
    assert len(pids) == 7  # keeper, manager, link, three replicas, a spare
    assert "10.77.0.1/24" in stack.host.ip("address", "show", "neat0")
    assert answers_arp(stack)
    stack.neat("down")
    assert list(stack.run_dir.iterdir()) == []
    assert "neat0" not in stack.host.ip("link", "show")
    until(lambda: not any(alive(pid) for pid in pids))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_status(stack: Stack) -> None:
    status = stack.status()
    assert status["name"] == stack.name
    assert status["device"]["queues"] == 5
    assert [replica["state"] for replica in status["replicas"]] == ["running"] * 2
    assert sum(status["steering"]["buckets"].values()) == 256
    assert {replica["pid"] for replica in status["replicas"]} < set(stack.pids())
    for name in ("connections", "packets_in", "packets_out", "bytes_in", "bytes_out", "drops", "cpu_percent"):
        assert name in status["replicas"][0]
    assert "replica" in stack.neat("status")
    assert "Recv-Q" in stack.neat("ss")


def test_killed_manager_and_link_come_back(stack: Stack) -> None:
    before = stack.status()
    manager, link = before["processes"]["manager"]["pid"], before["processes"]["link"]["pid"]
    os.kill(manager, signal.SIGKILL)
    until(lambda: not alive(manager))
    until(lambda: stack.status()["processes"]["manager"]["pid"] != manager)
    os.kill(link, signal.SIGKILL)
    until(lambda: stack.status()["processes"]["link"]["pid"] != link)
    after = stack.status()
    assert [replica["pid"] for replica in after["replicas"]] == [replica["pid"] for replica in before["replicas"]]
    assert after["device"] == before["device"]
    until(lambda: answers_arp(stack))


def test_traffic_does_not_notice_that_the_manager_is_dead(stack: Stack) -> None:
    puppet = Puppet(stack.programs)
    listener = puppet.listen("0.0.0.0", 80)
    with stack.host.connect(stack.address, 80) as client:
        served = listener.accept()
        for _ in range(5):
            os.kill(stack.status()["processes"]["manager"]["pid"], signal.SIGKILL)
            for _ in range(20):
                client.sendall(b"ping")
                assert served.recv(4) == b"ping"
            with stack.host.connect(stack.address, 80):
                listener.accept()
        puppet.listen("0.0.0.0", 81)  # waits for the next manager
        with stack.host.connect(stack.address, 81):
            pass


def test_programs_that_come_and_go_leave_nothing(stack: Stack) -> None:
    """Each listens, forks, and is killed."""
    script = (
        "import os, signal, socket; s = socket.socket(); s.bind(('', 80)); s.listen(); child = os.fork()\n"
        "if child: os.waitpid(child, 0); os.kill(os.getpid(), signal.SIGKILL)"
    )
    loop = f'for i in $(seq 40); do "{sys.executable}" -S -c "{script}"; [ $? = 137 ] || exit 1; done'

    def held() -> list[int]:
        pids = [stack.keeper(), *(replica["pid"] for replica in stack.replicas())]
        return [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids]

    has_spare(stack)
    before = held()
    stack.programs.run("sh", "-c", loop, timeout=60)
    until(lambda: stack.status()["programs"] == [])
    assert held() == before
    assert "memfd:neat-channel" not in "".join(Path(f"/proc/{pid}/maps").read_text() for pid in stack.pids())


def test_killed_replica_is_replaced(stack: Stack) -> None:
    has_spare(stack)
    pid, spare = stack.replicas()[1]["pid"], stack.status()["spares"][0]["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: [r["incarnation"] for r in stack.replicas() if r["state"] == "running"] == [1, 2])
    replica = stack.replicas()[1]
    assert (replica["pid"], replica["recoveries"]) == (spare, 1)
    assert replica["last_recovery"]["cause"] == "was killed by SIGKILL"
    has_spare(stack)


def test_killed_with_the_manager(stack: Stack) -> None:
    """The next manager was not its parent, and still knows that it was killed."""
    has_spare(stack)
    pid, manager = stack.replicas()[0]["pid"], stack.status()["processes"]["manager"]["pid"]
    os.kill(manager, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    until(lambda: [r["incarnation"] for r in stack.replicas() if r["state"] == "running"] == [2, 1])
    record = stack.replicas()[0]["last_recovery"]
    assert (record["cause"], record["how"]) == ("was killed by SIGKILL", "adopt")


def test_killed_keeper_ends_everything(stack: Stack, lab: Lab) -> None:
    pids = stack.pids()
    os.kill(stack.keeper(), signal.SIGKILL)
    until(lambda: not any(alive(pid) for pid in pids))
    until(lambda: "neat0" not in stack.host.ip("link", "show"))
    again = [*neat("up", "--name", stack.name, "--detach", "--netns", stack.host.name)]
    run(again, env=stack.env)  # what was left in the directory is no hindrance


def test_what_is_taken(stack: Stack) -> None:
    def fails(*options: str) -> str:
        argv = [*neat("up", "--detach", "--netns", stack.host.name, *options)]
        answer = subprocess.run(argv, env=stack.env, capture_output=True, text=True, timeout=20)
        assert answer.returncode != 0
        assert answer.stderr.startswith("neat: ") and answer.stderr.count("\n") == 1
        return answer.stderr

    assert "already running" in fails("--name", stack.name)
    assert "neat0" in fails("--name", "other")
    assert "host_address: 10.77.0.1 is in use" in fails("--name", "other", "--device", "tap:neat1")
    ours = fails("--name", "other", "--device", "tap:neat1", "--address", "10.77.0.1/24")
    assert "address: 10.77.0.1 is in use" in ours
    assert [entry.name for entry in stack.run_dir.iterdir()] == [stack.name]


def test_stack_for_one_program(lab: Lab) -> None:
    """With no stack, `neat run` starts one in its own namespace, and ends it with the program."""
    place = lab.namespace("alone")
    env = {**os.environ, **lab_environment(lab)}

    def run_program(script: str) -> int:
        argv = [*place.prefix, *neat("run", "--stack", "alone", "--", "sh", "-c", script)]
        return subprocess.run(argv, env=env, timeout=20).returncode

    assert run_program('test -S "$NEAT_STACK/manager.sock" && exit 7') == 7
    assert run_program("kill -TERM $$") == 128 + signal.SIGTERM
    assert list(Path(env["NEAT_RUN_DIR"]).iterdir()) == []
    assert "neat0" not in place.ip("link", "show")


@pytest.mark.parametrize(("options", "number"), [([], signal.SIGTERM), (["--detach"], signal.SIGINT)])
def test_interrupted_while_it_starts(lab: Lab, options: list[str], number: int) -> None:
    """As soon as there is something that could be left behind."""
    with lab.scope():
        place = lab.namespace("early")
        env = {**os.environ, **lab_environment(lab, "early")}
        argv = [*place.prefix, "env", "--default-signal=INT", *neat("up", "--name", "early", *options)]
        process = subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL)
        until((Path(env["NEAT_RUN_DIR"]) / "early/keeper.pid").exists)
        process.send_signal(number)
        assert process.wait(10) == (130 if options else 0)
        assert list(Path(env["NEAT_RUN_DIR"]).iterdir()) == []
        assert "neat0" not in place.ip("link", "show")


def lab_environment(lab: Lab, name: str = "alone") -> dict[str, str]:
    from neatstack.experiment.netns import environment

    directory = lab.directory / name
    directory.mkdir(exist_ok=True)
    return environment(NEAT_RUN_DIR=str(directory))
