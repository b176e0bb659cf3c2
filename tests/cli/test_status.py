"""What `neat status` prints, of answers made by hand."""

import copy
from typing import Any

import pytest

from neatstack.cli import isolation, status

REPLICA = {
    "id": 0, "pid": 4194301, "incarnation": 1000, "state": "adopting", "cpu_percent": 100.0, "resident": 99 << 20,
    "connections": 65536, "packets_in": 10**11, "packets_out": 10**11, "bytes_in": 10**13, "bytes_out": 10**13,
    "drops": {"no_port": 7},
}  # fmt: skip
LAST = {
    "replica": 0, "incarnation": 1000, "cause": "was killed by SIGSEGV", "how": "suspect",
    "died_ns": 5_000_000, "running_ns": 7_250_000, "adopted": 63, "lost": 1, "took_us": 900,
}  # fmt: skip
ANSWER: dict[str, Any] = {
    "name": "web", "address": "10.77.0.2/24",
    "device": {"name": "neat0", "mac": "02:00:00:00:00:01", "netns": None},
    "processes": {"manager": {"pid": 2, "cpu_percent": 0.1}},
    "replicas": [REPLICA], "steering": {"buckets": {"0": 256}},
    "programs": [{"channel": 0, "pid": 5, "name": "[red]evil\x1b[2J"}],
}  # fmt: skip


def identity(number: int, name: str) -> dict[str, Any]:
    return {"id": number, "name": name}


PROCESS: dict[str, Any] = {
    "process": "replica 15", "pid": 4194301, "state": "adopting",
    "users": [identity(65534, "nobody")] * 4, "groups": [identity(65534, "nogroup")] * 4, "supplementary_groups": [],
    "capabilities": {"inheritable": [], "effective": []},
    "seccomp": "filter", "no_new_privileges": True, "dumpable": False, "core_limit": 0,
    "namespaces": {"net": "own, empty", "ipc": "own", "mnt": "shared", "pid": "shared", "uts": "shared"},
    "memory": [
        {
            "name": "neat-channel-15-255", "device": "00:01", "inode": 4000000000, "size": 8 << 30,
            "shared_with": {"program 4194302 ([red]evil\x1b[2J)": "rw"},
        }
    ],
    "layout": {part: 0x7FFFFFFFF000 for part in ("executable", "libc", "heap", "stack", "data_plane")},
}  # fmt: skip
REPORT: dict[str, Any] = {
    "name": "web", "processes": [PROCESS, {**PROCESS, "process": "spare 7", "state": "ready"}],
    "shared_by_replicas": [], "same_addresses": [], "fixed_executable": False,
}  # fmt: skip


def shown(capsys: pytest.CaptureFixture[str], show: Any, answer: dict[str, Any]) -> str:
    """What is printed, no line of it cut off or too long to read."""
    show(answer)
    text = capsys.readouterr().out
    assert "…" not in text and "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 140
    return text


def test_before_any_recovery(capsys: pytest.CaptureFixture[str]) -> None:
    """Also of a manager that knows nothing of recoveries."""
    text = shown(capsys, status.show, ANSWER)
    header = next(line for line in text.splitlines() if "incarnation" in line)
    assert header.split()[-1] == "recoveries"
    row = next(line for line in text.splitlines() if "4194301" in line)
    assert row.split()[-2:] == ["256", "0"]
    assert "recovery:" not in text
    assert "program 5 [red]evil?[2J (channel 0)" in text


@pytest.mark.parametrize(("more", "line"), [
    ({"addresses": ["10.77.0.2/24", "fd77::2/64"]}, "web  10.77.0.2/24 fd77::2/64 (02:00:00:00:00:01) on neat0"),
    ({"recovery": "adopt", "spares": [{"ready": True}]}, "recovery: adopt, 1 spare ready"),
    (
        {"recovery": "adopt", "spares": [{"ready": True}, {"ready": False}]},
        "recovery: adopt, 1 spare ready, 1 starting",
    ),
    ({"recovery": "adopt", "spares": [{"ready": True}] * 2}, "recovery: adopt, 2 spares ready"),
    ({"recovery": "reset", "spares": []}, "recovery: reset, no spare"),
    (
        {"recovery": "adopt", "spares": [{"ready": False}], "allow_faults": True},
        "recovery: adopt, 0 spares ready, 1 starting; faults are allowed",
    ),
])  # fmt: skip
def test_recovery(capsys: pytest.CaptureFixture[str], more: dict[str, Any], line: str) -> None:
    assert line in shown(capsys, status.show, {**ANSWER, **more}).splitlines()


def test_full_queues_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    line = "refused by full queues of the device, replicas' or link's: 7"
    assert line in shown(capsys, status.show, {**ANSWER, "device": {**ANSWER["device"], "queue_drops": 7}})
    assert "refused" not in shown(capsys, status.show, {**ANSWER, "device": {**ANSWER["device"], "queue_drops": 0}})


def test_after_recoveries(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, status.show, {**ANSWER, "replicas": [{**REPLICA, "recoveries": 4095, "last_recovery": LAST}]})
    assert "4095" in next(line for line in text.splitlines() if "4194301" in line).split()
    what = "was killed by SIGSEGV; suspect: 63 connections kept, 1 reset, running again after 2.2 ms"
    assert f"last recovery of replica 0: {what}" in text


def test_isolated(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, isolation.show, REPORT)
    assert "writable mappings shared by two replicas: none" in text.splitlines()
    assert "addresses that two agree on: none" in text.splitlines()
    assert "program 4194302 ([red]evil?[2J): rw" in text
    assert "replica 15" in text and "(adopting)" in text and "(ready)" not in text
    assert text.count("namespaces") == 2 and "(empty)" in text


def test_not_isolated(capsys: pytest.CaptureFixture[str]) -> None:
    report = copy.deepcopy(REPORT)
    names = ["replica 15", "spare 7"]
    report["shared_by_replicas"] = [
        {"name": "neat-region-15", "device": "00:01", "inode": 7, "processes": dict.fromkeys(names, "rw")}
    ]
    report["same_addresses"] = [
        {"part": "executable", "address": 0x400000, "processes": names},
        {"part": "data_plane", "address": 0x7F0000000000, "processes": names},
    ]
    report["fixed_executable"] = True
    report["processes"][0] |= {"seccomp": "none", "no_new_privileges": False, "dumpable": None, "core_limit": None}
    report["processes"][0]["capabilities"]["effective"] = [f"cap_{number}" for number in range(40)]
    isolation.show(report)
    text = capsys.readouterr().out
    assert "writable mappings shared by two replicas: neat-region-15 (inode 7) of replica 15, spare 7\n" in text
    fixed = "executable 0x400000 of replica 15, spare 7 (this Python is linked at a fixed address)"
    assert f"addresses that two agree on: {fixed}; data plane 0x7f0000000000 of replica 15, spare 7\n" in text
    for word in ("effective:", "36", "more", "possible", "unknown", "unlimited"):
        assert word in text
