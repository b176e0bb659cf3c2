"""A replica as a process, against the kernel in a namespace, with a test in the place of the manager."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from neatstack import __version__
from neatstack.control import pages
from neatstack.control.neighbours import Neighbour, NeighbourTable, State
from neatstack.dataplane import inspect, version
from neatstack.dataplane.channel.create import create_channel
from neatstack.dataplane.channel.region import region_size
from neatstack.dataplane.driver.tap import open_queues
from neatstack.dataplane.launch import spawn_replica
from neatstack.experiment.netns import Lab, Namespace
from tests.support.layout import ReplicaPage

HOST, ADDRESS, NOBODY = "10.77.0.1", "10.77.0.2", 65534
MAC = bytes.fromhex("020000000002")


class Managed:
    """A replica and what its manager holds."""

    def __init__(self, host: Namespace, stack: contextlib.ExitStack, adopt: bool = True) -> None:
        def keep(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        self.host = host
        self.numbers = iter(range(1, 1000))
        (tap,) = open_queues("neat0", 1, f"/run/netns/{host.name}")
        keep(tap)
        host.ip("link", "set", "neat0", "up")
        host.ip("address", "add", f"{HOST}/24", "dev", "neat0")
        host.ip("neigh", "add", ADDRESS, "lladdr", MAC.hex(":"), "dev", "neat0")
        self.link, links = (stack.enter_context(s) for s in socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
        self.page = keep(pages.memory("replica", pages.REPLICA_PAGE_SIZE))
        stack_page = keep(pages.memory("stack", 4096))
        with mmap.mmap(stack_page, 4096) as memory:
            pages.StackPage(
                IPv4Address(ADDRESS), IPv4Address("255.255.255.0"), None, 1500, 1, 1, MAC, 1, 4096, (1, 1, 1)
            ).write(memory)
        neighbours = keep(pages.memory("neighbours", pages.NEIGHBOURS * pages.NEIGHBOUR_SIZE))
        self.neighbours = NeighbourTable(stack.enter_context(mmap.mmap(neighbours, 0)))
        self.region = keep(pages.memory("region", region_size(4096)))
        self.shared = {"stack_page": stack_page, "neighbours": neighbours}
        self.handed = (self.region, tap, keep(pages.doorbell()), self.page, links.fileno())
        self.stack = stack
        self.incarnation = 0
        self.start("fresh" if adopt else None)

    def start(self, how: str | None) -> None:
        """The next incarnation: a spare is handed the memory and the queue (None: it waits). `go` lets it serve."""
        self.control, theirs = (
            self.stack.enter_context(s) for s in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        )
        config = {"max_tcbs": 4096, "seccomp": True, "allow_faults": True}
        self.incarnation += 1
        descriptors = {"control": theirs.fileno(), **self.shared}
        self.pid, self.pidfd = spawn_replica(config, descriptors, NOBODY, NOBODY)
        self.stack.callback(os.close, self.pidfd)
        self.stack.callback(self.kill, self.pidfd)
        self.control.settimeout(5)
        theirs.close()
        assert json.loads(self.control.recv(1000)) == {"ready": True, "version": __version__}
        if how:
            assert self.ask("adopt", self.handed, replica=0, incarnation=self.incarnation, how=how) is None

    def go(self) -> dict:
        """Everything is told."""
        assert self.ask("run") is None
        return self.answer

    def kill(self, pidfd: int | None = None) -> None:
        pidfd = self.pidfd if pidfd is None else pidfd
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED)

    def ended(self, timeout: float = 2.0) -> int | None:
        """The exit status, negative for a signal; None: it runs."""
        if not select.select([self.pidfd], [], [], timeout)[0]:
            return None
        answer = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        return answer.si_status if answer.si_code == os.CLD_EXITED else -answer.si_status

    def ask(self, op: str, fds: tuple[int, ...] = (), **fields: object) -> str | None:
        """One request; None: done, else the error."""
        number = next(self.numbers)
        socket.send_fds(self.control, [json.dumps({"id": number, "op": op, **fields}).encode()], fds)
        while (answer := json.loads(self.control.recv(4096))).get("id") != number:
            assert "freed" in answer
        self.answer = answer
        return answer.get("error") if not answer.get("ok") else None

    def knows_host(self) -> None:
        mac = bytes.fromhex(self.host.run("cat", "/sys/class/net/neat0/address").strip().replace(":", ""))
        self.neighbours.put(Neighbour(IPv4Address(HOST).packed, mac, State.REACHABLE))

    def status(self, name: str) -> str:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(f"{name}:"))

    def cpu(self) -> int:
        """Times that it has been put on a processor."""
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[2])


@pytest.fixture
def replica(lab: Lab) -> Iterator[Managed]:
    with lab.scope(), contextlib.ExitStack() as stack:
        managed = Managed(lab.namespace("replica"), stack)
        managed.go()
        yield managed


def test_it_is_isolated(replica: Managed) -> None:
    assert replica.status("Uid").split() == [str(NOBODY)] * 4
    assert replica.status("Gid").split() == [str(NOBODY)] * 4
    assert replica.status("Groups") == ""
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(replica.status(kind), 16) == 0
    assert (replica.status("NoNewPrivs"), replica.status("Seccomp")) == ("1", "2")
    assert os.readlink(f"/proc/{replica.pid}/ns/net") != os.readlink("/proc/self/ns/net")
    interfaces = Path(f"/proc/{replica.pid}/net/dev").read_text().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]


def test_it_holds_no_descriptor_of_its_memory(replica: Managed) -> None:
    places = [os.readlink(entry) for entry in Path(f"/proc/{replica.pid}/fd").iterdir()]
    assert not [place for place in places if "memfd" in place]
    assert sum("tun" in place for place in places) == 1


def test_what_others_write_is_mapped_read_only(replica: Managed) -> None:
    maps = Path(f"/proc/{replica.pid}/maps").read_text().splitlines()
    shared = {line.split("memfd:neat-")[1].split()[0]: line.split()[1] for line in maps if "memfd:neat-" in line}
    assert shared == {"stack": "r--s", "neighbours": "r--s", "region": "rw-s", "replica": "rw-s"}


def test_it_is_small_and_sleeps(replica: Managed) -> None:
    assert int(replica.status("VmRSS").split()[0]) < 40 * 1024
    with replica.host.entered():
        Path("/proc/sys/net/ipv6/conf/neat0/disable_ipv6").write_text("1")
    before = replica.cpu()
    time.sleep(1)
    assert replica.cpu() - before <= 2
    with mmap.mmap(replica.page, 4096) as memory:
        assert ReplicaPage.from_buffer_copy(memory).sleep_seq % 2 == 1
        assert ReplicaPage.from_buffer_copy(memory).incarnation == 1


def test_it_refuses_and_accepts_the_kernels_connections(replica: Managed) -> None:
    replica.knows_host()
    with pytest.raises(ConnectionRefusedError):
        replica.host.connect(ADDRESS, 80)
    assert replica.ask("listen", listener=1, address="0.0.0.0", port=80, backlog=10) is None
    replica.host.connect(ADDRESS, 80).close()
    assert replica.ask("unlisten", listener=1) is None
    with pytest.raises(ConnectionRefusedError):
        replica.host.connect(ADDRESS, 80)


def test_it_asks_link_for_the_next_hop(replica: Managed) -> None:
    with replica.host.open_socket() as client:
        client.setblocking(False)
        client.connect_ex((ADDRESS, 80))
        replica.link.settimeout(2)
        assert replica.link.recv(32) == pages.wide(IPv4Address(HOST))


def test_channels_come_and_go(replica: Managed) -> None:
    channel, doorbell = create_channel(0, 5), pages.doorbell()
    try:
        assert replica.ask("channel", (channel, doorbell), channel=5, inherit=None) is None
        assert "channel 5" in replica.ask("channel", (channel, doorbell), channel=5, inherit=None)
        assert "neat-channel-0-5" in Path(f"/proc/{replica.pid}/maps").read_text()
        assert replica.ask("listen", listener=7, address=ADDRESS, port=80, backlog=10) is None
        assert replica.ask("grant", listener=7, channel=5) is None
        assert replica.ask("revoke", listener=7, channel=5) is None
        assert replica.ask("drop", channel=5) is None
        assert "neat-channel" not in Path(f"/proc/{replica.pid}/maps").read_text()
        assert replica.ask("drop", channel=5) is not None
    finally:
        os.close(channel)
        os.close(doorbell)


@pytest.mark.parametrize(
    ("op", "fields"),
    [
        ("nonsense", {}),
        ("listen", {"listener": 1}),
        ("listen", {"listener": 1, "address": "x", "port": 80, "backlog": 1}),
        ("grant", {"listener": 9, "channel": 9}),
        ("channel", {"channel": 3}),
    ],
)
def test_requests_that_cannot_be_are_answered_with_an_error(replica: Managed, op: str, fields: dict) -> None:
    assert replica.ask(op, **fields)
    assert replica.ask("page") is None


def test_it_stops_when_told(replica: Managed) -> None:
    assert replica.ask("stop") is None
    assert replica.ended() == 0


def queued(replica: Managed, count: int) -> None:
    """Put frames into the replica's queue: datagrams, which it only counts."""
    with replica.host.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(count):
            sender.sendto(b"x", (ADDRESS, 9))


def counter(replica: Managed, name: str) -> int:
    with mmap.mmap(replica.region, 0, prot=mmap.PROT_READ) as memory:
        return inspect.counters(memory)[name]


def slept_ns(replica: Managed) -> int:
    with mmap.mmap(replica.page, 4096, prot=mmap.PROT_READ) as memory:
        return ReplicaPage.from_buffer_copy(memory).slept_ns


@contextlib.contextmanager
def stopped(replica: Managed) -> Iterator[None]:
    signal.pidfd_send_signal(replica.pidfd, signal.SIGSTOP)
    try:
        yield
    finally:
        signal.pidfd_send_signal(replica.pidfd, signal.SIGCONT)


def test_it_settles_when_all_that_waited_is_taken(replica: Managed) -> None:
    before = counter(replica, "packets_in")
    with stopped(replica):
        queued(replica, 500)
        socket.send_fds(replica.control, [json.dumps({"id": 0, "op": "settle"}).encode()], [])
    assert json.loads(replica.control.recv(4096)) == {"id": 0, "settled": True, "ok": True}
    assert counter(replica, "packets_in") >= before + 500


def test_it_settles_though_frames_go_on_coming(replica: Managed) -> None:
    over = threading.Event()

    def flood() -> None:
        while not over.is_set():
            queued(replica, 100)

    flooder = threading.Thread(target=flood)
    flooder.start()
    try:
        for _ in range(10):
            began = time.monotonic()
            assert replica.ask("settle") is None
            assert time.monotonic() - began < 2
    finally:
        over.set()
        flooder.join()


def test_a_spare_and_one_that_does_not_serve_have_nothing_to_settle(lab: Lab) -> None:
    with lab.scope(), contextlib.ExitStack() as stack:
        spare = Managed(lab.namespace("settle"), stack, adopt=False)
        assert spare.ask("settle")
        assert spare.ask("adopt", spare.handed, replica=0, incarnation=1, how="fresh") is None
        assert spare.ask("settle")
        spare.go()
        assert spare.ask("settle") is None
        assert spare.answer["settled"]


def test_what_it_is_told_to_leave_loses_nothing(replica: Managed) -> None:
    """Frames wait when it is told, and more come until its successor serves; nobody sends anything again."""
    replica.knows_host()
    with replica.host.entered():  # no probes of the peer's (RFC 8985 section 7): those come after some milliseconds
        Path("/proc/sys/net/ipv4/tcp_early_retrans").write_text("0")
    replica.host.ip("route", "replace", "10.77.0.0/24", "dev", "neat0", "rto_min", "10s")  # nor timeouts
    listen = {"listener": 1, "address": "0.0.0.0", "port": 80, "backlog": 10}
    assert replica.ask("listen", **listen) is None
    with replica.host.connect(ADDRESS, 80) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(3):
            with stopped(replica):
                for _ in range(4):
                    client.sendall(b"before")
                socket.send_fds(replica.control, [json.dumps({"id": 0, "op": "stop"}).encode()], [])
            assert json.loads(replica.control.recv(4096)) == {"id": 0, "ok": True}
            assert replica.ended() == 0
            client.sendall(b"between")
            replica.start("adopt")
            assert replica.ask("listen", **listen) is None
            assert (replica.go()["adopted"], replica.answer["lost"]) == (1, 0)
        time.sleep(0.05)
        with mmap.mmap(replica.region, 0, prot=mmap.PROT_READ) as memory:
            [connection] = inspect.connections(memory)
        assert connection["bytes_in"] == 3 * (4 * len(b"before") + len(b"between"))
        retransmitted = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[100:104]  # tcpi_total_retrans
        assert retransmitted == bytes(4)
    assert counter(replica, "retransmits") == 0


@pytest.mark.parametrize("final", [False, True])
def test_who_is_gone_for_good_says_so_in_its_page(replica: Managed, final: bool) -> None:
    assert replica.ask("stop", final=final) is None
    assert replica.ended() == 0
    with mmap.mmap(replica.page, 4096) as memory:
        page = ReplicaPage.from_buffer_copy(memory)
    assert page.incarnation == (0 if final else 1)
    assert page.sleep_seq % 2 == 0, "nobody rings for it"
    replica.start("adopt")
    assert replica.go()["adopted"] == 0
    with mmap.mmap(replica.page, 4096) as memory:
        assert ReplicaPage.from_buffer_copy(memory).incarnation == 2


def test_it_counts_how_long_it_sleeps(replica: Managed) -> None:
    """Also while its page says that it sleeps it has not counted the sleep that is under way."""
    with replica.host.entered():
        Path("/proc/sys/net/ipv6/conf/neat0/disable_ipv6").write_text("1")
    queued(replica, 1)
    slept, began = slept_ns(replica), time.monotonic_ns()
    time.sleep(0.5)
    queued(replica, 1)
    time.sleep(0.1)
    assert replica.ask("page") is None
    slept = slept_ns(replica) - slept
    assert 0.4e9 < slept < time.monotonic_ns() - began + 0.1e9


def test_it_ends_with_its_stack(replica: Managed) -> None:
    replica.control.close()
    assert replica.ended() == 0


def test_ctrl_c_is_not_for_it(replica: Managed) -> None:
    signal.pidfd_send_signal(replica.pidfd, signal.SIGINT)
    assert replica.ended(0.1) is None
    assert replica.ask("page") is None


def test_a_spare_waits_without_anything(lab: Lab) -> None:
    """Isolated like a replica, but with no memory of any."""
    with lab.scope(), contextlib.ExitStack() as stack:
        spare = Managed(lab.namespace("spare"), stack, adopt=False)
        maps = Path(f"/proc/{spare.pid}/maps").read_text()
        assert "neat-region" not in maps and "neat-replica" not in maps
        assert spare.status("Name") == "neat-spare"
        assert (spare.status("NoNewPrivs"), spare.status("Seccomp")) == ("1", "2")
        for op in ("run", "channel", "listen", "fault"):
            assert spare.ask(op, channel=1) is not None
        assert spare.ask("page") is None


def test_a_spare_takes_only_what_can_be(lab: Lab) -> None:
    with lab.scope(), contextlib.ExitStack() as stack:
        spare = Managed(lab.namespace("spare"), stack, adopt=False)
        assert spare.ask("adopt", spare.handed, replica=0, incarnation=1, how="gladly")
        assert spare.ask("adopt", spare.handed[:2], replica=0, incarnation=1, how="adopt")
        too_small = pages.memory("region", 4096)
        stack.callback(os.close, too_small)
        assert spare.ask("adopt", (too_small, *spare.handed[1:]), replica=0, incarnation=1, how="adopt")
        assert spare.ask("adopt", spare.handed, replica=0, incarnation=1, how="adopt") is None
        assert spare.ask("adopt", spare.handed, replica=0, incarnation=1, how="adopt")
        spare.go()
        assert spare.ask("run")
        assert spare.status("Name") == "neat-replica-0"


def test_the_next_incarnation_adopts_connections(replica: Managed) -> None:
    """Established, held, with data; the kernel's end notices nothing."""
    replica.knows_host()
    assert replica.ask("listen", listener=1, address="0.0.0.0", port=80, backlog=10) is None
    with replica.host.connect(ADDRESS, 80) as one, replica.host.connect(ADDRESS, 80) as other:
        one.sendall(b"before")
        for death in range(3):
            replica.kill()
            replica.start("adopt")
            assert replica.ask("listen", listener=1, address="0.0.0.0", port=80, backlog=10) is None
            answer = replica.go()
            assert (answer["adopted"], answer["lost"]) == (2 + death, 0)  # those below wait to be accepted
            one.sendall(b"after %d" % death)
            replica.host.connect(ADDRESS, 80).close()
            for client in (one, other):
                client.setblocking(False)
                with pytest.raises(BlockingIOError):
                    client.recv(1)
                client.settimeout(5)


@pytest.mark.parametrize(("kind", "status"), [("segv", -signal.SIGSEGV), ("abort", -signal.SIGABRT), ("kill", -9)])
def test_faults_strike_when_a_connection_is_in_hand(replica: Managed, kind: str, status: int) -> None:
    """The one in hand is reset, another goes on."""
    replica.knows_host()
    listen = {"listener": 1, "address": "0.0.0.0", "port": 80, "backlog": 10}
    assert replica.ask("listen", **listen) is None
    with replica.host.connect(ADDRESS, 80) as victim, replica.host.connect(ADDRESS, 80) as other:
        assert replica.ask("settle") is None, "the last ACK of a handshake would be the one in hand"
        assert replica.ask("fault", kind=kind, seed=0) is None
        assert replica.ended(0.1) is None
        victim.sendall(b"x")
        assert replica.ended() == status
        replica.start("suspect")
        assert replica.ask("listen", **listen) is None
        assert (replica.go()["adopted"], replica.answer["lost"]) == (1, 1)
        victim.settimeout(5)
        with pytest.raises(ConnectionResetError):
            victim.recv(1)
        other.sendall(b"y")
        replica.host.connect(ADDRESS, 80).close()


def test_files_that_have_changed_are_not_run(lab: Lab, capfd: pytest.CaptureFixture) -> None:
    """They could not take over; but the stack may wait until they can."""
    pages_ = [pages.memory("page", 4096) for _ in range(2)]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        descriptors = {"control": theirs.fileno(), "stack_page": pages_[0], "neighbours": pages_[1]}
        for state, status in (({**version.state(), "region": 0}, 1), (version.state(), 0)):
            config = {"max_tcbs": 4096, "seccomp": True, "state": state}
            _, pidfd = spawn_replica(config, descriptors, NOBODY, NOBODY)
            if not status:
                assert json.loads(ours.recv(1000))["ready"]
                ours.send(b'{"op": "stop", "id": 1}')
            assert os.waitid(os.P_PIDFD, pidfd, os.WEXITED).si_status == status
            os.close(pidfd)
    for descriptor in pages_:
        os.close(descriptor)
    assert "files of neatstack have changed" in capfd.readouterr().err


def test_configuration_that_cannot_be_is_one_line(lab: Lab, capfd: pytest.CaptureFixture) -> None:
    region = pages.memory("region", 4096)
    try:
        config = {"max_tcbs": 4096, "seccomp": True}
        names = ("control", "stack_page", "neighbours")
        _, pidfd = spawn_replica(config, dict.fromkeys(names, region), NOBODY, NOBODY)
        assert os.waitid(os.P_PIDFD, pidfd, os.WEXITED).si_status == 1
        os.close(pidfd)
    finally:
        os.close(region)
    assert len(capfd.readouterr().err.splitlines()) == 1
