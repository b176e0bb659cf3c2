"""Paths whose MTU is smaller than the device's, to a kernel behind a router that tells of it, or does not."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from neatstack.experiment.link import plain
from neatstack.experiment.netns import Lab, Namespace, Stack
from tests.support.puppet import Puppet

FAR, ROUTER, PORT = "10.79.3.2", "10.79.3.1", 7000
SMALL = 1000


@pytest.fixture(scope="module")
def behind(lab: Lab) -> Iterator[tuple[Stack, Namespace]]:
    """A stack, and a namespace that it reaches through its host."""
    with lab.scope():
        stack = lab.stack(replicas=2, options=["--gateway", Stack.host_address])
        far = lab.namespace("far")
        lab.veth(stack.host, f"{ROUTER}/24", far, f"{FAR}/24")
        far.ip("route", "add", "default", "via", ROUTER)
        with stack.host.entered():
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            plain("veth0")
        yield stack, far


def transfer(stack: Stack, far: Namespace, port: int) -> tuple[int, int]:
    """The stack sends to the kernel over the path: how many bytes have arrived, and the segments' size in the end."""
    receiver, sender = Puppet(far), Puppet(stack.programs)
    listener = receiver.listen(FAR, port)
    client = sender.connect(FAR, port)
    server = listener.accept()
    arriving = server.begin("receive_stream", 200_000)
    client.send_stream(1, 200_000)
    return arriving.result(60)[0], client.getsockopt(6, 2)  # TCP_MAXSEG


def total(stack: Stack, counter: str) -> int:
    return sum(replica["counters"][counter] for replica in stack.replicas())


def test_a_router_cuts(behind: tuple[Stack, Namespace]) -> None:
    """A peer without path MTU discovery: its segments come in fragments, which go where the connection is."""
    stack, far = behind
    with far.entered():
        Path("/proc/sys/net/ipv4/ip_no_pmtu_disc").write_text("1")
    stack.host.ip("link", "set", "neat0", "mtu", SMALL)
    receiver, sender = Puppet(stack.programs), Puppet(far)
    for port in range(PORT + 10, PORT + 14):
        listener = receiver.listen("0.0.0.0", port)
        client = sender.connect(stack.address, port)
        arriving = listener.accept().begin("receive_stream", 100_000)
        client.send_stream(1, 100_000)
        assert arriving.result(60)[0] == 100_000
    assert total(stack, "reassembled") >= 4 * 60
    assert total(stack, "drop_reassembly_time") == total(stack, "drop_moved") == 0
    stack.host.ip("link", "set", "neat0", "mtu", 1500)
    with far.entered():
        Path("/proc/sys/net/ipv4/ip_no_pmtu_disc").write_text("0")


@pytest.mark.rfc("1191:3b")
def test_a_router_tells(behind: tuple[Stack, Namespace]) -> None:
    """RFC 1191."""
    stack, far = behind
    stack.host.ip("link", "set", "veth0", "mtu", SMALL)
    received, mss = transfer(stack, far, PORT)
    assert received == 200_000
    assert mss <= SMALL - 40
    assert total(stack, "drop_icmp") == 0
    stack.host.ip("link", "set", "veth0", "mtu", 1500)


def test_a_black_hole(behind: tuple[Stack, Namespace]) -> None:
    """RFC 4821: the far end of the link takes no large frames, and nobody says so."""
    stack, far = behind
    far.ip("link", "set", "veth0", "mtu", SMALL)
    far.ip("route", "replace", "default", "via", ROUTER, "advmss", "1460")
    received, _ = transfer(stack, far, PORT + 1)
    assert received == 200_000


SEND = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], int(sys.argv[2])))
print(s.getsockopt(0, 10), s.getsockopt(0, 14))  # IP_MTU_DISCOVER, IP_MTU
for _ in range(50):
    try:
        s.send(bytes(1400))
    except OSError as error:
        print(error.errno)
    if s.getsockopt(0, 14) < 1500:
        break
    time.sleep(0.02)
print(s.getsockopt(0, 14))
time.sleep(0.1)
s.getsockopt(1, 4)  # SO_ERROR
s.send(bytes(5000))
s.setsockopt(0, 10, 2)
try:
    s.send(bytes(1400))
except OSError as error:
    print(error.errno)
"""


RECEIVE = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], int(sys.argv[2])))
s.settimeout(9)
while len(s.recv(9999)) != 5000:
    pass
"""


def test_a_router_tells_of_datagrams(behind: tuple[Stack, Namespace]) -> None:
    """IP_MTU follows, larger ones go in smaller fragments, or are refused."""
    stack, far = behind
    stack.host.ip("link", "set", "veth0", "mtu", SMALL)
    receiver = far.spawn(sys.executable, "-c", RECEIVE, FAR, PORT + 20)
    time.sleep(0.3)
    told = stack.programs.run(sys.executable, "-c", SEND, FAR, PORT + 20).split()
    assert receiver.wait(10) == 0, receiver.output
    stack.host.ip("link", "set", "veth0", "mtu", 1500)
    assert told[0] == "1" and told[1] in ("1500", "1000"), "what a replica has heard of TCP holds here too"
    assert told[-2:] == ["1000", "90"], told


ASK = """
import json, socket, struct, sys
name = sys.argv[1], int(sys.argv[2])
told = []
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.setsockopt(0, 10, 2)  # IP_MTU_DISCOVER: IP_PMTUDISC_DO
    s.setsockopt(0, 11, 1)  # IP_RECVERR
    for size in (972, 973, 1400):
        try:
            told.append(s.sendto(bytes(size), name))
        except OSError as error:
            told.append(error.errno)
        try:
            data, [(_, _, control)], flags, source = s.recvmsg(2000, 200, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
            told.append([len(data), struct.unpack("IBBBxII", control[:16]), any(control[16:]), flags, source == name])
        except BlockingIOError:
            told.append(None)
    s.setsockopt(0, 11, 0)
    s.setsockopt(0, 10, 3)  # IP_PMTUDISC_PROBE: as long as the device takes
    told.append(s.sendto(bytes(1472), name))
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    with socket.socket(socket.AF_INET, kind) as s:
        s.connect((name[0], name[1] + 1))
        told.append(s.getsockopt(0, 14))  # IP_MTU
print(json.dumps(told))
"""


def test_who_is_not_connected_is_told_as_on_the_kernel(behind: tuple[Stack, Namespace]) -> None:
    """Of a path that was heard of before: EMSGSIZE, and what it carries; IP_MTU says the same."""
    stack, far = behind
    stack.host.ip("link", "set", "veth0", "mtu", SMALL)
    with far.entered():
        listener = socket.create_server((FAR, PORT + 31))
        sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sink.bind((FAR, PORT + 30))
    receiver = far.spawn(sys.executable, "-c", RECEIVE, FAR, PORT + 20)
    stack.programs.run(sys.executable, "-c", SEND, FAR, PORT + 20)
    told = stack.programs.run(sys.executable, "-c", ASK, FAR, PORT + 30)
    stack.host.ip("link", "set", "veth0", "mtu", 1500)
    stack.host.ip("route", "add", FAR, "dev", "veth0", "mtu", SMALL)
    assert json.loads(told) == json.loads(stack.host.run(sys.executable, "-c", ASK, FAR, PORT + 30))
    stack.host.ip("route", "delete", FAR)
    receiver.stop()
    listener.close()
    sink.close()
