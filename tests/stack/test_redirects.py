"""The kernel as a gateway that is not on the best way, and says so (redirects)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neatstack.experiment.netns import Lab, Namespace, Stack, run
from tests.stack.test_ipv6_link import advertise
from tests.support.discovery import router
from tests.support.puppet import Puppet
from tests.support.traffic import until

FAR, FAR6 = "10.79.0.2", "fd79::2"


def forward(side: Namespace, value: str) -> None:
    with side.entered():
        for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            Path(f"/proc/sys/net/{name}").write_text(value)


@pytest.fixture(scope="module")
def stack(lab: Lab) -> Stack:
    """Its gateway sends packets to the far network back over the same link, to 10.77.0.9 and fe80::9."""
    config = "redirects = true\ndad_transmits = 0\n"
    options = ["--gateway", "10.77.0.1", "--address", "fd77::2/64", "--slaac"]
    made = lab.stack(config=config, options=options)
    host, better, far = made.host, lab.namespace("better"), lab.namespace("far")
    host.ip("link", "add", "br0", "type", "bridge")
    host.ip("link", "set", "br0", "addrgenmode", "none")
    host.ip("link", "set", made.device, "master", "br0")
    run(["ip", "link", "add", "veth1", "netns", host.name, "type", "veth", "peer", "veth1", "netns", better.name])
    host.ip("link", "set", "veth1", "master", "br0", "up")
    lab.veth(better, "10.79.0.9/24", far, f"{FAR}/24")
    for side, device, addresses in (
        (host, "br0", ["10.77.0.1/24", "fe80::1/64", "fd77::1/64"]),
        (better, "veth1", ["10.77.0.9/24", "fe80::9/64", "fd77::9/64"]),
        (better, "veth0", ["fd79::9/64"]), (far, "veth0", [f"{FAR6}/64"]),
    ):  # fmt: skip
        for address in addresses:
            side.ip("address", "add", address, "dev", device, *(["nodad"] if ":" in address else []))
        side.ip("link", "set", device, "up")
    host.ip("address", "flush", "dev", made.device)
    far.ip("route", "add", "default", "via", "10.79.0.9")
    far.ip("-6", "route", "add", "default", "via", "fd79::9")
    forward(better, "1")
    forward(host, "1")
    host.ip("route", "add", "10.79.0.0/24", "via", "10.77.0.9")
    host.ip("-6", "route", "add", "fd79::/64", "via", "fe80::9", "dev", "br0")
    mac = json.loads(host.ip("-j", "link", "show", "br0"))[0]["address"]
    advertise(host, "br0", router(mac=bytes.fromhex(mac.replace(":", ""))))
    made.far = far  # type: ignore[attr-defined]
    return made


@pytest.mark.rfc("1122:redirect", "4861:8.3-1")
def test_the_way_that_a_redirect_tells_is_taken(stack: Stack, port: int) -> None:
    far: Namespace = stack.far  # type: ignore[attr-defined]
    ways = {f"{FAR}/32 via 10.77.0.9", f"{FAR6}/128 via fe80::9"}
    clients, servers = [], []
    for address in (FAR, FAR6):
        listener = Puppet(far).listen(address, port)
        clients.append(Puppet(stack.programs).connect(address, port))
        servers.append(listener.accept())

    def told() -> bool:
        """Of a gateway that is not known yet only the second one is taken."""
        for client in clients:
            client.sendall(b"again")
        return ways <= set(stack.status()["learned_routes"])

    until(told, 10)
    forward(stack.host, "0")
    stack.neat("kill", "manager", "--stack", stack.name)
    for client, server in zip(clients, servers, strict=True):
        client.sendall(b"there")
        until(lambda server=server: b"there" in server.recv(100_000), 10)
    until(lambda: ways <= set(stack.status()["learned_routes"]), 10)
