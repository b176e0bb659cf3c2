"""IPv6 over a stack of two replicas: who serves, what outlives deaths, and how large packets are on the way."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from neatstack.experiment.link import plain
from neatstack.experiment.netns import Lab, Namespace, Stack
from tests.support.puppet import Puppet, digest
from tests.support.traffic import Traffic, until

OWN, HOST = "fd77::2", "fd77::1"
FAR, ROUTER = "fd79::2", "fd79::1"
LENGTH = 3_000_000
NARROW = 1300


@pytest.fixture(scope="module")
def stack(lab: Lab) -> Stack:
    return lab.stack(replicas=2, options=["--address", f"{OWN}/64", "--gateway", HOST])


@pytest.fixture(scope="module")
def far(lab: Lab, stack: Stack) -> Namespace:
    """A namespace that the stack reaches through its host, over a way there that takes smaller packets."""
    made = lab.namespace("far")
    lab.veth(stack.host, "10.79.3.1/24", made, "10.79.3.2/24")
    for side, address in ((stack.host, ROUTER), (made, FAR)):
        side.ip("address", "add", f"{address}/64", "dev", "veth0", "nodad")
    made.ip("-6", "route", "add", "default", "via", ROUTER)
    with stack.host.entered():
        Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
        plain("veth0")
    stack.host.ip("-6", "route", "add", FAR, "dev", "veth0", "mtu", "lock", NARROW)
    return made


@pytest.fixture
def traffic(stack: Stack, port: int) -> Iterator[Traffic]:
    with stack.lab.scope():
        made = Traffic(stack, port, OWN)
        yield made
        made.finish()


def total(stack: Stack, counter: str) -> int:
    return sum(replica["counters"][counter] for replica in stack.replicas())


def test_each_replica_has_a_share(stack: Stack, traffic: Traffic) -> None:
    assert all(replica["connections"] > 0 for replica in stack.replicas())
    told = stack.neat("ss", "--stack", stack.name)
    assert f"[{OWN}]:" in told and f"[{HOST}]:" in told
    assert total(stack, "drop_moved") == 0


def test_deaths_cost_no_connection(stack: Stack, traffic: Traffic) -> None:
    for name in ("0", "1", "0", "manager", "link", "1"):
        stack.neat("kill", name, "--stack", stack.name)
        traffic.moves()
    assert traffic.reset() == []


def exchange(server: Puppet, client: Puppet, address: str, port: int) -> int:
    """Both send, and what arrives is compared; the size of the client's segments in the end."""
    listener = server.listen(address, port)
    one = client.connect(address, port)
    other = listener.accept()
    sending = [one.begin("send_stream", 1, LENGTH), other.begin("send_stream", 2, LENGTH)]
    receiving = [other.begin("receive_stream", LENGTH), one.begin("receive_stream", LENGTH)]
    assert [each.result(60) for each in sending] == [LENGTH, LENGTH]
    assert [each.result(60) for each in receiving] == [(LENGTH, digest(seed, LENGTH)) for seed in (1, 2)]
    return int(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG))


def test_both_ways(stack: Stack, port: int) -> None:
    assert exchange(Puppet(stack.host), Puppet(stack.programs), HOST, port) == 1500 - 40 - 20 - 12
    exchange(Puppet(stack.programs), Puppet(stack.host), OWN, port)


@pytest.mark.rfc("8201:4-reduce")
def test_a_router_tells_of_a_narrow_link(stack: Stack, far: Namespace, port: int) -> None:
    assert exchange(Puppet(far), Puppet(stack.programs), FAR, port) == NARROW - 40 - 20 - 12
    exchange(Puppet(stack.programs), Puppet(far), OWN, port)


def test_datagrams_in_fragments(stack: Stack, far: Namespace, port: int) -> None:
    """Larger than the link, and than what is behind it: the sender cuts them, either way."""
    echo = stack.programs.spawn(
        "python3", Path(__file__).parents[1] / "programs/datagram_echo.py", "server", "::", port
    )
    with far.entered():
        client = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    with client:
        client.settimeout(0.2)

        def answered(data: bytes) -> bool:
            client.sendto(data, (OWN, port))
            try:
                return client.recv(70_000) == data
            except TimeoutError:
                return False

        for size in (1, 1240, 5000, 40_000):
            until(lambda size=size: answered(bytes(size)), 10)
    assert total(stack, "reassembled") > 0
    echo.stop()
