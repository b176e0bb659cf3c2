"""More replicas and fewer on a running stack, while every byte of many connections is looked at."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from neatstack.experiment.netns import Lab, Stack
from neatstack.experiment.stage import Control
from tests.support.traffic import Traffic, until

PORT = 7000


@pytest.fixture
def stack() -> Iterator[Stack]:
    with Lab() as lab:
        yield lab.stack(replicas=2, options=["--max-replicas", 4])


def scale(stack: Stack, *arguments: object) -> dict[str, Any]:
    return json.loads(stack.neat("scale", *arguments, "--json"))


def ask(stack: Stack, **request: object) -> dict[str, Any]:
    control = Control(stack.run_dir / stack.name / "control.sock")
    try:
        return control.ask(**request)
    finally:
        control.close()


def owners(stack: Stack) -> dict[int, int]:
    """The replica of each connection, by the peer's port."""
    found = json.loads(stack.neat("ss", "--json"))["connections"]
    return {each["remote_port"]: each["replica"] for each in found if each["local_port"] == PORT}


def test_connections_go_on_and_new_ones_come_to_the_active(stack: Stack) -> None:
    traffic = Traffic(stack, PORT)
    ports = {flow.made.getsockname()[1] for flow in traffic.flows}
    before = {port: replica for port, replica in owners(stack).items() if port in ports}
    assert set(before.values()) == {0, 1}
    for number in (4, 1, 3, 2, 1):
        answer = scale(stack, number)
        assert answer["to"] == number
        traffic.moves()
        new = [stack.host.connect(stack.address, PORT) for _ in range(40)]
        for each in new:
            each.settimeout(10)
            each.sendall(b"hello")
            assert each.recv(5) == b"hello"
        now = owners(stack)
        assert {port: now[port] for port in ports} == before
        active = {r["id"] for r in stack.replicas() if r["takes_new"]}
        assert len(active) == number
        assert {now[each.getsockname()[1]] for each in new} == active
        for each in new:
            each.shutdown(socket.SHUT_WR)
            assert each.recv(1) == b""
            each.close()
    traffic.finish()
    assert traffic.reset() == []
    steering = stack.status()["steering"]
    assert steering["wrong_replica"] == 0


def test_a_drained_replica_is_stopped_and_started_again(stack: Stack) -> None:
    assert scale(stack, 1)["draining"] == [1]
    until(lambda: [r["id"] for r in stack.replicas()] == [0])
    kinds = [event["kind"] for event in ask(stack, op="events", since=0)["events"]]
    assert kinds == ["scale_down", "drained"]
    scale(stack, 3)
    assert [r["state"] for r in stack.replicas()] == ["running"] * 3
    traffic = Traffic(stack, PORT)
    more = [stack.host.connect(stack.address, PORT) for _ in range(40)]
    assert set(owners(stack).values()) == {0, 1, 2}
    for each in more:
        each.close()
    traffic.finish()
    assert traffic.reset() == []
