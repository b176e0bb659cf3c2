"""A manager's inside without a device: real requests and programs, replicas that only answer, a keeper in memory."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from neatstack.control import pages
from neatstack.control.ports import Binding, Ports
from neatstack.control.programs import ChannelShape, Program, Programs
from neatstack.control.replicas import Replicas, Slot
from neatstack.control.requests import REPLY, REQUEST, Op, RequestServer
from neatstack.control.store import Entry

OWN = IPv4Address("10.77.0.2")
SHAPE = ChannelShape(slots=3, sockets=64, receive_buffer=4096, send_buffer=4096)
PROGRAM = "import socket, sys, time\nm = socket.socket(socket.AF_UNIX); m.connect(sys.argv[2])\n"
PROGRAM += "while True:\n  s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect(sys.argv[1])\n"
PROGRAM += "  socket.send_fds(m, [b'x'], [s.fileno()]); s.close()\n  if not m.recv(1): break\n"
REPLICA = """
import json, socket, sys
control, log = socket.socket(fileno=int(sys.argv[1])), open(sys.argv[2], "a", buffering=1)
control.send(b'{"ready": true}')
while data := control.recv(65536):
    message = json.loads(data)
    log.write(data.decode() + "\\n")
    if message.get("listener") == 666:
        continue  # hangs
    control.send(json.dumps({"id": message["id"], "ok": True}).encode())
"""


class MemoryStore:
    """A keeper that lives in the test."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    def put(self, key: str, data: dict[str, Any], descriptors: list[int] | None = None) -> None:
        self.drop(key)
        self.entries[key] = Entry(json.loads(json.dumps(data)), [os.dup(number) for number in descriptors or []])

    def drop(self, key: str) -> None:
        for number in self.entries.pop(key, Entry({}, [])).descriptors:
            os.close(number)

    def keys(self, prefix: str) -> list[str]:
        return sorted(key for key in self.entries if key.startswith(prefix))


class Client:
    """A process that has connected to the stack, with the test holding the connection."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        meeting = stage.directory / f"meeting{next(stage.numbers)}"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(meeting))
        listener.listen()
        argv = [sys.executable, "-S", "-c", PROGRAM, str(stage.directory / "manager.sock"), str(meeting)]
        self.process = subprocess.Popen(argv)
        self.meeting, _ = listener.accept()
        listener.close()
        self.connection = self._take()
        self.channel = self.token = 0
        self.descriptors: list[int] = []
        stage.clients.append(self)

    def _take(self) -> socket.socket:
        _, (descriptor,), _, _ = socket.recv_fds(self.meeting, 1, 1)
        taken = socket.socket(fileno=descriptor)
        taken.setblocking(False)
        return taken

    def reconnect(self) -> None:
        """One more connection of the same process."""
        self.connection.close()
        self.meeting.send(b"x")
        self.connection = self._take()

    async def raw(self, data: bytes) -> tuple[tuple[Any, ...], list[int]]:
        """Send bytes; the fields of the reply and its descriptors. Raises ConnectionError when cut off."""
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self.connection, data)
        arrived = asyncio.Event()
        loop.add_reader(self.connection, arrived.set)
        try:
            await asyncio.wait_for(arrived.wait(), 10)
        finally:
            loop.remove_reader(self.connection)
        answer, descriptors, _, _ = socket.recv_fds(self.connection, 100, 60)
        if not answer:
            raise ConnectionError
        return REPLY.unpack(answer), list(descriptors)

    async def ask(
        self, op: int, *, channel: int | None = None, token: int | None = None, binding: int = 0,
        address: str = "0.0.0.0", port: int = 0, flags: int = 0, backlog: int = 0,
    ) -> dict[str, Any]:  # fmt: skip
        channel = self.channel if channel is None else channel
        token = self.token if token is None else token
        packed = REQUEST.pack(
            pages.MAGIC, op, channel, binding, token,
            pages.as_be(IPv4Address(address)), port.to_bytes(2, "big"), flags, backlog,
        )  # fmt: skip
        (magic, error, channel, binding, token, _, port_be, replicas), descriptors = await self.raw(packed)
        assert magic == pages.MAGIC
        return {
            "error": error, "channel": channel, "binding": binding, "token": token,
            "port": int.from_bytes(port_be, "big"), "replicas": replicas, "descriptors": descriptors,
        }  # fmt: skip

    async def hello(self) -> dict[str, Any]:
        reply = await self.ask(Op.HELLO)
        assert reply["error"] == 0
        self.channel, self.token, self.descriptors = reply["channel"], reply["token"], reply["descriptors"]
        return reply

    async def listen(self, port: int, **options: Any) -> int:
        bound = await self.ask(Op.BIND, port=port, **options)
        assert bound["error"] == 0
        assert (await self.ask(Op.LISTEN, binding=bound["binding"], backlog=128))["error"] == 0
        return int(bound["binding"])

    def die(self) -> None:
        self.process.kill()
        self.process.wait()
        self.connection.close()

    def close(self) -> None:
        self.die()
        self.meeting.close()
        for descriptor in self.descriptors:
            os.close(descriptor)


class Stage:
    """The parts of a manager, joined as the manager joins them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = MemoryStore()
        self.clients: list[Client] = []
        self.numbers = itertools.count()
        self.slots = [Slot.create(number, 4096) for number in range(SHAPE.slots)]
        self.page = pages.memory("stack", 4096)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(directory / "manager.sock"))
        self.listener.listen(64)
        self.join([])

    def join(self, bindings: list[Binding]) -> None:
        store: Any = self.store
        self.replicas = Replicas(store, self.slots, 4096, self.spawn, lambda slot: self.programs.contents(slot))
        self.programs = Programs(store, self.replicas, Ports(OWN, bindings), SHAPE)
        self.server = RequestServer(self.listener, self.programs, self.page, 4096)

    def spawn(self, slot: Slot) -> tuple[int, int, socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        argv = [sys.executable, "-S", "-c", REPLICA, str(theirs.fileno()), str(self.log(slot.number))]
        process = subprocess.Popen(argv, pass_fds=[theirs.fileno()])
        process.returncode = 0  # the manager waits for it
        theirs.close()
        return process.pid, os.pidfd_open(process.pid), ours

    def log(self, slot: int) -> Path:
        return self.directory / f"replica{slot}"

    def told(self, slot: int, op: str) -> list[dict[str, Any]]:
        """What replica `slot` was told with `op`, all incarnations."""
        messages = [json.loads(line) for line in self.log(slot).read_text().splitlines()]
        return [message for message in messages if message["op"] == op]

    async def restart_manager(self) -> None:
        """Forget everything but the keeper, as after the manager's death."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self.listener)
        for program in self.programs:
            if program.pidfd >= 0:
                loop.remove_reader(program.pidfd)
            if program.expiry:
                program.expiry.cancel()
        for slot in self.slots:
            if slot.line:
                loop.remove_reader(slot.pidfd)
                slot.line.close()
                slot.line = None
        for client in self.clients:
            client.connection.close()
        await asyncio.sleep(0.05)  # connections end
        taken = {key: Entry(e.data, [os.dup(n) for n in e.descriptors]) for key, e in self.store.entries.items()}
        self.join([Binding.from_data(e.data) for key, e in taken.items() if key.startswith("binding.")])
        for slot in self.slots:
            if process := taken.get(f"process.{slot.number}"):
                self.replicas.adopt(slot.number, process)
        for key, entry in taken.items():
            if key.startswith("channel."):
                self.programs.adopt(Program.from_entry(entry))

    async def until(self, true: Callable[[], Any]) -> None:
        """Wait, at most 10 s."""
        async with asyncio.timeout(10):
            while not true():
                await asyncio.sleep(0.01)

    def close(self) -> None:
        self.replicas.active.clear()
        for client in self.clients:
            client.close()
        for slot in self.slots:
            if slot.pidfd >= 0:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(slot.pidfd, signal.SIGKILL)
        self.listener.close()


def on_stage(directory: Path, play: Callable[[Stage], Awaitable[None]]) -> None:
    """Run `play` with a stack of two replicas out of three."""

    async def run() -> None:
        stage = Stage(directory)
        try:
            await stage.replicas.start([0, 1])
            await play(stage)
        finally:
            stage.close()
            await asyncio.sleep(0.05)

    asyncio.run(run())
