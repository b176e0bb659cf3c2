"""The two sides that are compared: the same server on the kernel's stack and on ours, each with a client namespace."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from neatstack.experiment.netns import SOURCE, Lab, LabError, Namespace, Process, Side, Stack, descendants

HTTP, IPERF = 80, 5201
CPUCLOCK_SCHED = 2  # clock_getcpuclockid(3) builds the number of the clock from it and the process id
FILE = "file"  # 20 bytes: the paper's workload

LIGHTTPD = """
server.port = {port}
server.bind = "0.0.0.0"
server.document-root = "{root}"
server.max-keep-alive-requests = 65535
server.max-connections = 2048
server.max-fds = 8192
server.listen-backlog = 1024
"""


@dataclass(frozen=True)
class Cores:
    """Which cores the clients have, and which the server with everything beneath it, as taskset takes them."""

    client: str
    server: str

    @classmethod
    def choose(cls, client_share: float = 0.0) -> Cores:
        """One core each; with a share (of 1) for the clients, all cores, divided so."""
        usable = sorted(os.sched_getaffinity(0))
        if len(usable) < 2:
            raise LabError("the client and the server side need a core each; this machine offers one")
        if not client_share:
            return cls(str(usable[0]), str(usable[1]))
        clients = max(1, int(len(usable) * client_share))
        return cls(",".join(map(str, usable[:clients])), ",".join(map(str, usable[clients:])))

    @property
    def clients(self) -> int:
        """How many cores the clients have."""
        return self.client.count(",") + 1

    @property
    def servers(self) -> int:
        """How many the server side has."""
        return self.server.count(",") + 1


@dataclass
class Place:
    """One side, its servers running."""

    name: str
    client: Namespace
    server: Side
    cores: Cores
    http: Process
    stack: Stack | None = None

    @property
    def url(self) -> str:
        return f"http://{self.server.address}:{HTTP}/{FILE}"

    def run(self, *argv: object, timeout: float) -> str:
        """A client, on the clients' core."""
        return self.client.run(*argv, timeout=timeout, cpu=self.cores.client)

    def pids(self) -> list[int]:
        """Everything that is there to serve: the web server's processes, and the stack's."""
        return [*descendants(self.http.pid), *(self.stack.pids() if self.stack else [])]


def kernel(lab: Lab, cores: Cores, workers: int = 1, bulk: bool = True) -> Place:
    """Two namespaces joined by a veth pair."""
    client, server = lab.namespace("client"), lab.namespace("server")
    lab.veth(client, "10.78.0.1/24", server, "10.78.0.2/24")
    return serve(lab, "kernel", client, server, cores, None, bulk, workers)


def neat(
    lab: Lab,
    cores: Cores,
    replicas: int,
    bulk: bool = True,
    name: str = "neat",
    source: Path = SOURCE,
    workers: int = 1,
) -> Place:
    """A stack whose TAP interface has its other end in the client's namespace.

    `bulk`: with a server of iperf3. `source`: the directory of the build that it uses. `workers`: server processes.
    """
    stack = lab.stack(replicas=replicas, cpu=cores.server, source=source)
    return serve(lab, name, stack.host, stack.programs, cores, stack, bulk, workers)


def serve(
    lab: Lab,
    name: str,
    client: Namespace,
    server: Side,
    cores: Cores,
    stack: Stack | None = None,
    bulk: bool = True,
    workers: int = 1,
) -> Place:
    """Start the servers on the server side's core."""
    with client.entered():
        Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("1024 65535")
    http = server.spawn("lighttpd", "-D", "-f", configuration(lab, workers), cpu=cores.server)
    client.wait_port(server.address, HTTP, process=http)
    if bulk:
        iperf = server.spawn("iperf3", "-s", "-p", IPERF, cpu=cores.server)
        client.wait_port(server.address, IPERF, process=iperf)
    return Place(name, client, server, cores, http, stack)


def configuration(lab: Lab, workers: int) -> Path:
    """lighttpd's, the same for both sides; made once. With one worker there is no other process."""
    root, file = lab.directory / "www", lab.directory / f"lighttpd{workers}.conf"
    if not file.exists():
        root.mkdir(exist_ok=True)
        (root / FILE).write_bytes(b"twenty bytes, no more"[:20])
        more = f"server.max-worker = {workers}\n" if workers > 1 else ""
        file.write_text(LIGHTTPD.format(port=HTTP, root=root) + more)
    return file


def cpu_ns(pid: int) -> int:
    """Nanoseconds that a process has run: its CPU clock, which is finer than the ticks of /proc/PID/stat."""
    return time.clock_gettime_ns((~pid << 3) | CPUCLOCK_SCHED)
