"""The programs that use the stack: their channels, and what becomes of them when they die."""

import asyncio
import errno
import logging
import mmap
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from neatstack.control import pages
from neatstack.control.line import Answer
from neatstack.control.lingering import Lingering, is_lingering
from neatstack.control.ports import Address, Binding, ListenOptions, Ports, Refused
from neatstack.control.replicas import Replicas, Told
from neatstack.control.store import Entry, Store

log = logging.getLogger("neat.programs")

MOST_CHANNELS = 256  # NEAT_MAX_CHANNELS
CLAIM_TIME = 30.0  # seconds that the child of a fork has to say who it is
COMMANDS_HEAD, COMMANDS_TAIL = 128 // 4, 256 // 4  # 32-bit words of a channel: entries put by the program, and taken
SHARE_OF_USER = MOST_CHANNELS // 2  # channels that one user other than root may have


@dataclass(frozen=True)
class Peer:
    """Who is on the other end of a connection, as the kernel says."""

    pid: int
    uid: int


@dataclass
class Program:
    """One process with the socket library, and its channels: one memfd for each replica slot."""

    channel: int
    token: int
    uid: int
    doorbell: int  # descriptors
    memories: list[int]
    pid: int = 0  # 0: forked, and not yet claimed
    pidfd: int = -1
    opening: bool = True  # the replicas have not all been told
    gone: bool = False
    expiry: asyncio.TimerHandle | None = field(default=None, repr=False)
    views: dict[int, memoryview] = field(default_factory=dict, repr=False)  # by slot: a channel's first page

    @property
    def name(self) -> str:
        """What ps would call it."""
        try:
            return Path(f"/proc/{self.pid}/comm").read_text().strip()
        except OSError:
            return ""

    def to_data(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("channel", "token", "uid", "pid", "opening")}

    @property
    def descriptors(self) -> list[int]:
        """In the order of `from_entry`; the pidfd only if there is one."""
        return [self.doorbell, *self.memories, *([self.pidfd] if self.pidfd >= 0 else [])]

    @classmethod
    def from_entry(cls, entry: Entry) -> "Program":
        doorbell, *rest = entry.descriptors
        pidfd = rest.pop() if entry.data["pid"] else -1
        return cls(**entry.data, doorbell=doorbell, memories=rest, pidfd=pidfd)

    def has_commands(self, slot: int) -> bool:
        """Does the program wait for replica `slot` to take its commands? A look at memory, mapped once."""
        view = self.views.get(slot)
        if view is None:
            memory = mmap.mmap(self.memories[slot], mmap.PAGESIZE, prot=mmap.PROT_READ)
            view = self.views[slot] = memoryview(memory).cast("I")
        return bool(view[COMMANDS_HEAD] != view[COMMANDS_TAIL])

    def unmap(self) -> None:
        """Nobody looks there any more."""
        self.views.clear()

    def told(self, slot: int, inherit: int | None) -> Told:
        """How replica `slot` is told of the channel."""
        message = {"op": "channel", "channel": self.channel, "inherit": inherit}
        return Told(message, (self.memories[slot], self.doorbell))


@dataclass(frozen=True)
class ChannelShape:
    """How large the channels are."""

    slots: int
    sockets: int
    receive_buffer: int
    send_buffer: int

    def create(self, channel: int) -> list[int]:
        """The memfds of a new channel, one for each slot."""
        from neatstack.dataplane.channel.create import create_channel

        shape = self.sockets, self.receive_buffer, self.send_buffer
        return [create_channel(slot, channel, *shape) for slot in range(self.slots)]


def listen_requests(binding: Binding) -> list[Told]:
    """What a replica is told of a listening binding: the listener, then who may accept."""
    address, port = str(binding.address), binding.port
    listen = {"op": "listen", "listener": binding.number, "address": address, "port": port, "backlog": binding.backlog}
    listen.update(asdict(binding.options))
    if binding.v6only:
        listen["v6only"] = True
    grants = ({"op": "grant", "listener": binding.number, "channel": channel} for channel in sorted(binding.holders))
    return [Told(listen), *(Told(grant) for grant in grants)]


def bind_request(binding: Binding) -> Told:
    """What a replica is told of a UDP socket."""
    flags = 1 * binding.reuse_address | 2 * binding.reuse_port | 8 * binding.v6only  # enum neat_bind_flag
    where = {"address": str(binding.address), "port": binding.port, "flags": flags}
    who = {"channel": binding.channel, "cookie": binding.cookie, "holders": sorted(binding.holders)}
    return Told({"op": "bind", "binding": binding.number, **where, **who})


def groups_request(ports: Ports) -> Told:
    """What link is told of the groups that programs have joined."""
    return Told({"op": "groups", "groups": sorted(map(str, ports.groups()))})


class Programs:
    """All programs of the stack, and what they have bound.

    Every change is made in the tables, stored and sent to the replicas in one step without an await: so each replica
    learns of changes in the order in which they were made, and one that starts meanwhile learns the outcome.
    """

    def __init__(self, store: Store, replicas: Replicas, ports: Ports, shape: ChannelShape) -> None:
        self.store = store
        self.replicas = replicas
        self.ports = ports
        self.shape = shape
        self.by_channel: dict[int, Program] = {}
        self._last = -1  # the channel opened last
        self.lingering = Lingering(store, replicas)
        self.on_groups: Callable[[], object] = lambda: None  # a group is joined or left: `ports.groups()`

    def __iter__(self) -> Iterator[Program]:
        return iter(list(self.by_channel.values()))

    def contents(self, slot: int) -> Iterable[Told]:
        """Everything that a new incarnation of `slot` has to know."""
        yield from self.lingering.contents(slot)
        for program in self:
            yield program.told(slot, None)
        for binding in self.ports:
            if binding.listening:
                yield from listen_requests(binding)
            elif binding.datagram:
                yield bind_request(binding)
                yield from (Told({"op": "join", "group": str(group)}) for group in binding.groups)

    def resume(self, channels: Iterable[Entry]) -> None:
        """A restarted manager has found these in the keeper."""
        programs = []
        for entry in channels:
            if is_lingering(entry):
                self.lingering.adopt(entry)
            else:
                programs.append(Program.from_entry(entry))
        for program in programs:
            self.by_channel[program.channel] = program
            self._last = max(self._last, program.channel)
        for program in programs:
            if program.opening:  # it has never had an answer, and will ask again
                self.forget(program)
            elif program.pid:
                self._watch(program)
            else:
                self._expect_claim(program)

    async def hello(self, peer: Peer) -> Program:
        """A new program. Raises Refused."""
        for former in [p for p in self if p.pid == peer.pid]:
            self.forget(former)  # exec() of a program that did not keep its token
        program = self._open(peer.uid)
        try:
            self._attend(program, peer)
            await self._announce(program, None)
        except BaseException:
            self.forget(program)
            raise
        return program

    async def fork(self, parent: Program) -> Program:
        """The channels of the child that `parent` is about to make. Raises Refused."""
        child = self._open(parent.uid)
        self._expect_claim(child)
        for binding in self.ports.inherit(parent.channel, child.channel):
            self._store_binding(binding)
        await self._announce(child, parent.channel)
        return child

    def claim(self, channel: int, token: int, peer: Peer) -> Program:
        """`peer` says that it is this program: a forked child, a new image, or the same after a manager's restart."""
        program = self.by_channel.get(channel)
        if program is None or not secrets.compare_digest(program.token.to_bytes(8, "big"), token.to_bytes(8, "big")):
            raise Refused(errno.EPERM)
        if program.pid == 0:
            self._attend(program, peer)
            self._store(program)
        elif program.pid != peer.pid:
            raise Refused(errno.EPERM)
        return program

    def abandon(self, parent: Program, channel: int, token: int) -> None:
        """The fork has failed: forget the child, which nobody has claimed."""
        child = self.by_channel.get(channel)
        if child is None or child.pid or child.token != token or child is parent:
            raise Refused(errno.EPERM)
        self.forget(child)

    async def bind(self, program: Program, address: Address, port: int, **options: Any) -> Binding:
        """Bind for the program, `options` as for Ports.bind(); a UDP socket in every replica. Raises Refused."""
        binding = self.ports.bind(program.channel, program.uid, address, port, **options)
        self._store_binding(binding)
        if binding.datagram:
            await self.replicas.answers(self.replicas.tell(bind_request(binding)))
        return binding

    async def listen(self, program: Program, number: int, backlog: int, options: ListenOptions) -> Binding:
        """Every replica accepts on the binding from now on. Raises Refused."""
        binding = self.ports.listen(program.channel, number, backlog, options)
        self._store_binding(binding)
        await self.replicas.answers(self.replicas.tell(*listen_requests(binding)))
        return binding

    async def join(self, program: Program, number: int, group: Address, *, leave: bool) -> None:
        """The UDP socket joins, or leaves, a group of hosts. Raises Refused."""
        change = self.ports.leave if leave else self.ports.join
        self._store_binding(change(program.channel, number, group))
        self.on_groups()
        await self.replicas.answers(self.replicas.tell(Told({"op": "leave" if leave else "join", "group": str(group)})))

    async def close(self, program: Program, number: int) -> None:
        """The program holds the binding no longer. Raises Refused."""
        told = self._release(program, self.ports.held(program.channel, number))
        await self.replicas.answers(told)

    def forget(self, program: Program) -> None:
        """The program is gone: its connections are reset, its bindings released, its memory freed."""
        if program.gone:
            return
        program.gone = True
        loop = asyncio.get_running_loop()
        if program.expiry is not None:
            program.expiry.cancel()
        if program.pidfd >= 0:
            loop.remove_reader(program.pidfd)
        program.unmap()
        del self.by_channel[program.channel]
        for binding in self.ports.of(program.channel):
            self._release(program, binding)
        self.lingering.add(program.channel, program.doorbell, program.memories)
        if program.pidfd >= 0:
            os.close(program.pidfd)
        log.debug("channel %d (pid %d) is dropped", program.channel, program.pid)

    def _open(self, uid: int) -> Program:
        """A new channel that nobody has been told of yet."""
        if uid and sum(program.uid == uid for program in self) >= SHARE_OF_USER:
            raise Refused(errno.EDQUOT)
        numbers = ((self._last + step) % MOST_CHANNELS for step in range(1, MOST_CHANNELS + 1))
        channel = next((n for n in numbers if n not in self.by_channel and n not in self.lingering), None)
        if channel is None:
            channel = self.lingering.give_up()
        if channel is None:
            raise Refused(errno.ENOBUFS)
        self._last = channel
        token = secrets.randbits(64) or 1
        program = Program(channel, token, uid, pages.doorbell(), self.shape.create(channel))
        self.by_channel[channel] = program
        return program

    async def _announce(self, program: Program, inherit: int | None) -> None:
        """Store the program, tell the replicas, wait until all have mapped its channel."""
        self._store(program)
        told = []
        for slot in self.replicas.slots:
            told += self.replicas.tell_one(slot, program.told(slot.number, inherit))
        for binding in self.ports.of(program.channel):
            if binding.listening:
                told += self.replicas.tell(
                    Told({"op": "grant", "listener": binding.number, "channel": program.channel})
                )
        await self.replicas.answers(told)
        if program.gone:
            raise Refused(errno.ESRCH)
        program.opening = False
        self._store(program)

    def _attend(self, program: Program, peer: Peer) -> None:
        """The program's process is `peer`: watch it."""
        try:
            program.pidfd = os.pidfd_open(peer.pid)
        except OSError as error:
            raise Refused(error.errno or errno.ESRCH) from None
        program.pid, program.uid = peer.pid, peer.uid
        if program.expiry is not None:
            program.expiry.cancel()
            program.expiry = None
        self._watch(program)

    def _watch(self, program: Program) -> None:
        asyncio.get_running_loop().add_reader(program.pidfd, self.forget, program)

    def _expect_claim(self, program: Program) -> None:
        program.expiry = asyncio.get_running_loop().call_later(CLAIM_TIME, self.forget, program)

    def _release(self, program: Program, binding: Binding) -> list[Answer]:
        """The program gives up a binding; the last one takes it away."""
        self.ports.release(program.channel, binding.number, dead=program.gone)
        if program.channel in binding.holders:
            self._store_binding(binding)
            return []
        which = {"binding" if binding.datagram else "listener": binding.number}
        if binding.holders:
            request = {"op": "release" if binding.datagram else "revoke", **which, "channel": program.channel}
        else:
            request = {"op": "unbind" if binding.datagram else "unlisten", **which}
        # replicas first: a manager that dies in between finds the binding still stored, and releases it again
        told = self.replicas.tell(Told(request)) if binding.told else []
        if not binding.holders:
            told += self.replicas.tell(*(Told({"op": "leave", "group": str(group)}) for group in binding.groups))
            if binding.groups:
                self.on_groups()
        if binding.holders:
            self._store_binding(binding)
        else:
            self.store.drop(f"binding.{binding.number}")
        return told

    def _store(self, program: Program) -> None:
        self.store.put(f"channel.{program.channel}", program.to_data(), program.descriptors)

    def _store_binding(self, binding: Binding) -> None:
        self.store.put(f"binding.{binding.number}", binding.to_data())
