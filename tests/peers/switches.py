"""Connections between the stack and a kernel whose switches are set as a test wants, and what the kernel counts."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from neatstack.experiment.netns import Namespace
from tests.conftest import every
from tests.support.puppet import Puppet, Remote, digest

SYSCTLS = Path("/proc/sys/net/ipv4")


@contextmanager
def switched(kernel: Namespace, settings: Mapping[str, object]) -> Iterator[None]:
    """Sysctls of net.ipv4 in a namespace, as they were afterwards."""
    with kernel.entered():
        before = {name: (SYSCTLS / name).read_text() for name in settings}
        for name, value in settings.items():
            (SYSCTLS / name).write_text(str(value))
    try:
        yield
    finally:
        with kernel.entered():
            for name, text in before.items():
                (SYSCTLS / name).write_text(text)


def counted(kernel: Namespace) -> dict[str, int]:
    """What the kernel has counted in a namespace of IP and TCP (`nstat`)."""
    with kernel.entered():
        found = {name: int(value) for name, value in map(str.split, read("snmp6"))}
        for file, protocol in (("netstat", "IpExt:"), ("netstat", "TcpExt:"), ("snmp", "Tcp:")):
            names, values = (line.split()[1:] for line in read(file) if line.startswith(protocol))
            found |= dict(zip(names, map(int, values), strict=True))
    return found


def read(file: str) -> list[str]:
    return Path("/proc/thread-self/net", file).read_text().splitlines()


@dataclass
class Peers:
    """A process on the stack and one on the kernel, that connect either way."""

    stack: Puppet
    kernel: Puppet
    stack_address: str
    kernel_address: str

    def connected(self, connects: str, port: int, text: bytes = b"", source: int = 0) -> tuple[Remote, Remote]:
        """A connection that `connects`, stack or kernel, opens: the stack's end and the kernel's.

        `text` is sent with the SYN, if that may be; `source` is the port to connect from.
        """
        opener, server = (self.stack, self.kernel) if connects == "stack" else (self.kernel, self.stack)
        address = self.kernel_address if connects == "stack" else self.stack_address
        listener = server.listen(every(address), port)
        if text:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)
        client = opener.socket(address)
        if source:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.bind((every(address), source))
        try:
            client.sendto(text, socket.MSG_FASTOPEN, (address, port)) if text else client.connect((address, port))
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            client.connect((address, port))
            client.sendall(text)
        accepted = listener.accept()
        listener.close()
        return (client, accepted) if connects == "stack" else (accepted, client)


def exchange(stack: Remote, kernel: Remote, length: int, timeout: float = 20) -> None:
    """`length` bytes each way at the same time, compared by their hash."""
    ends = stack, kernel
    sending = [end.begin("send_stream", seed, length) for seed, end in enumerate(ends)]
    receiving = [end.begin("receive_stream", length) for end in reversed(ends)]
    for seed, received in enumerate(receiving):
        assert received.result(timeout) == (length, digest(seed, length))
    for sent in sending:
        assert sent.result(timeout) == length
