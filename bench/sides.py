"""The two sides that are compared: the same server on the kernel's stack and on ours, each with a client namespace."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from neatstack.experiment.netns import SOURCE, Lab, LabError, Namespace, Process, Side, Stack

HTTP, IPERF = 80, 5201
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


@dataclass
class Cores:
    """Which core the clients have, and which the server with everything beneath it."""

    client: int
    server: int

    @classmethod
    def choose(cls) -> Cores:
        usable = sorted(os.sched_getaffinity(0))
        if len(usable) < 2:
            raise LabError("the client and the server side need a core each; this machine offers one")
        return cls(usable[0], usable[1])


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
        """Everything that is there to serve: the web server's process, and the stack's."""
        return [self.http.pid, *(self.stack.pids() if self.stack else [])]


def kernel(lab: Lab, cores: Cores) -> Place:
    """Two namespaces joined by a veth pair."""
    client, server = lab.namespace("client"), lab.namespace("server")
    lab.veth(client, "10.78.0.1/24", server, "10.78.0.2/24")
    return serve(lab, "kernel", client, server, cores)


def neat(lab: Lab, cores: Cores, replicas: int, bulk: bool = True, name: str = "neat", source: Path = SOURCE) -> Place:
    """A stack whose TAP interface has its other end in the client's namespace.

    `bulk`: with a server of iperf3. `source`: the directory of the build that it uses.
    """
    stack = lab.stack(replicas=replicas, cpu=cores.server, source=source)
    return serve(lab, name, stack.host, stack.programs, cores, stack, bulk)


def serve(
    lab: Lab, name: str, client: Namespace, server: Side, cores: Cores, stack: Stack | None = None, bulk: bool = True
) -> Place:
    """Start the servers on the server side's core."""
    with client.entered():
        Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("1024 65535")
    http = server.spawn("lighttpd", "-D", "-f", configuration(lab), cpu=cores.server)
    client.wait_port(server.address, HTTP, process=http)
    if bulk:
        iperf = server.spawn("iperf3", "-s", "-p", IPERF, cpu=cores.server)
        client.wait_port(server.address, IPERF, process=iperf)
    return Place(name, client, server, cores, http, stack)


def configuration(lab: Lab) -> Path:
    """lighttpd's, the same for both sides; made once."""
    root, file = lab.directory / "www", lab.directory / "lighttpd.conf"
    if not file.exists():
        root.mkdir()
        (root / FILE).write_bytes(b"twenty bytes, no more"[:20])
        file.write_text(LIGHTTPD.format(port=HTTP, root=root))
    return file
