"""`neat kill` as the manager carries it out, with processes that stand in for the stack's."""

import asyncio
import faulthandler
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from neatstack.control import faults
from neatstack.control.control_server import ControlServer
from neatstack.control.errors import NeatError
from neatstack.control.replicas import ReplicaError, ReplicaGone
from neatstack.control.settings import Settings

DEADLINE = 20  # seconds


class Victim:
    """A process that only waits, as a replica's slot or as link."""

    def __init__(self, number: int = 0) -> None:
        self.number, self.state = number, "running"
        self.process = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import signal; signal.pause()"])
        self.pid = self.process.pid
        self.pidfd = os.pidfd_open(self.pid)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.pidfd >= 0:
            os.close(self.pidfd)


class Replicas:
    """Two slots, of which one is used; faults are only noted."""

    def __init__(self) -> None:
        self.slots, self.active = [Victim(0), Victim(1)], {0}
        self.asked: list[tuple[int, str, int]] = []
        self.answer: dict[str, Any] | Exception = {"ok": True}

    async def fault(self, number: int, kind: str, seed: int) -> dict[str, Any]:
        self.asked.append((number, kind, seed))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def manager() -> Iterator[Any]:
    replicas, link = Replicas(), Victim()
    made = SimpleNamespace(replicas=replicas, link=link, settings=Settings(allow_faults=True))
    made.recoveries = lambda: [{"replica": 0, "how": "adopt"}]
    yield made
    for victim in (*replicas.slots, link):
        victim.end()


def kill(manager: Any, target: Any, fault: Any = "kill", seed: Any = None) -> dict[str, Any]:
    harm = asyncio.run(faults.kill(manager, target, fault, seed))
    assert harm.afterwards is None
    return harm.answer


def test_kill_a_replica(manager: Any) -> None:
    victim = manager.replicas.slots[0]
    before = time.monotonic_ns()
    answer = kill(manager, "0")
    assert before <= answer.pop("at_ns") <= time.monotonic_ns()
    assert answer == {"ok": True, "target": "0", "pid": victim.pid}
    assert victim.process.wait(DEADLINE) == -signal.SIGKILL
    assert manager.replicas.asked == []


@pytest.mark.parametrize(("fault", "number"), faults.SIGNALS.items())
def test_signals_for_link(manager: Any, fault: str, number: signal.Signals) -> None:
    assert kill(manager, "link", fault)["pid"] == manager.link.pid
    assert manager.link.process.wait(DEADLINE) == -number
    assert manager.replicas.slots[0].process.poll() is None


def test_replicas_are_asked_for_other_faults(manager: Any) -> None:
    manager.replicas.answer = {"id": 7, "ok": True, "what": "region: tcb 12, byte 40, bit 3"}
    answer = kill(manager, "0", "flip", 5)
    assert (answer["what"], answer["seed"]) == ("region: tcb 12, byte 40, bit 3", 5)
    manager.replicas.answer = {"id": 8, "ok": True}
    chosen = kill(manager, "0", "segv")["seed"]  # by chance, and told, so that it can be repeated
    assert manager.replicas.asked == [(0, "flip", 5), (0, "segv", chosen)]


@pytest.mark.parametrize(("target", "fault", "seed", "words"), [
    ("7", "kill", None, "no replica 7; there are: 0, manager, link"),
    ("1", "kill", None, "no replica 1; there are: 0, manager, link"),  # a slot that is not used
    ("-1", "kill", None, "no replica -1"),
    (0, "kill", None, "no replica 0"),
    (None, "kill", None, "no replica None"),
    (["0"], "kill", None, "no replica"),
    ("0", "poison", None, "no fault poison; there are: kill, segv, abort, hang, flip"),
    ("0", {}, None, "no fault"),
    ("manager", "hang", None, "hang is only for replicas; manager takes kill, segv, abort"),
    ("link", "flip", None, "flip is only for replicas"),
    ("0", "flip", "x", "seed"),
    ("0", "flip", True, "seed"),
    ("0", "flip", -1, "seed"),
    ("0", "flip", 1 << 64, "seed"),
])  # fmt: skip
def test_what_cannot_be_done(manager: Any, target: Any, fault: Any, seed: Any, words: str) -> None:
    with pytest.raises(NeatError) as error:
        kill(manager, target, fault, seed)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert manager.link.process.poll() is None and manager.replicas.asked == []
    assert [slot.process.poll() for slot in manager.replicas.slots] == [None, None]


@pytest.mark.parametrize("target", ["0", "manager", "link"])
def test_only_killing_is_always_allowed(manager: Any, target: str) -> None:
    manager.settings = Settings()
    with pytest.raises(NeatError, match="allows no segv; start it with `neat up --allow-faults`"):
        kill(manager, target, "segv")
    assert manager.replicas.asked == [] and manager.link.process.poll() is None
    kill(manager, "0")
    assert manager.replicas.slots[0].process.wait(DEADLINE) == -signal.SIGKILL


def test_dead_already(manager: Any) -> None:
    for victim in (manager.link, manager.replicas.slots[0]):
        victim.process.kill()
        victim.process.wait()
    for target in ("link", "0"):
        with pytest.raises(NeatError, match="not running"):
            kill(manager, target)
    os.close(manager.link.pidfd)
    manager.link.pidfd = -1
    with pytest.raises(NeatError, match="not running"):
        kill(manager, "link")


def test_replica_that_cannot_take_the_fault(manager: Any) -> None:
    manager.replicas.slots[0].state = "starting"
    with pytest.raises(NeatError, match="replica 0 is not running but starting"):
        kill(manager, "0", "segv")
    manager.replicas.slots[0].state = "running"
    manager.replicas.answer = ReplicaGone()
    with pytest.raises(NeatError, match="replica 0 has just died"):
        kill(manager, "0", "segv")
    manager.replicas.answer = ReplicaError("no connection to damage")
    with pytest.raises(NeatError, match="replica 0 refuses: no connection to damage"):
        kill(manager, "0", "flip")


def serve(listener: socket.socket, manager: Any) -> None:
    """Be the manager until the deadline."""

    async def run() -> None:
        server = ControlServer(listener, manager)
        await asyncio.sleep(DEADLINE)
        del server

    faulthandler.disable()  # pytest's would print a trace of a wanted crash
    asyncio.run(run())


@pytest.fixture
def control(tmp_path: Any, manager: Any) -> Iterator[tuple[int, str]]:
    """The pid and the socket of a process that answers on control.sock."""
    path = str(tmp_path / "control.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        pid = os.fork()
        if pid == 0:
            try:
                serve(listener, manager)
            finally:
                os._exit(77)
    yield pid, path
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def ask(path: str, *lines: bytes) -> list[dict[str, Any]]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(DEADLINE)
        sock.connect(path)
        with sock.makefile("rb") as stream:
            answers = []
            for line in lines:
                sock.sendall(line + b"\n")
                answers.append(json.loads(stream.readline()))
            return answers


@pytest.mark.parametrize(("fault", "number"), faults.SIGNALS.items())
def test_the_manager_answers_before_it_dies(control: tuple[int, str], fault: str, number: signal.Signals) -> None:
    pid, path = control
    (answer,) = ask(path, json.dumps({"op": "kill", "target": "manager", "fault": fault, "seed": None}).encode())
    assert (answer["ok"], answer["pid"]) == (True, pid)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -number


def test_requests_on_control_sock(control: tuple[int, str]) -> None:
    """Good and bad ones on one connection; none disturbs the next."""
    answers = ask(
        control[1],
        b"nonsense",
        b"[1, 2]",
        b'{"op": "kill"}',
        b'{"op": "kill", "target": "9", "fault": "kill"}',
        b'{"op": "recoveries"}',
        b'{"op": "bogus"}',
    )
    assert answers[0] == {"error": "not a JSON object"}
    assert answers[1] == answers[5] == {"error": "no such request"}
    assert "no fault None" in answers[2]["error"]
    assert "no replica 9" in answers[3]["error"]
    assert answers[4] == {"recoveries": [{"replica": 0, "how": "adopt"}]}
