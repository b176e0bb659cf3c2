"""Jumbo frames: an MTU of 9000 at both ends, and paths that are narrower than that, which say so or do not."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from neatstack.experiment.link import plain
from neatstack.experiment.netns import Lab, Namespace, Stack
from tests.peers.switches import SYSCTLS, Peers, exchange
from tests.support.puppet import Puppet, Remote, digest
from tests.support.trace import capturing, ended, fields

JUMBO, HEADERS, STAMPS = 9000, 40, 12
FAR, HOLE, ROUTER = "10.79.4.2", "10.79.4.3", "10.79.4.1"
SIDES = "stack", "kernel"
LENGTH = 400_000
ports = itertools.count(7000)


@dataclass
class Wide:
    """A stack with jumbo frames, a kernel beside it, and one behind a router."""

    stack: Stack
    far: Namespace
    near_peers: Peers
    far_peers: Peers

    def path(self, mtu: int) -> None:
        """What the router takes, each way; it tells of it."""
        for address, device in ((FAR, "veth0"), (self.stack.address, "neat0")):
            self.stack.host.ip("route", "replace", f"{address}/32", "dev", device, "mtu", mtu)


@pytest.fixture(scope="module")
def wide(lab: Lab) -> Iterator[Wide]:
    with lab.scope():
        stack = lab.stack(replicas=1, options=["--mtu", JUMBO, "--gateway", Stack.host_address])
        far = lab.namespace("far")
        lab.veth(stack.host, f"{ROUTER}/24", far, f"{FAR}/24")
        far.ip("route", "add", "default", "via", ROUTER)
        for place in (stack.host, far):
            place.ip("link", "set", "veth0", "mtu", JUMBO)
        stack.host.ip("link", "set", "neat0", "mtu", JUMBO)
        with stack.host.entered():
            (SYSCTLS / "ip_forward").write_text("1")
            plain("veth0")
        ours = Puppet(stack.programs)
        yield Wide(
            stack,
            far,
            Peers(ours, Puppet(stack.host), stack.address, stack.host_address),
            Peers(ours, Puppet(far), stack.address, FAR),
        )


def mss(end: Remote) -> int:
    return end.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)


@pytest.mark.parametrize("connects", SIDES)
def test_a_jumbo_path(wide: Wide, tmp_path: Path, connects: str) -> None:
    trace, port = tmp_path / "trace.pcapng", next(ports)
    with capturing(wide.stack, "-w", trace, "--buffer", 64, f"tcp port {port}") as process:
        ours, kernels = wide.near_peers.connected(connects, port)
        exchange(ours, kernels, LENGTH)
        ended(process)
    announced = fields(trace, "tcp.options.mss_val", only="tcp.flags.syn == 1")
    assert announced == [[str(JUMBO - HEADERS)]] * 2
    assert mss(ours) == mss(kernels) == JUMBO - HEADERS - STAMPS
    lengths = {int(length) for (length,) in fields(trace, "ip.len", only="tcp.len > 0")}
    assert max(lengths) == JUMBO


@pytest.mark.parametrize("connects", SIDES)
def test_a_narrower_path_is_told_of(wide: Wide, connects: str) -> None:
    """RFC 1191, to both ends, which have announced jumbo segments."""
    mtu = {"stack": 3000, "kernel": 1500}[connects]
    wide.path(mtu)
    ours, kernels = wide.far_peers.connected(connects, next(ports))
    exchange(ours, kernels, LENGTH)
    assert mss(ours) == mss(kernels) == mtu - HEADERS - STAMPS
    wide.path(JUMBO)


def test_a_black_hole(wide: Wide) -> None:
    """RFC 4821: the far side takes no jumbo frames though it announces them, and nobody says so."""
    wide.far.ip("address", "add", f"{HOLE}/24", "dev", "veth0")
    wide.far.ip("link", "set", "veth0", "mtu", 1500)
    wide.far.ip("route", "replace", "default", "via", ROUTER, "advmss", JUMBO - HEADERS)
    ours, kernels = replace(wide.far_peers, kernel_address=HOLE).connected("stack", next(ports))
    assert mss(ours) == JUMBO - HEADERS - STAMPS
    arriving = kernels.begin("receive_stream", LENGTH)
    ours.send_stream(1, LENGTH)
    assert arriving.result(20) == (LENGTH, digest(1, LENGTH))
    assert mss(ours) < 1500
