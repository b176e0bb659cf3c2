"""Groups that programs join, as the kernel's bridge learns of them: it asks as a router does, and snoops."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from neatstack.experiment.netns import Lab, Namespace, Process, Stack
from tests.support.traffic import until

MEMBER = Path(__file__).parents[1] / "programs/group_member.py"
GROUPS, OTHERS = ["239.1.2.3", "ff02::1234"], ["239.1.2.4", "ff05::1234"]
JOIN = Callable[..., Process]


@pytest.fixture(scope="module")
def stack(lab: Lab) -> Stack:
    return lab.stack(replicas=2, options=["--address", "fd77::2/64"])


@pytest.fixture
def join(stack: Stack) -> Iterator[JOIN]:
    def start(*groups: str) -> Process:
        process = stack.programs.spawn(sys.executable, MEMBER, *groups)
        until(lambda: "joined" in process.output, 10)
        return process

    with stack.lab.scope():
        yield start


def bridge(host: Namespace, device: str, *options: object) -> None:
    """Put the device into a bridge that asks every second."""
    name = "bridge0"
    often = ["mcast_startup_query_interval", 100, "mcast_query_interval", 100, "mcast_query_response_interval", 50]
    soon = ["mcast_last_member_interval", 20, "mcast_last_member_count", 1]
    kind = ["type", "bridge", "mcast_snooping", 1, "mcast_querier", 1, *often, *soon, *options]
    host.ip("link", "add", name, *kind)
    host.lab.cleanup.callback(host.ip, "link", "delete", name)
    host.ip("link", "set", name, "up")
    host.ip("link", "set", device, "master", name)


def known(stack: Stack, groups: list[str]) -> bool:
    return set(groups) <= {each["grp"] for each in table(stack)}


def unknown(stack: Stack, groups: list[str]) -> bool:
    return not set(groups) & {each["grp"] for each in table(stack)}


def table(stack: Stack) -> list[dict[str, str]]:
    found = json.loads(stack.host.run("bridge", "-json", "mdb", "show") or "[]")
    return [each for part in found for each in part.get("mdb", []) if each["port"] == stack.device]


@pytest.mark.rfc("9776:5.2-answer", "9777:6.2-answer", "9776:7.2.1-mode", "9777:8.2.1-mode")
@pytest.mark.parametrize("versions", [(3, 2), (2, 1)], ids=["newest", "older"])
def test_a_bridge_knows_what_is_joined(stack: Stack, join: JOIN, versions: tuple[int, int]) -> None:
    first = join(*GROUPS)
    bridge(stack.host, stack.device, "mcast_igmp_version", versions[0], "mcast_mld_version", versions[1])
    until(lambda: known(stack, GROUPS), 20)  # asked for: it was told before the bridge was there
    join(*OTHERS)
    until(lambda: known(stack, GROUPS + OTHERS), 5)
    first.stop()
    until(lambda: unknown(stack, GROUPS), 10)
    assert known(stack, OTHERS)


def test_link_and_manager_may_die(stack: Stack, join: JOIN) -> None:
    first = join(*GROUPS)
    before = stack.status()["processes"]["link"]["pid"]
    stack.neat("kill", "link", "--stack", stack.name)
    until(lambda: stack.status()["processes"]["link"]["pid"] not in (0, before), 10)
    bridge(stack.host, stack.device)
    until(lambda: known(stack, GROUPS), 10)
    stack.neat("kill", "manager", "--stack", stack.name)
    join(*OTHERS)
    until(lambda: known(stack, GROUPS + OTHERS), 10)
    first.stop()
    until(lambda: unknown(stack, GROUPS), 10)
