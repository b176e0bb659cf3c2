"""`neat ping` from a running stack."""

from __future__ import annotations

import re
import signal
import subprocess
import time

import pytest

from neatstack.experiment.netns import Stack, neat

RTT = re.compile(r"^rtt min/avg/max/mdev = ([\d.]+)/([\d.]+)/([\d.]+)/([\d.]+) ms$", re.MULTILINE)


def ping(stack: Stack, *options: object, timeout: float = 20) -> subprocess.CompletedProcess[str]:
    argv = neat("ping", "--stack", stack.name, *options)
    return subprocess.run(argv, env=stack.env, capture_output=True, text=True, timeout=timeout)


def test_the_kernel_answers(stack: Stack) -> None:
    answer = ping(stack, stack.host_address, "--count", 3, "--interval", 0.05, "--size", 1000)
    assert answer.returncode == 0, answer.stderr
    first, *lines = answer.stdout.splitlines()
    assert first == f"PING {stack.host_address} ({stack.host_address}) from {stack.address} stack {stack.name}: " + (
        "1000(1028) bytes of data."
    )
    for number, line in enumerate(lines[:3], 1):
        assert re.fullmatch(rf"1008 bytes from {stack.host_address}: icmp_seq={number} ttl=64 time=[\d.]+ ms", line)
    assert lines[3:5] == ["", f"--- {stack.host_address} ping statistics ---"]
    assert lines[5].startswith("3 packets transmitted, 3 received, 0% packet loss, time ")
    found = RTT.search(answer.stdout)
    assert found and float(found[1]) <= float(found[2]) <= float(found[3])


def test_larger_than_a_packet_both_ways(stack: Stack) -> None:
    answer = ping(stack, stack.host_address, "--count", 3, "--interval", 0.05, "--size", 60000)
    assert " 3 received, 0% packet loss" in answer.stdout, answer.stdout + answer.stderr
    told = stack.host.run("ping", "-c3", "-i0.05", "-s60000", "-W2", stack.address)
    assert " 3 received, 0% packet loss" in told, told


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", Stack.address])
def test_ourselves(stack: Stack, address: str) -> None:
    answer = ping(stack, address, "-c", 1)
    assert answer.returncode == 0 and " 1 received, 0% packet loss" in answer.stdout


def test_nobody_answers(stack: Stack) -> None:
    answer = ping(stack, "10.77.0.200", "--count", 1, "--timeout", 0.5)
    assert answer.returncode == 1
    assert "no answer for icmp_seq=1\n" in answer.stdout
    assert "1 packets transmitted, 0 received, 100% packet loss" in answer.stdout
    answer = ping(stack, "192.0.2.1", "--count", 1)
    assert answer.returncode == 1
    assert "no gateway" in answer.stdout or "unreachable" in answer.stdout
    assert "0 received, +1 errors, 100% packet loss" in answer.stdout


@pytest.mark.parametrize(("options", "status", "words"), [
    (["no.such.invalid"], 2, "no.such.invalid: "),
    ([Stack.host_address, "--size", 65508], 2, "0 to 65507"),
    (["224.0.0.1"], 1, "no address of one host"),
])  # fmt: skip
def test_refused(stack: Stack, options: list[object], status: int, words: str) -> None:
    answer = ping(stack, *options)
    assert (answer.returncode, answer.stderr.count("\n")) == (status, 1), answer.stderr
    assert words in answer.stderr


def test_until_it_is_enough_while_link_and_the_manager_die(stack: Stack) -> None:
    argv = neat("ping", "--stack", stack.name, stack.host_address, "--interval", 0.1)
    with subprocess.Popen(argv, env=stack.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        for target in ("link", "manager"):
            for _ in range(3):
                process.stdout.readline()
            stack.neat("kill", target)
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    assert process.returncode == 0, err
    found = re.search(r"(\d+) packets transmitted, (\d+) received", out)
    assert found and int(found[2]) >= 8 and "rtt min" in out
