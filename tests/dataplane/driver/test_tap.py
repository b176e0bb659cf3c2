"""The TAP driver against the kernel at the other end, in a namespace."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from neatstack.dataplane.driver.steer import Steering, bucket, choose_keys, even_table
from neatstack.dataplane.driver.tap import Queue, open_queues
from neatstack.experiment.netns import Lab, Namespace
from tests.dataplane.driver.frames import CLIENT, SERVER, ethernet, ipv4, pseudo, tcp

MAC = bytes.fromhex("020000000002")
SYN, ACK, PSH, CWR = 2, 16, 8, 128
GSO_TCPV4, GSO_ECN = 1, 128  # of virtio-net


@pytest.fixture
def host(lab: Lab) -> Iterator[Namespace]:
    with lab.scope():
        yield lab.namespace("tap")


@contextlib.contextmanager
def opened(host: Namespace, count: int) -> Iterator[list[int]]:
    """A TAP with its address on the kernel's side, and a neighbour entry for ours. No multicast chatter."""
    queues = open_queues("neat0", count, f"/run/netns/{host.name}")
    try:
        host.ip("link", "set", "neat0", "addrgenmode", "none", "multicast", "off", "up")
        host.ip("address", "add", f"{CLIENT}/24", "dev", "neat0")
        host.ip("neigh", "add", SERVER, "lladdr", MAC.hex(":"), "dev", "neat0")
        yield queues
    finally:
        for fd in queues:
            os.close(fd)


def host_mac(host: Namespace) -> bytes:
    return bytes.fromhex(host.run("cat", "/sys/class/net/neat0/address").strip().replace(":", ""))


def segments(queue: Queue, fd: int, timeout: float = 2.0) -> list[tuple[bytes, bool]]:
    """The frames with TCP over IPv4 that come next; the kernel sends others of its own accord."""
    end = time.monotonic() + timeout
    while select.select([fd], [], [], max(0, end - time.monotonic()))[0]:
        if found := [item for item in queue.receive() if item[0][12:14] == b"\x08\0" and item[0][23] == 6]:
            return found
    raise TimeoutError("no segment came")


def test_queues_are_the_kernels_and_go_with_their_descriptors(host: Namespace) -> None:
    with opened(host, 3) as queues:
        assert "numqueues 3" in host.run("ip", "-d", "link", "show", "neat0")
        assert not any(os.get_blocking(fd) or os.get_inheritable(fd) for fd in queues)
        with pytest.raises(OSError, match="an interface of that name exists already"):
            open_queues("neat0", 1, f"/run/netns/{host.name}")
    assert "neat0" not in host.ip("link")


@pytest.mark.parametrize(
    ("name", "netns", "text"),
    [
        ("x" * 16, None, "no name for an interface"),
        ("", None, "no name"),
        ("neat0", "/run/netns/none", "no network name"),
    ],
)
def test_bad_names(name: str, netns: str | None, text: str) -> None:
    with pytest.raises(OSError, match=text):
        open_queues(name, 1, netns)


def test_flows_arrive_on_the_queue_of_their_hash(host: Namespace) -> None:
    keys = choose_keys(2)
    steering = Steering.load()
    try:
        steering.configure(keys, [SERVER], 2)
        steering.set_table(even_table([0, 1]))
        with opened(host, 3) as fds, host.entered(), contextlib.ExitStack() as sockets:
            steering.attach(fds[0])
            queues = [Queue(fd) for fd in fds]
            expected: list[set[int]] = [set(), set(), set()]
            for _ in range(40):
                sender = sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                sender.sendto(b"hello", (SERVER, 80))
                port = sender.getsockname()[1]
                expected[bucket(keys, CLIENT, port, SERVER, 80) % 2].add(port)
            arrived = [
                {struct.unpack_from("!H", frame, 34)[0] for frame, _ in queue.receive() if frame[12:14] == b"\x08\0"}
                for queue in queues
            ]
            assert arrived == expected
    finally:
        steering.close()


def test_connections_that_begin_while_their_bucket_moves_are_pinned_to_its_next_owner(host: Namespace) -> None:
    """By the program itself, as the kernel sends their SYNs; an older one keeps its owner."""
    steering = Steering.load()
    try:
        steering.configure(choose_keys(2), [SERVER], 2)
        steering.set_table([0] * 256)
        with opened(host, 3) as fds, host.entered(), contextlib.ExitStack() as sockets:
            steering.attach(fds[0])
            queues = [Queue(fd) for fd in fds]

            def syn() -> int:
                client = sockets.enter_context(socket.socket())
                client.setblocking(False)
                client.connect_ex((SERVER, 80))
                return client.getsockname()[1]

            def arrived(queue: Queue) -> set[int]:
                frames = [frame for frame, _ in queue.receive() if frame[12:14] == b"\x08\0"]
                return {struct.unpack_from("!H", frame, 34)[0] for frame in frames}

            old = {syn() for _ in range(20)}
            assert arrived(queues[0]) == old
            steering.mark_moving(dict.fromkeys(range(256), 1))
            steering.synchronize()
            new = {syn() for _ in range(20)}
            assert (arrived(queues[0]), arrived(queues[1])) == (set(), new)
            assert {flow.source_port for flow, replica in steering.pins().items() if replica == 1} == new
    finally:
        steering.close()


def test_offload_both_ways(host: Namespace) -> None:
    """A TCP connection by hand: the kernel hands us a segment larger than the MTU, and takes one from us."""
    with opened(host, 1) as (fd,), host.entered(), socket.create_server((CLIENT, 5000)) as listener:
        queue, mac = Queue(fd), host_mac(host)

        def send(sequence: int, ack: int, flags: int, *payload: bytes, gso_size: int = 0) -> None:
            text = b"".join(payload)
            packet = ipv4(tcp(40000, 5000, sequence, ack, flags, text), source=SERVER, to=CLIENT)
            header = ethernet(packet, source=MAC, to=mac)[:54]
            total = pseudo(SERVER, CLIENT, 20 + len(text))
            header = header[:50] + struct.pack("!H", total) + header[52:]
            assert queue.send(header, (*payload, b"", b"")[:2], gso_size) == 0

        send(1000, 0, SYN)
        ((syn_ack, checked),) = segments(queue, fd)
        assert checked and syn_ack[47] == SYN | ACK
        theirs = struct.unpack_from("!I", syn_ack, 38)[0] + 1
        send(1001, theirs, ACK)
        text = os.urandom(20000)
        send(1001, theirs, ACK | PSH, text[:7000], text[7000:], gso_size=1460)
        with listener.accept()[0] as connection:
            connection.settimeout(2)
            received = b""
            while len(received) < len(text):
                received += connection.recv(30000)
            assert received == text
            connection.sendall(bytes(8000))
            sizes: list[int] = []
            while max(sizes, default=0) < 2000:
                sizes += [len(frame) for frame, checked in segments(queue, fd) if checked]


@pytest.mark.parametrize("flags", [ACK, ACK | CWR])
def test_only_the_first_of_the_segments_says_that_the_window_was_reduced(flags: int) -> None:
    """RFC 3168 section 6.1.2: CWR is said once. Who cuts the segment is told so, and does it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        text = bytes(4000)
        packet = ipv4(tcp(40000, 5000, 1, 1, flags, text), source=SERVER, to=CLIENT)
        assert Queue(ours.fileno()).send(ethernet(packet, source=MAC, to=bytes(6))[:54], (text, b""), 1460) == 0
        kind = theirs.recv(65536)[1]
        assert kind == GSO_TCPV4 | (GSO_ECN if flags & CWR else 0)


def test_malformed_virtio_header_is_counted(host: Namespace) -> None:
    """From a socket instead of a TAP: the driver does not care what its descriptor is."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        queue = Queue(ours.fileno())
        frame = ethernet(bytes(46))
        good = struct.pack("=BBHHHH", 0, 0, 0, 0, 0, 0)
        bad = [
            b"",
            good,
            good + frame[:13],
            struct.pack("=BBHHHH", 1, 0, 0, 0, 50, 16) + frame,
            struct.pack("=BBHHHH", 1, 0, 0, 0, 0xFFFF, 0xFFFF) + frame,
            struct.pack("=BBHHHH", 0, 1, 0, 0, 0, 0) + frame,
            struct.pack("=BBHHHH", 0, 9, 0, 100, 0, 0) + frame,
        ]
        for data in bad[1:]:
            theirs.send(data)
        theirs.send(good + frame)
        assert queue.receive() == [(frame, False)]
        assert queue.malformed == len(bad) - 1
