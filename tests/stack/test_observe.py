"""Watching a real stack while its processes are killed."""

from __future__ import annotations

import re
import socket
import time
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from neatstack.experiment.netns import Process, Stack, neat

SCRAPES = 200


def scrape(url: str) -> dict[str, float]:
    """The samples, by name with labels; fails unless the page is whole."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        assert answer.status == 200
        page = answer.read().decode()
    return {f"{s.name}{sorted(s.labels.items())}": s.value for family in parse(page) for s in family.samples}


@pytest.fixture(scope="module")
def endpoint(stack: Stack) -> Iterator[str]:
    """`neat metrics` at work; its URL."""
    process: Process = stack.lab.spawn(neat("metrics", "--stack", stack.name, "--listen", "127.0.0.1:0"), stack.env)
    end = time.monotonic() + 10
    while not (found := re.search(r"http://\S+", process.output)):
        assert process.running() and time.monotonic() < end, process.output
        time.sleep(0.05)
    yield found[0]
    process.stop()


def test_once(stack: Stack) -> None:
    page = stack.neat("metrics", "--once")
    samples = {sample.name for family in parse(page) for sample in family.samples}
    assert {"neat_up", "neat_replica_receive_packets_total", "neat_replica_drops_total"} <= samples


def test_scrapes_while_replicas_and_the_manager_are_killed(stack: Stack, endpoint: str) -> None:
    control = stack.run_dir / stack.name / "control.sock"
    before, ups, longest = scrape(endpoint), 0, 0.0
    for number in range(SCRAPES):
        if number % 10 == 0:
            target = "manager" if number % 50 == 40 else str(number // 10 % 2)
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(5)
                try:
                    sock.connect(str(control))
                    sock.sendall(f'{{"op": "kill", "target": "{target}", "fault": "kill"}}\n'.encode())
                    sock.recv(1000)
                except OSError:
                    pass  # the manager has just been killed
        started = time.monotonic()
        samples = scrape(endpoint)
        longest = max(longest, time.monotonic() - started)
        ups += samples["neat_up[]"] == 1
    assert longest < 1.5
    assert ups > SCRAPES * 0.9
    time.sleep(1)
    after = scrape(endpoint)
    assert after["neat_up[]"] == 1
    for replica in ("0", "1"):
        name = f"neat_replica_incarnation[('replica', '{replica}')]"
        assert after[name] >= before[name] + 5


def test_the_stack_ends(stack: Stack, endpoint: str) -> None:
    stack.neat("down")
    assert scrape(endpoint) == {"neat_up[]": 0}
