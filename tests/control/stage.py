"""A manager's inside without a device: real requests and programs, replicas that only answer, a keeper in memory."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
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

from neatstack.control import launch, pages
from neatstack.control.code import Code
from neatstack.control.ports import Binding, ListenOptions, Ports
from neatstack.control.programs import ChannelShape, Programs
from neatstack.control.replicas import Replicas
from neatstack.control.requests import REPLY, REQUEST, Op, RequestServer
from neatstack.control.slots import Slot
from neatstack.control.store import Entry

OWN = IPv4Address("10.77.0.2")
NO_OPTIONS = *dataclasses.astuple(ListenOptions())[:-4], 0, 0, 0, bytes(32), 0, 0, 0, 0  # and no key
CODE = Code("1.0", {"layout": 2, "protocol": 1, "region": 2, "sizes": {}}, 4096, sys.executable, "/")
SHAPE = ChannelShape(slots=3, sockets=64, receive_buffer=4096, send_buffer=4096)
PROGRAM = "import socket, sys, time\nm = socket.socket(socket.AF_UNIX); m.connect(sys.argv[2])\n"
PROGRAM += "while True:\n  s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect(sys.argv[1])\n"
PROGRAM += "  socket.send_fds(m, [b'x'], [s.fileno()]); s.close()\n  if not m.recv(1): break\n"
REPLICA = """
import json, mmap, os, select, signal, socket, struct, sys, time
control, directory, version = socket.socket(fileno=int(sys.argv[1])), sys.argv[2], sys.argv[3]
log = page = number = meant = bell = None
running, gone = False, []
poll = select.epoll()
poll.register(control, select.EPOLLIN)
def behaves(what):
    try: return json.load(open(directory + "/behave")).get(what)
    except FileNotFoundError: return None
def maybe(what):
    how = behaves(what) or behaves(f"{meant} {what}") or behaves(f"{version} {what}")
    if how == "crash": os.abort()
    if how == "hang": time.sleep(100)
    if how == "slow": time.sleep(0.3)
    if how == "error": raise ValueError("told to refuse")
def sleeps(seq):
    struct.pack_into("=IQ", page, 12, seq, time.monotonic_ns())
def hears():
    if running and not behaves("deaf"): sleeps(struct.unpack_from("=I", page, 12)[0] + 2)
def obey(message, fds):
    global log, page, number, meant, bell, running
    op = message["op"]
    if op == "adopt":
        number, meant = message["replica"], message["how"]
        bell = os.dup(fds[2])
        poll.register(bell, select.EPOLLIN | select.EPOLLET)
        log = open(f"{directory}/replica{number}", "a", buffering=1)
        page = mmap.mmap(fds[3], 4096)
        more = {"region": os.fstat(fds[0]).st_ino, "fds": len(fds), "pid": os.getpid()}
        print(json.dumps({**message, **more}), file=log)
        maybe("adopt")
        return {}
    print(json.dumps({**message, "fds": len(fds)}), file=log)
    if op == "run":
        maybe("run")
        sleeps(1)
        running = True
        adopted = {"reset": 0, "fresh": 0}.get(meant, 3)
        return {"adopted": adopted, "lost": 0 if meant == "fresh" else 4 - adopted, "took_us": 77}
    if op == "stop": maybe("stop")
    if op == "channel" and message.get("gone"): gone.append(message["channel"])
    if op == "hold" and behaves("strict") and message["holder"] not in behaves("strict"):
        raise ValueError("it does not hold it")
    if op == "drop":
        return {"in_use": message["channel"] in (behaves("in_use") or ())}
    if op == "fault":
        if not behaves("faults"): raise ValueError("not started with allow_faults")
        return {"what": "region: tcb 1"} if message["kind"] == "flip" else {}
    return {}
maybe("ready")
control.send(json.dumps({"ready": True, "version": version}).encode())
while True:
    ready = {fd for fd, _ in poll.poll()}
    if bell in ready: hears()
    if control.fileno() not in ready: continue
    data, fds, _, _ = socket.recv_fds(control, 65536, 16)
    if not data: break
    message = json.loads(data)
    if message.get("listener") == 666:
        print(data.decode(), file=log)
        continue  # hangs
    try: reply = {"ok": True, **obey(message, fds)}
    except ValueError as error: reply = {"error": str(error)}
    for fd in fds: os.close(fd)
    control.send(json.dumps({"id": message["id"], **reply}).encode())
    if message["op"] == "stop": sys.exit(behaves("status") or 0)
    if message["op"] == "page" and "freed" in message: control.send(json.dumps({"freed": message["freed"]}).encode())
    if message["op"] == "run" and meant == "reset" and gone and not behaves("owes"):
        control.send(json.dumps({"freed": gone}).encode())  # all their connections are reset
    if message["op"] == "fault" and "ok" in reply:
        if message["kind"] == "segv": os.kill(os.getpid(), signal.SIGSEGV)
        if message["kind"] == "hang":
            sleeps(2)
            while True: pass
"""


class MemoryStore:
    """A keeper that lives in the test."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.fates: dict[int, int] = {}
        self.writes: list[str] = []  # keys, in order

    def put(self, key: str, data: dict[str, Any], descriptors: list[int] | None = None) -> None:
        self.writes.append(key)
        self._close(key)
        self.entries[key] = Entry(json.loads(json.dumps(data)), [os.dup(number) for number in descriptors or []])

    def drop(self, key: str) -> None:
        self.writes.append(key)
        self._close(key)

    def _close(self, key: str) -> None:
        for number in self.entries.pop(key, Entry({}, [])).descriptors:
            os.close(number)

    def fate(self, pid: int) -> int | None:
        return self.fates.get(pid)

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
        place: tuple[int, int, int] = (0, 0, 0),
    ) -> dict[str, Any]:  # fmt: skip
        channel = self.channel if channel is None else channel
        token = self.token if token is None else token
        packed = REQUEST.pack(
            pages.MAGIC, op, channel, binding, token,
            pages.wide(IPv4Address(address)), port.to_bytes(2, "big"), flags, backlog,
            *NO_OPTIONS[:5], *place, *NO_OPTIONS[8:],
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

    def __init__(self, directory: Path, **options: Any) -> None:
        self.directory = directory
        self.store = MemoryStore()
        self.clients: list[Client] = []
        self.numbers = itertools.count()
        self.options = {"spares": 1, **options}
        self.code = CODE
        self.queues = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(SHAPE.slots)]
        self.claims = pages.memory("claims", 4096)
        self.page = pages.memory("stack", 4096)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(directory / "manager.sock"))
        self.listener.listen(64)
        self.slots = [Slot.create(number, self.queues[number][0].fileno(), 4096) for number in range(SHAPE.slots)]
        self.join([])
        for slot in self.slots:
            self.replicas.remember_slot(slot)

    def join(self, bindings: list[Binding]) -> None:
        store: Any = self.store
        told: Any = lambda slot: self.programs.contents(slot)  # noqa: E731
        self.replicas = Replicas(store, self.slots, self.claims, self.code, self.spawn, told, **self.options)
        self.programs = Programs(store, self.replicas, Ports([OWN], bindings), SHAPE)
        self.server = RequestServer(self.listener, self.programs, self.page, 4096)

    def spawn(self, code: Code) -> tuple[int, int, socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        argv = [sys.executable, "-S", "-c", REPLICA, str(theirs.fileno()), str(self.directory), code.version]
        process = subprocess.Popen(argv, pass_fds=[theirs.fileno()])
        process.returncode = 0  # the manager waits for it
        theirs.close()
        return process.pid, os.pidfd_open(process.pid), ours

    def behave(self, **how: Any) -> None:
        """How replicas behave from now on: "ready", "adopt", "run", "stop": "crash", "hang", "error", "slow".

        "reset run" and the like: only those that are started so; "2.0 run": that version. "in_use": channels; "owes":
        one that resets does not yet let go of channels; "deaf": doorbells are not heard; "status": the exit status of
        one that was told to stop.
        """
        made = self.directory / "behave.new"
        made.write_text(json.dumps(how))
        made.rename(self.directory / "behave")

    def log(self, slot: int) -> Path:
        return self.directory / f"replica{slot}"

    def told(self, slot: int, op: str) -> list[dict[str, Any]]:
        """What replica `slot` was told with `op`, all incarnations."""
        messages = [json.loads(line) for line in self.log(slot).read_text().splitlines()]
        return [message for message in messages if message["op"] == op]

    @property
    def spare_pids(self) -> list[int]:
        return [spare.pid for spare in self.replicas.spares.waiting if spare.ready]

    def kill_manager(self) -> None:
        """The manager is gone in this instant; what it has told and stored stays."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self.listener)
        for program in self.programs:
            if program.pidfd >= 0:
                loop.remove_reader(program.pidfd)
            if program.expiry:
                program.expiry.cancel()
        loop.remove_reader(self.programs.in_flight._poll)
        self.replicas.active.clear()  # its timers do nothing any more
        self.replicas._books.clear()
        for slot in self.slots:
            if slot.line:
                loop.remove_reader(slot.pidfd)
                slot.line.close()
                os.close(slot.pidfd)
                slot.line = None
        self.replicas.spares.close()
        self.replicas.spares.wanted = 0
        for client in self.clients:
            client.connection.close()

    def start_manager(self) -> None:
        """One that knows nothing but what is in the keeper."""
        taken = {key: Entry(e.data, [os.dup(n) for n in e.descriptors]) for key, e in self.store.entries.items()}
        taken = {key: Entry(json.loads(json.dumps(e.data)), e.descriptors) for key, e in taken.items()}
        self.slots = [self._slot(number, taken[f"slot.{number}"]) for number in range(SHAPE.slots)]
        self.join([Binding.from_data(e.data) for key, e in taken.items() if key.startswith("binding.")])
        self.replicas.resume(taken, [0, 1])
        self.programs.resume(
            *([entry for key, entry in taken.items() if key.startswith(kind)] for kind in ("channel.", "passed."))
        )

    def _slot(self, number: int, entry: Entry) -> Slot:
        return Slot.from_data(number, self.queues[number][0].fileno(), entry.data, entry.descriptors)

    async def restart_manager(self) -> None:
        """Forget everything but the keeper, as after the manager's death."""
        self.kill_manager()
        await asyncio.sleep(0.05)  # connections end
        self.start_manager()

    async def put_down(self) -> None:
        """What has happened to replicas so far is in the keeper."""
        await self.until(lambda: not self.replicas._books)

    async def serves(self, number: int, incarnation: int) -> None:
        slot = self.slots[number]
        await self.until(lambda: slot.incarnation == incarnation and slot.ready.is_set())

    async def until(self, true: Callable[[], Any]) -> None:
        """Wait, at most 10 s."""
        async with asyncio.timeout(10):
            while not true():
                await asyncio.sleep(0.01)

    def close(self) -> None:
        self.replicas.active.clear()
        for client in self.clients:
            client.close()
        for key, entry in self.store.entries.items():
            if key.startswith(("process.", "spare.")):
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(entry.descriptors[0], signal.SIGKILL)
        self.replicas.spares.wanted = 0
        self.listener.close()


def kill(slot: Slot, number: int = signal.SIGKILL) -> None:
    signal.pidfd_send_signal(slot.pidfd, number)


def inode(descriptor: int) -> int:
    return os.fstat(descriptor).st_ino


async def settled(stage: Stage) -> None:
    """Everybody serves, the spares are there, and all that is in the keeper."""
    await stage.until(
        lambda: (
            all(stage.slots[n].ready.is_set() for n in (0, 1))
            and len(stage.spare_pids) == stage.options["spares"]
            and not stage.replicas._books
        )
    )


def check_one_process_each(stage: Stage) -> None:
    """The store and the machine agree: one living process for each slot, and what else lives is a spare."""
    stored = {
        key: entry for key, entry in stage.store.entries.items() if key.startswith(("process.", "spare."))
    }  # fmt: skip
    assert all(not launch.is_over(entry.descriptors[0]) for entry in stored.values())
    pids = [entry.data["pid"] for entry in stored.values()]
    assert len(set(pids)) == len(pids)
    assert sorted(key for key in stored if key.startswith("process.")) == ["process.0", "process.1"]
    assert [stored[f"process.{n}"].data["pid"] for n in (0, 1)] == [stage.slots[n].pid for n in (0, 1)]
    assert all(stored[f"process.{n}"].data["running"] for n in (0, 1))
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    living = {int(pid) for pid in children if not is_zombie(int(pid))} - {c.process.pid for c in stage.clients}
    assert living == set(pids)


def is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def on_stage(directory: Path, play: Callable[[Stage], Awaitable[None]], **options: Any) -> None:
    """Run `play` with a stack of two replicas out of three."""

    async def run() -> None:
        stage = Stage(directory, **options)
        try:
            await stage.replicas.start([0, 1])
            await settled(stage)
            await play(stage)
        finally:
            stage.close()
            await asyncio.sleep(0.05)

    asyncio.run(run())


Play = Callable[[Stage], Awaitable[None]]


def staged(play: Play) -> Callable[[Path], None]:
    """A test that is a play on the stage."""

    @functools.wraps(play)
    def test(tmp_path: Path) -> None:
        on_stage(tmp_path, play)

    del test.__wrapped__  # type: ignore[attr-defined] # pytest shall see tmp_path
    return test
