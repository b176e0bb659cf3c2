"""The keeper: what it holds survives managers, and ends with it. The test itself plays the managers."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from neatstack.control import keeper
from neatstack.control.store import Store

SOURCE = Path(__file__).parents[2] / "src"
MANAGER = """
import os, socket, subprocess, sys, time
scripts = open(sys.argv[1] + ".children").read().splitlines() if os.path.exists(sys.argv[1] + ".children") else []
children = [subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE) for script in scripts]  # end with us
pids = [os.getpid(), *(child.pid for child in children)]
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
socket.send_fds(s, [" ".join(map(str, pids)).encode()], [int(os.environ["NEAT_KEEPER"])])
time.sleep(60)
"""
KEEPER = """
import sys
from neatstack.control import keeper, launch
def command(module, directory, python=sys.executable, parent=""):
    return [python, "-S", "-c", {manager!r}, {meeting!r} + parent]
launch.command = command
sys.exit(keeper.main(sys.argv[1:]))
"""


class Running:
    """A keeper whose managers hand their socket to the test."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "stack"
        self.directory.mkdir()
        (self.directory / "manager.sock").touch()
        meeting = directory / "meeting"
        self.meeting = socket.socket(socket.AF_UNIX)
        self.meeting.bind(str(meeting))
        self.meeting.listen()
        self.meeting.settimeout(10)
        self.scripts = directory / "meeting.children"  # shell scripts, one a line, that managers start
        self.children: list[int] = []
        lock = os.open(self.directory / "keeper.pid", os.O_RDWR | os.O_CREAT)
        self.report, report = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-c", KEEPER.format(manager=MANAGER, meeting=str(meeting)),
             str(self.directory), json.dumps({"name": "stack"}), str(lock), str(report)],
            env={**os.environ, "PYTHONPATH": str(SOURCE)}, pass_fds=[lock, report],
        )  # fmt: skip
        os.close(lock)
        os.close(report)

    def manager(self) -> tuple[int, Store]:
        """The next manager that the keeper starts: its pid, and what it talks to the keeper through."""
        connection, _ = self.meeting.accept()
        with connection:
            data, (descriptor,), _, _ = socket.recv_fds(connection, 8192, 1)
        pid, *self.children = map(int, data.split())
        return pid, Store(socket.socket(fileno=descriptor))

    def next_manager(self, pid: int, store: Store, number: int = signal.SIGKILL) -> tuple[int, Store]:
        store.sock.close()
        os.kill(pid, number)
        return self.manager()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path)
    yield made
    made.process.terminate()
    assert made.process.wait(5) is not None
    os.close(made.report)
    made.meeting.close()


def test_holds_data_and_descriptors_over_managers(running: Running) -> None:
    pid, store = running.manager()
    entries = store.list()
    assert json.loads(entries["settings"].data["settings"]) == {"name": "stack"}
    reading, writing = os.pipe()
    store.put("pipe", {"n": 1}, [reading, writing])
    store.put("gone", {}, [reading])
    store.drop("gone")
    store.put("pipe", {"n": 2}, [reading, writing])
    os.close(reading)
    os.close(writing)
    pid, store = running.next_manager(pid, store)
    entries = store.list()
    assert sorted(entries) == ["pipe", "report", "settings"]
    assert entries["pipe"].data == {"n": 2}
    reading, writing = entries["pipe"].descriptors
    os.write(writing, b"still there")
    assert os.read(reading, 100) == b"still there"
    assert not os.get_inheritable(reading)
    store.drop("pipe")
    store.list()
    os.close(writing)
    assert os.read(reading, 100) == b""  # the keeper has closed its copy
    os.close(reading)


def test_restarts_managers_again_and_again(running: Running) -> None:
    pid, store = running.manager()
    before = time.monotonic()
    for _ in range(5):
        pid, store = running.next_manager(pid, store)
    assert 0.5 < time.monotonic() - before < 10  # slower and slower: it dies at once


def test_starts_the_manager_of_another_installation_while_that_lives(running: Running) -> None:
    """One that dies at once is given up."""
    pid, store = running.manager()
    meeting = running.meeting.getsockname()
    with socket.socket(socket.AF_UNIX) as there:
        there.bind(f"{meeting}-there")
        there.listen()
        there.settimeout(10)
        store.put("manager", {"python": sys.executable, "parent": "-there"})
        store.list()
        os.kill(pid, signal.SIGKILL)
        connection, _ = there.accept()
        with connection:
            data, (descriptor,), _, _ = socket.recv_fds(connection, 8192, 1)
        other = Store(socket.socket(fileno=descriptor))
        assert "manager" in other.list()
        other.put("manager", {"python": "/bin/false", "parent": ""})
        other.list()
        store.sock.close()
        _, store = running.next_manager(int(data), other)
        assert store.list()["manager"].data == {}


def test_survives_nonsense(running: Running) -> None:
    pid, store = running.manager()
    for message in (b"{", b"[]", b'{"op": "put"}', b'{"op": "put", "key": 1, "data": {}}', b'{"op": "what"}'):
        socket.send_fds(store.sock, [message], [0])
    assert sorted(store.list()) == ["report", "settings"]
    assert len(os.listdir(f"/proc/{running.process.pid}/fd")) < 20


def test_end_kills_the_processes_of_the_stack(running: Running) -> None:
    pid, store = running.manager()
    sleeper = subprocess.Popen(["sleep", "60"])
    store.put("process.0", {"process": True}, [os.pidfd_open(sleeper.pid)])
    store.end(3)
    assert running.process.wait(5) == 3
    assert sleeper.wait(5) == -signal.SIGKILL
    assert not running.directory.exists()
    store.sock.close()


def test_remembers_how_orphans_ended(running: Running) -> None:
    """Children of a manager that died before them; only so many."""
    running.scripts.write_text("")
    pid, store = running.manager()
    ways = [("exit 7", 7), ("kill -KILL $$", -signal.SIGKILL), ("kill -SEGV $$", -signal.SIGSEGV)]
    for scripts in (ways, [("exit 3", 3)] * (keeper.FATES + 20)):
        running.scripts.write_text("\n".join(f"read line; {script}" for script, _ in scripts))
        pid, store = running.next_manager(pid, store)
        orphans, parent = running.children, pid
        running.scripts.write_text("")
        pid, store = running.next_manager(parent, store)
        deadline = time.monotonic() + 30
        while any(os.path.exists(f"/proc/{child}") for child in orphans):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        fates = [store.fate(child) for child in orphans]
        if scripts is ways:
            assert fates == [code for _, code in ways]
        else:
            assert fates.count(3) == keeper.FATES and fates.count(None) == 20
        assert [store.fate(child) for child in orphans] == [None] * len(orphans)  # told once
    assert store.fate(os.getpid()) is None
    assert sorted(store.list()) == ["report", "settings"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_the_stack(running: Running, number: int) -> None:
    pid, store = running.manager()
    manager = os.pidfd_open(pid)
    running.process.send_signal(number)
    assert running.process.wait(5) == 0
    ended = select.poll()  # select() takes no number above 1023, and other tests' descriptors may not be collected yet
    ended.register(manager, select.POLLIN)
    assert ended.poll(5000)
    assert not running.directory.exists()
    os.close(manager)
    store.sock.close()


def test_is_tiny() -> None:
    """What holds everything must have nothing in it that can fail: few lines, and nothing but the standard library."""
    lines = (SOURCE / "neatstack/control/keeper.py").read_text().splitlines()
    assert len(lines) < 220
    script = "import sys, neatstack.control.keeper; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(SOURCE)!r}); {script}"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    ours = {name for name in loaded if name.startswith("neatstack.")}
    assert ours <= {"neatstack.control", *(f"neatstack.control.{part}" for part in ("keeper", "launch", "messages"))}
    assert not {"asyncio", "pydantic", "typer", "rich", "pyroute2"} & set(loaded)
