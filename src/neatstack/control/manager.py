"""The manager: starts a stack, or finds one in the keeper and goes on, and joins the parts that run it.

Nothing that carries traffic needs it: while it is dead replicas, link and programs go on; only new programs, binds and
listens, and a dead replica, wait for the next manager.
"""

import asyncio
import contextlib
import functools
import itertools
import logging
import mmap
import os
import secrets
import signal
import socket
import sys
from collections.abc import Iterable
from dataclasses import asdict
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neatstack.control import (
    autoscale,
    code,
    device,
    launch,
    messages,
    pages,
    processes,
    routes,
    scaling,
    schedule,
    steering,
)
from neatstack.control.activity import Activity
from neatstack.control.addresses import Addresses
from neatstack.control.autoscale import Autoscale
from neatstack.control.captures import KEY as CAPTURE
from neatstack.control.captures import Captures
from neatstack.control.change import Change
from neatstack.control.code import Code
from neatstack.control.control_server import ControlServer
from neatstack.control.errors import NeatError
from neatstack.control.events import Events
from neatstack.control.pages import Own, StackPage
from neatstack.control.ports import Binding, Ports
from neatstack.control.processes import Link
from neatstack.control.programs import ChannelShape, Programs, groups_request
from neatstack.control.renewal import Renewal
from neatstack.control.replicas import Replicas
from neatstack.control.requests import RequestServer
from neatstack.control.scaling import Scaling
from neatstack.control.schedule import Schedule
from neatstack.control.settings import Settings
from neatstack.control.slots import Slot
from neatstack.control.store import Entry, Store
from neatstack.control.upgrade import Upgrade
from neatstack.control.watchdog import Watchdog

if TYPE_CHECKING:
    from neatstack.dataplane.driver.steer import Steering

log = logging.getLogger("neat.manager")

READY = "ready"  # the key that says that the stack has once been ready


class Manager:
    """One stack, as its manager knows it."""

    def __init__(self, directory: Path, store: Store, settings: Settings) -> None:
        self.directory = directory
        self.store = store
        self.settings = settings
        self.queues: list[int] = []
        self.page: StackPage
        self.page_memory = -1
        self.page_view: mmap.mmap
        self.neighbours = -1
        self.secret = ""
        self.steering: Steering
        self.replicas: Replicas
        self.change = Change()
        self.renewal: Renewal
        self.schedule: Schedule
        self.upgrade: Upgrade
        self.programs: Programs
        self.link: Link
        self.captures: Captures
        self.servers: list[RequestServer | ControlServer] = []
        self.change = Change()
        self.events = Events()
        self.activity: Activity
        self.scaling: Scaling
        self.autoscale: Autoscale

    async def start(self, report: int) -> None:
        """The first start: make everything. Raises NeatError."""
        settings = self.settings
        self.queues = device.open_queues(settings)
        self.store.put("device", {"name": settings.device}, self.queues)
        host_side = asyncio.create_task(asyncio.to_thread(device.configure_host_side, settings))
        self._make_pages()
        self.steering = steering.start(self.store, self.page, self.queues[0])
        runs = code.own(settings.max_connections)
        self.store.put("code", runs.to_data())
        slots = [Slot.create(n, self.queues[n], runs.region_size) for n in range(settings.max_replicas)]
        sockets = [slot.link_theirs for slot in slots]
        self.link = Link(self.store, settings, self.page.mac, self.queues[-1], self.neighbours, sockets)
        claims = pages.memory("claims", mmap.PAGESIZE)
        self.store.put("claims", {}, [claims])
        self.secret = secrets.token_hex(16)
        self.store.put("secret", {"secret": self.secret})
        self._join(runs, slots, claims, self._ports(()))
        for slot in slots:
            self.replicas.remember_slot(slot)
        await asyncio.gather(self.link.start(), self.replicas.start(range(settings.replicas)), host_side)
        self._serve(self._listen())
        self.store.put(READY, {})
        self._watch()
        if settings.rejuvenate_every is not None:
            self.schedule.set(settings.rejuvenate_every, settings.rejuvenate_jitter)
        count = "1 replica" if settings.replicas == 1 else f"{settings.replicas} replicas"
        addresses = " ".join(settings.addresses)
        os.write(report, f"stack {settings.name} is ready: {addresses} on {settings.device}, {count}\n".encode())
        self.store.drop("report")

    def resume(self, entries: dict[str, Entry]) -> None:
        """A former manager has died: take everything from the keeper, and disturb nothing."""
        self.queues = entries["device"].descriptors
        self.page_memory, self.neighbours = entries["pages"].descriptors
        self.page_view = mmap.mmap(self.page_memory, mmap.PAGESIZE)
        self.page = StackPage.read(self.page_view)
        steered = entries[steering.KEY]
        self.steering = steering.again(steered.data["names"], steered.descriptors)
        slots = [self._slot(number, entries) for number in range(self.settings.max_replicas)]
        sockets = [slot.link_theirs for slot in slots]
        self.link = Link(self.store, self.settings, self.page.mac, self.queues[-1], self.neighbours, sockets)
        self.link.ipv6 = entries[processes.IPV6].data if processes.IPV6 in entries else None
        channels = [entry for key, entry in entries.items() if key.startswith("channel.")]
        bindings = [Binding.from_data(entry.data) for key, entry in entries.items() if key.startswith("binding.")]
        ports = self._ports(bindings)
        self.secret = entries["secret"].data["secret"] if "secret" in entries else ""
        self._join(Code.from_data(entries["code"].data), slots, entries["claims"].descriptors[0], ports)
        self.link.adopt(entries.get("process.link"))
        self.replicas.resume(entries, set(self.steering.table()))
        self.programs.resume(channels, [entry for key, entry in entries.items() if key.startswith("passed.")])
        self.link.ask(groups_request(ports))  # what the last manager may not have told
        self.captures.resume(entry for key, entry in entries.items() if key.startswith(CAPTURE))
        self.scaling.resume(entries.get(scaling.KEY))
        self.autoscale.resume(entries.get(autoscale.KEY))
        self._serve([socket.socket(fileno=descriptor) for descriptor in entries["sockets"].descriptors])
        self._watch()
        self.renewal.resume()
        self.upgrade.resume(entries.get("manager"))
        self.schedule.resume(entries.get(schedule.KEY))
        counts = len(self.programs.by_channel), len(bindings)
        log.warning("a new manager has taken over: %d programs, %d bindings", *counts)

    def _slot(self, number: int, entries: dict[str, Entry]) -> Slot:
        entry = entries[f"slot.{number}"]
        return Slot.from_data(number, self.queues[number], entry.data, entry.descriptors)

    def recoveries(self) -> list[dict[str, Any]]:
        """Every replacement of a replica that this manager has seen through, the oldest first, bounded."""
        return [asdict(record) for record in self.replicas.history]

    def _make_pages(self) -> None:
        """The stack page, filled in, and the empty table of neighbours."""
        from neatstack.dataplane.driver.steer import choose_keys, even_table

        settings = self.settings
        self.page = StackPage(
            address=settings.interface.ip,
            netmask=settings.interface.netmask,
            gateway=IPv4Address(settings.gateways[0]) if settings.gateways else None,
            mtu=settings.mtu,
            replicas=settings.max_replicas,
            active=(1 << settings.replicas) - 1,
            mac=bytes([0x02]) + secrets.token_bytes(5),  # locally administered, unicast
            link_queue=settings.max_replicas,
            backlog_max=settings.max_backlog,
            ecn=pages.ECN[settings.ecn],
            receive_shift=pages.receive_shift(settings.receive_buffer),
            without=sum(pages.WITHOUT[option] for option in settings.without),
            fastopen=settings.fastopen,
            ttl=settings.ttl,
            hop_limit=settings.hop_limit,
            icmp_errors=settings.icmp_errors,
            unsent_most=settings.notsent_lowat,
            keys=choose_keys(settings.replicas),
            table=even_table(list(range(settings.replicas))),
            own=[Own(interface.ip, interface.network.prefixlen) for interface in settings.interfaces4],
            routes=[routes.parse(text) for text in settings.routes],
        )
        self.page_memory = pages.memory("stack", mmap.PAGESIZE)
        self.page_view = mmap.mmap(self.page_memory, mmap.PAGESIZE)
        self.page.write(self.page_view)
        self.neighbours = pages.memory("neighbours", pages.NEIGHBOURS * pages.NEIGHBOUR_SIZE)
        self.store.put("pages", {}, [self.page_memory, self.neighbours])

    def _ports(self, bindings: Iterable[Binding]) -> Ports:
        interfaces = self.settings.interfaces4
        own, networks = [each.ip for each in interfaces], [each.network for each in interfaces]
        ports = Ports(own, bindings, networks)
        addresses = Addresses(self.settings, self.page, self.page_view, self.steering, ports)
        self.link.on_ipv6, self.link.on_ways = addresses.changed, addresses.ways
        if self.link.ipv6 is not None:
            addresses.changed(self.link.ipv6)
        return ports

    def _join(self, runs: Code, slots: list[Slot], claims: int, ports: Ports) -> None:
        settings = self.settings
        self.replicas = Replicas(
            self.store,
            slots,
            claims,
            runs,
            processes.spawner(settings, self.page_memory, self.neighbours),
            lambda slot: itertools.chain(self.captures.contents(slot), self.programs.contents(slot)),
            option=settings.recovery,
            spares=settings.spares,
            secrets={"secret": self.secret, "fastopen_keys": settings.fastopen_keys},
        )
        self.replicas.on_recovered = self.events.recovered
        self.captures = Captures(self.store, self.replicas, self.link)
        self.renewal = Renewal(self.replicas, self.change)
        self.schedule = Schedule(self.store, self.renewal.rejuvenate, lambda: self.change.under_way)
        shape = ChannelShape(settings.max_replicas, settings.sockets, settings.receive_buffer, settings.send_buffer)
        self.programs = Programs(self.store, self.replicas, ports, shape)
        self.programs.on_groups = lambda: self.link.ask(groups_request(ports))
        self.link.contents = lambda: (groups_request(ports), *self.captures.contents(-1))
        self.scaling = Scaling(
            self.store, self.page, self.page_view, self.steering, self.replicas, self.change, self.events
        )
        own, connections = code.own(settings.max_connections), settings.max_connections
        leave = functools.partial(os._exit, 0)
        self.upgrade = Upgrade(self.replicas, self.change, self.scaling, own, connections, leave)
        self.activity = Activity(slots, device.QueueDrops(settings))
        self.autoscale = Autoscale(self.store, self.scaling, self.activity)

    def _watch(self) -> None:
        """From now on replicas that hang are killed, and it is known how busy the others are."""
        Watchdog(self.replicas, self.programs).run()
        self.activity.run()

    def _listen(self) -> list[socket.socket]:
        """manager.sock, open to the programs of any user, and control.sock, which is not."""
        listening = []
        for name, kind, mode in (("manager", socket.SOCK_SEQPACKET, 0o666), ("control", socket.SOCK_STREAM, 0o600)):
            sock = socket.socket(socket.AF_UNIX, kind)
            path = self.directory / f"{name}.sock"
            sock.bind(str(path))
            path.chmod(mode)
            sock.listen(512)
            listening.append(sock)
        self.store.put("sockets", {}, [sock.fileno() for sock in listening])
        return listening

    def _serve(self, listening: list[socket.socket]) -> None:
        requests, control = listening
        backlog = self.settings.max_backlog
        self.servers = [RequestServer(requests, self.programs, self.page_memory, backlog), ControlServer(control, self)]


def _clear(store: Store, entries: dict[str, Entry]) -> dict[str, Entry]:
    """A former manager has died before the stack was ready: end what it had started, and start from the beginning."""
    for key, entry in entries.items():
        if key in ("settings", "report"):
            continue
        if entry.data.get("process"):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(entry.descriptors[0], signal.SIGKILL)
        messages.close(entry.descriptors)
        store.drop(key)
    return {key: entries[key] for key in ("settings", "report")}


async def run(directory: Path, store: Store) -> int:
    """Manage until the keeper goes away; returns the exit status."""
    entries = store.list()
    settings = Settings.from_json(entries["settings"].data["settings"])
    manager = Manager(directory, store, settings)
    if READY in entries:
        manager.resume(entries)
    else:
        report = _clear(store, entries)["report"].descriptors[0]
        try:
            await manager.start(report)
        except NeatError as error:
            os.write(report, f"neat: {error}\n".encode())
            store.end(error.status)
            return error.status
        except Exception as error:
            log.exception("the stack cannot start")
            os.write(report, f"neat: the stack cannot start: {type(error).__name__}: {error}\n".encode())
            store.end(1)
            return 1
        os.close(report)
    gone = asyncio.Event()
    asyncio.get_running_loop().add_reader(store.sock, gone.set)
    await gone.wait()  # the keeper says nothing unasked: this is its end
    return 0


def main(arguments: list[str]) -> int:
    """Manage the stack whose directory is the argument; the keeper's socket is in NEAT_KEEPER."""
    launch.set_name("neat-manager")
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr)
    return asyncio.run(run(Path(arguments[0]), Store.connect()))
