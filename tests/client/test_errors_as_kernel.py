"""What the socket of a connection hears of ICMP errors (IP_RECVERR) is what it would hear on the kernel."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neatstack.experiment.netns import Lab, Namespace, Stack
from tests.client import errors_table

FAR, PORT = "10.79.4.2", 7000
TUNSETIFF, IFF_TAP_NO_PI = 0x400454CA, 0x1002
ECHO = """
import asyncio, sys
async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()
async def main():
    async with await asyncio.start_server(echo, sys.argv[1], int(sys.argv[2])) as server:
        await server.serve_forever()
asyncio.run(main())
"""


@contextlib.contextmanager
def wire(one: Namespace, address: str, other: Namespace, other_address: str) -> Iterator[None]:
    """A link that takes its time.

    Over a veth an error comes back before send() has returned, when Linux only keeps it for later.
    """
    ends = []
    for side, own in (one, address), (other, other_address):
        with side.entered():
            ends.append(os.open("/dev/net/tun", os.O_RDWR))
            fcntl.ioctl(ends[-1], TUNSETIFF, struct.pack("16sH22x", b"wire0", IFF_TAP_NO_PI))
        side.ip("address", "add", own, "dev", "wire0")
        side.ip("link", "set", "wire0", "up")
    stop, stopped = os.pipe()

    def carry() -> None:
        while stop not in (ready := select.select([*ends, stop], [], [])[0]):
            for end in ready:
                os.write(ends[end == ends[0]], os.read(end, 65536))

    thread = threading.Thread(target=carry)
    thread.start()
    try:
        yield
    finally:
        os.close(stopped)
        thread.join()
        for end in (*ends, stop):
            os.close(end)


@pytest.fixture(scope="module")
def told(lab: Lab) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """What the script says on the stack, and on the kernel; their way to the server is by the stack's host."""
    with lab.scope():
        stack = lab.stack(options=["--gateway", Stack.host_address])
        far, kernel = lab.namespace("far"), lab.namespace("kernel")
        lab.veth(stack.host, "10.79.4.1/24", far, f"{FAR}/24")
        far.ip("route", "add", "default", "via", "10.79.4.1")
        with stack.host.entered():
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            Path("/proc/sys/net/ipv4/icmp_ratelimit").write_text("0")
        server = far.spawn(sys.executable, "-c", ECHO, FAR, PORT)
        far.wait_port(FAR, PORT, process=server)
        with wire(stack.host, "10.79.5.1/24", kernel, "10.79.5.2/24"):
            kernel.ip("route", "add", "default", "via", "10.79.5.1")
            script = [sys.executable, "-m", errors_table.__name__, FAR, PORT]
            found, expected = (json.loads(side.run(*script)) for side in (stack.programs, kernel))
        yield found, expected


@pytest.mark.rfc("9293:MUST-47", "9293:SHLD-20", "9293:SHLD-25")
@pytest.mark.parametrize("script", errors_table.SCRIPTS)
def test_each_step_is_the_kernels(told: tuple[dict[str, Any], dict[str, Any]], script: str) -> None:
    found, expected = told
    assert found[script] == expected[script]
