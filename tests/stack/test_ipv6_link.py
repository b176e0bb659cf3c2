"""The kernel as neighbour and as router over IPv6: found, answered, pinged, believed."""

import json
import re
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from neatstack.experiment.netns import Lab, Namespace, Stack
from tests.support.discovery import mtu, prefix, router

OWN, HOST = "fd77::2", "fd77::1"


@pytest.fixture(scope="module")
def stack(lab: Lab) -> Iterator[Stack]:
    with lab.scope():
        yield lab.stack(replicas=1, options=["--address", f"{OWN}/64", "--slaac"])


def eventually(check: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end
        time.sleep(0.05)


def pings(host: Namespace, address: str) -> bool:
    return " 2 received" in host.run("ping", "-6", "-n", "-c", 2, "-i", 0.1, "-W", 1, address, check=False)


def own(stack: Stack, start: str) -> str:
    return next(each for each in stack.status()["addresses"] if each.startswith(start)).partition("/")[0]


def advertise(host: Namespace, device: str, message: bytes) -> None:
    """As a router on the kernel's side would."""
    with host.entered(), socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, struct.pack("i", socket.if_nametoindex(device)))
        raw.sendto(message, ("ff02::1", 0))


def test_the_kernel_finds_the_stack(stack: Stack) -> None:
    assert pings(stack.host, OWN)
    assert re.search(
        rf"{OWN} dev {stack.device} lladdr {stack.status()['device']['mac']}", stack.host.ip("-6", "neigh")
    )
    assert pings(stack.host, f"{own(stack, 'fe80::')}%{stack.device}")
    assert not pings(stack.host, "fd77::99")


def test_the_stack_finds_the_kernel(stack: Stack) -> None:
    answer = stack.neat("ping", "--stack", stack.name, HOST, "--count", 2, "--interval", 0.1)
    assert re.search(rf"64 bytes from {HOST}: icmp_seq=2 ttl=64", answer)
    assert answer.startswith(f"PING {HOST} ({HOST}) from {OWN} stack {stack.name}: 56(104) bytes")
    local = re.search(r"(fe80::[0-9a-f:]+)/64", stack.host.ip("-6", "address", "show", "dev", stack.device))
    assert local is not None
    assert "1 received" in stack.neat("ping", "--stack", stack.name, local[1], "--count", 1)


def test_who_is_not_there(stack: Stack) -> None:
    with pytest.raises(Exception, match="address unreachable"):
        stack.neat("ping", "--stack", stack.name, "fd77::99", "--count", 1, "--timeout", 5)


def test_an_advertised_address_answers_and_outlives_link(stack: Stack) -> None:
    stack.host.ip("address", "add", "2001:db8:7::1/64", "dev", stack.device, "nodad")
    mac = json.loads(stack.host.ip("-json", "link", "show", stack.device))[0]["address"]
    message = router(prefix("2001:db8:7::/64"), mtu(1400), mac=bytes.fromhex(mac.replace(":", "")))
    advertise(stack.host, stack.device, message)
    eventually(lambda: any(each.startswith("2001:db8:7:") for each in stack.status()["addresses"]))
    address = own(stack, "2001:db8:7:")
    assert pings(stack.host, address)
    assert stack.status()["gateway6"].startswith("fe80::")
    before = stack.status()
    stack.neat("kill", "link", "--stack", stack.name)
    eventually(lambda: stack.status()["processes"]["link"]["pid"] not in (0, before["processes"]["link"]["pid"]))
    assert stack.status()["addresses"] == before["addresses"]
    eventually(lambda: pings(stack.host, address))
    stack.neat("kill", "manager", "--stack", stack.name)
    eventually(lambda: stack.status()["addresses"] == before["addresses"])


def test_an_address_that_the_kernel_has_is_not_used(lab: Lab) -> None:
    """Not in the namespace where it would be seen, but on the other side of a bridge."""
    with lab.scope():
        stack = lab.stack(replicas=1, options=["--address", f"{OWN}/64"])
        assert OWN in own(stack, OWN)
        far = lab.namespace("far")
        subprocess.run(
            [
                "ip",
                "link",
                "add",
                "veth0",
                "netns",
                stack.host.name,
                "type",
                "veth",
                "peer",
                "veth0",
                "netns",
                far.name,
            ],
            check=True,
        )
        for side in (stack.host, far):
            side.ip("link", "set", "veth0", "up")
        stack.host.ip("link", "add", "bridge0", "type", "bridge")
        stack.host.ip("link", "set", "bridge0", "up")
        for each in (stack.device, "veth0"):
            stack.host.ip("link", "set", each, "master", "bridge0")
        far.ip("address", "add", f"{OWN}/64", "dev", "veth0")  # the kernel looks for duplicates, too, and finds ours
        eventually(lambda: "dadfailed" in far.ip("-6", "address", "show", "dev", "veth0"))
