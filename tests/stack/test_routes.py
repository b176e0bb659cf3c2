"""Routes of the operator: what programs and pings send goes by the neighbour that they name, over both families."""

from __future__ import annotations

from pathlib import Path

import pytest

from neatstack.experiment.netns import Lab, Namespace, Stack
from tests.support.puppet import Puppet
from tests.support.traffic import until

FAR, FAR6 = "10.79.3.2", "fd79::2"
ROUTES = ["10.79.3.0/24,via 10.77.0.1", "fd79::/64,via fd77::1", "192.0.2.7,via 10.77.0.66"]


@pytest.fixture(scope="module")
def stack(lab: Lab) -> Stack:
    options = [word for route in ROUTES for word in ("--route", route)]
    made = lab.stack(replicas=2, options=["--address", "fd77::2/64", *options])
    far = lab.namespace("far")
    lab.veth(made.host, "10.79.3.1/24", far, f"{FAR}/24")
    for side, address in ((made.host, "fd79::1"), (far, FAR6)):
        side.ip("address", "add", f"{address}/64", "dev", "veth0", "nodad")
    far.ip("route", "add", "default", "via", "10.79.3.1")
    far.ip("-6", "route", "add", "default", "via", "fd79::1")
    with made.host.entered():
        Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    made.far = far  # type: ignore[attr-defined]
    return made


@pytest.mark.parametrize("address", [FAR, FAR6])
def test_a_route_is_taken(stack: Stack, address: str, port: int) -> None:
    """There is no gateway: without its route nothing would get there."""
    far: Namespace = stack.far  # type: ignore[attr-defined]
    listener = Puppet(far).listen(address, port)
    client = Puppet(stack.programs)
    for name in ("link", "manager", "0", "1"):
        one = client.connect(address, port)
        other = listener.accept()
        one.sendall(b"there")
        assert other.recv(10) == b"there"
        stack.neat("kill", name, "--stack", stack.name)
        other.sendall(b"back")
        assert one.recv(10) == b"back"
        one.close()
    until(lambda: "1 received" in stack.neat("ping", "--stack", stack.name, address, "--count", 1), 10)


def test_others_get_nowhere(stack: Stack) -> None:
    with pytest.raises(OSError, match="unreachable"):
        Puppet(stack.programs).connect("10.80.0.1", 80)
    with pytest.raises(OSError, match="No route|unreachable"):  # by a neighbour that is not there
        Puppet(stack.programs).connect("192.0.2.7", 80)


def test_status_tells(stack: Stack) -> None:
    told = [route.replace(",", " ") for route in [*ROUTES[:2], "192.0.2.7/32,via 10.77.0.66"]]
    assert stack.status()["routes"] == told
    assert f"routes: {', '.join(told)}" in stack.neat("status", "--stack", stack.name)
