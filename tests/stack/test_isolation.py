"""Isolation of a running stack, as `neat status --isolation` finds it; and the finder on processes that share."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from neatstack.control import isolation
from neatstack.control.errors import NeatError
from neatstack.experiment.netns import Stack, neat
from tests.support.puppet import Puppet

SHARER = "import mmap, sys; m = mmap.mmap(int(sys.argv[1]), 4096, {}); print(flush=True); sys.stdin.read()"
WRITING, READING = "mmap.MAP_SHARED", "mmap.MAP_SHARED, mmap.PROT_READ"


@pytest.fixture(scope="module")
def report(stack: Stack) -> Iterator[dict[str, Any]]:
    """Of a stack that serves a program with a listener and a connection in each replica, as far as chance has it."""
    with stack.lab.scope():
        puppet = Puppet(stack.programs)
        listener = puppet.listen("0.0.0.0", 80, 64)
        clients = [stack.host.connect(stack.address, 80) for _ in range(8)]
        for _ in clients:
            listener.accept()
        yield settled(stack)
        for client in clients:
            client.close()


def settled(stack: Stack) -> dict[str, Any]:
    """The report when no process is still starting, and so isolating itself."""
    end = time.monotonic() + 20
    while True:
        found = json.loads(stack.neat("status", "--isolation", "--json"))
        if {process["state"] for process in found["processes"]} <= {"running", "ready"}:
            return found
        assert time.monotonic() < end
        time.sleep(0.05)


def test_every_replica_and_spare_is_looked_at(stack: Stack, report: dict[str, Any]) -> None:
    names = [process["process"] for process in report["processes"]]
    assert names[:2] == ["replica 0", "replica 1"]
    assert all(name.startswith("spare ") for name in names[2:])
    assert {process["pid"] for process in report["processes"]} <= set(stack.pids())


def test_unprivileged(report: dict[str, Any]) -> None:
    for process in report["processes"]:
        assert 0 not in {each["id"] for each in process["users"] + process["groups"]}
        assert process["supplementary_groups"] == []
        assert set(process["capabilities"]) == {"inheritable", "permitted", "effective", "bounding", "ambient"}
        assert not any(process["capabilities"].values())
        assert (process["seccomp"], process["no_new_privileges"]) == ("filter", True)
        assert (process["dumpable"], process["core_limit"]) == (False, 0)


def test_in_an_empty_network(report: dict[str, Any]) -> None:
    for process in report["processes"]:
        assert process["namespaces"]["net"] == "own, empty"
        assert process["namespaces"]["ipc"] == "own"


def test_no_two_replicas_share_writable_memory(report: dict[str, Any]) -> None:
    assert report["shared_by_replicas"] == []
    for process in report["processes"][:2]:
        assert process["memory"]
        sharers = {name for memory in process["memory"] for name in memory["shared_with"]}
        # nobody else of the stack maps it, but the manager, who reads whether the replica makes progress
        assert all(name.startswith("program ") for name in sharers - {"manager"})
        assert sharers


def test_a_program_writes_its_channel_and_nothing_else_of_a_replica(report: dict[str, Any]) -> None:
    for process in report["processes"][:2]:
        for memory in process["memory"]:
            writers = [name for name, rights in memory["shared_with"].items() if "w" in rights]
            assert bool(writers) == memory["name"].startswith("neat-channel-"), memory


@pytest.mark.parametrize("part", ["libc", "data_plane", "stack"])
def test_replicas_have_layouts_of_their_own(report: dict[str, Any], part: str) -> None:
    """A fresh exec each: nothing is where the other's is. (The executable may be linked at a fixed place.)"""
    places = [process["layout"][part] for process in report["processes"]]
    assert len(set(places)) == len(places) >= 2
    assert part not in {agreement["part"] for agreement in report["same_addresses"]}


def test_shown_as_tables(stack: Stack, report: dict[str, Any]) -> None:
    shown = stack.neat("status", "--isolation")
    assert "writable mappings shared by two replicas: none\n" in shown
    assert "neat-region-0" in shown


def test_one_line_without_the_right_to_look(stack: Stack) -> None:
    drop = ["setpriv", "--bounding-set", "-sys_ptrace"]
    answer = subprocess.run([*drop, *neat("status", "--isolation")], env=stack.env, capture_output=True, text=True)
    assert answer.returncode == 1
    assert answer.stderr.startswith("neat: no right to look into replica 0") and answer.stderr.count("\n") == 1
    assert "run as root" in answer.stderr


class Sharers:
    """Processes that stand in for two replicas, and the answer to `status` that names them."""

    def __init__(self, *modes: str) -> None:
        self.memory = os.memfd_create("ours")
        os.ftruncate(self.memory, 4096)
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", SHARER.format(mode), str(self.memory)],
                pass_fds=[self.memory], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )
            for mode in modes
        ]  # fmt: skip
        for process in self.processes:
            assert process.stdout is not None
            process.stdout.readline()  # it has mapped
        self.pids = [process.pid for process in self.processes]

    def status(self) -> dict[str, Any]:
        return {
            "name": "test",
            "replicas": [{"id": number, "pid": pid, "state": "running"} for number, pid in enumerate(self.pids)],
            "processes": {"manager": {"pid": os.getpid()}},
            "programs": [],
        }

    def close(self) -> None:
        os.close(self.memory)
        for process in self.processes:
            process.communicate()


@pytest.mark.parametrize(("modes", "found"), [
    ((WRITING, WRITING), {"replica 0": "rw", "replica 1": "rw"}),
    ((WRITING, READING), {"replica 0": "rw", "replica 1": "r"}),  # one sees what the other writes
    ((READING, READING), None),
    ((WRITING,), None),
])  # fmt: skip
def test_memory_that_is_shared_is_found(modes: tuple[str, ...], found: dict[str, str] | None) -> None:
    sharers = Sharers(*modes)
    try:
        shared = isolation.examine(sharers.status)["shared_by_replicas"]
        assert [entry["processes"] for entry in shared] == ([found] if found else [])
        assert all(entry["name"] == "ours" for entry in shared)
    finally:
        sharers.close()


def test_what_is_not_isolated_is_told() -> None:
    """These two are children of ours, with our rights in our namespaces."""
    sharers = Sharers(READING, READING)
    try:
        for process in isolation.examine(sharers.status)["processes"]:
            assert process["users"][0]["id"] == os.getuid()
            assert set(process["namespaces"].values()) == {"shared"}
            assert process["seccomp"] == isolation.parse_status(open("/proc/self/status").read())["seccomp"]
    finally:
        sharers.close()


def test_a_replica_that_dies_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """The successor is looked at; when there is none for long, that is said."""
    monkeypatch.setattr(isolation, "PAUSE", 0)
    sharers = Sharers(READING, READING, READING)
    try:
        spare = sharers.pids.pop()
        os.kill(sharers.pids[0], signal.SIGKILL)  # nobody waits for it yet: it is there without memory
        end = time.monotonic() + 20
        while open(f"/proc/{sharers.pids[0]}/maps").read():
            assert time.monotonic() < end
        with pytest.raises(NeatError, match="replica 0 .* was replaced while it was looked at; try again"):
            isolation.examine(sharers.status)
        answers = iter([sharers.status()])

        def ask() -> dict[str, Any]:
            if (old := next(answers, None)) is not None:
                return old
            sharers.pids[0] = spare
            return sharers.status()

        report = isolation.examine(ask)
        assert [process["pid"] for process in report["processes"]] == [spare, sharers.pids[1]]
    finally:
        sharers.close()
