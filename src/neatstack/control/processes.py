"""How the manager starts replicas and link."""

import asyncio
import json
import logging
import os
import pwd
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from typing import Any

from neatstack.control import launch, pages, recovery
from neatstack.control.code import Code
from neatstack.control.interface_id import stable_secret
from neatstack.control.line import Answer, ControlLine, Told
from neatstack.control.settings import Settings
from neatstack.control.spares import Spawn
from neatstack.control.store import Entry, Store

log = logging.getLogger("neat.processes")

IPV6 = "ipv6"  # the key of what link has said of it
LINK_BACKOFF = 0.02, 2.0  # seconds


def spawner(settings: Settings, stack_page: int, neighbours: int) -> Spawn:
    """What starts a spare."""
    account = pwd.getpwnam(settings.user)
    pages_read_only = pages.read_only(stack_page), pages.read_only(neighbours)

    def spawn(code: Code) -> tuple[int, int, socket.socket]:
        from neatstack.dataplane.launch import spawn_replica

        config = {
            "max_tcbs": settings.max_connections,
            "seccomp": settings.seccomp,
            "allow_faults": settings.allow_faults,
            "state": code.state,
            **({"faults": settings.faults} if settings.faults else {}),
        }
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            descriptors = {
                "control": theirs.fileno(),
                "stack_page": pages_read_only[0],
                "neighbours": pages_read_only[1],
            }
            try:
                pid, pidfd = spawn_replica(
                    config, descriptors, account.pw_uid, account.pw_gid, code.python, code.parent
                )
            except BaseException:
                ours.close()
                raise
        return pid, pidfd, ours

    return spawn


class Link:
    """The link process: started, watched, started again."""

    def __init__(
        self, store: Store, settings: Settings, mac: bytes, queue: int, neighbours: int, sockets: list[int]
    ) -> None:
        self.store = store
        self.settings = settings
        self.mac = mac
        self.queue = queue
        self.neighbours = neighbours
        self.sockets = sockets  # link's ends of the datagram sockets to the replicas
        self.secret = stable_secret(settings.name)
        self.ipv6: dict[str, Any] | None = None  # what link has said of addresses and routers: `Discovery.to_data`
        self.on_ipv6: Callable[[dict[str, Any]], None] = lambda told: None
        self.on_ways: Callable[[dict[str, Any]], None] = lambda told: None
        self.pid = 0
        self.pidfd = -1
        self.incarnation = 0
        self.started_at = 0.0
        self.contents: Callable[[], Iterable[Told]] = tuple  # what a new one has to know
        self._ready = asyncio.Event()
        self._line: ControlLine | None = None
        self._backoff = LINK_BACKOFF[0]

    async def start(self) -> None:
        """Start it and wait until it answers for the stack's address."""
        self._launch()
        await self._ready.wait()

    def adopt(self, entry: Entry | None) -> None:
        """A restarted manager finds it running, or not."""
        if entry is None:
            self._launch()
            return
        self.pid, self.incarnation = entry.data["pid"], entry.data["incarnation"]
        self._watch(entry.descriptors[0], socket.socket(fileno=entry.descriptors[1]))

    def ask(self, told: Told) -> Answer | None:
        """Send a request; the answer, as a replica's; None if there is no process."""
        return self._line.request(told) if self._line is not None else None

    def _said(self, message: dict[str, Any]) -> None:
        if message.get("ready"):
            self._ready.set()
        elif isinstance(told := message.get("ipv6"), dict):
            self.ipv6 = told
            self.store.put(IPV6, told)
            self.on_ipv6(told)
        elif isinstance(told := message.get("ways"), dict):
            self.on_ways(told)

    def _plan(self) -> dict[str, Any] | None:
        """What link shall do of IPv6; None: nothing."""
        settings = self.settings
        if not settings.ipv6:
            return None
        return {
            "addresses": [str(interface) for interface in settings.interfaces6],
            "gateways": settings.gateways6,
            "slaac": settings.slaac,
            "secret": self.secret.hex(),
            "interface": settings.device,
            "hops": settings.hop_limit,
            "transmits": settings.dad_transmits,
            "before": self.ipv6,
        }

    def _launch(self) -> None:
        self.incarnation += 1
        self.started_at = time.monotonic()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        account = pwd.getpwnam(self.settings.user)
        config = {
            "addresses": [str(interface) for interface in self.settings.interfaces4],
            "routes": self.settings.routes,
            "ipv6": self._plan(),
            "gateways": self.settings.gateways,
            "mac": self.mac.hex(),
            "mtu": self.settings.mtu,
            "ttl": self.settings.ttl,
            "errors": self.settings.icmp_errors,
            "redirects": self.settings.redirects,
            "uid": account.pw_uid,
            "gid": account.pw_gid,
            "queue": self.queue,
            "neighbours": self.neighbours,
            "sockets": self.sockets,
            "control": theirs.fileno(),
        }
        process = subprocess.Popen(
            launch.command("neatstack.control.link", json.dumps(config)),
            pass_fds=[self.queue, self.neighbours, theirs.fileno(), *self.sockets],
            stdin=subprocess.DEVNULL,
            cwd="/",
        )
        process.returncode = 0  # not Popen's to wait for
        theirs.close()
        self.pid = process.pid
        self._watch(os.pidfd_open(process.pid), ours)
        data = {"process": True, "pid": self.pid, "incarnation": self.incarnation}
        self.store.put("process.link", data, [self.pidfd, ours.fileno()])
        for told in self.contents():
            self.ask(told)

    def _watch(self, pidfd: int, control: socket.socket) -> None:
        self.pidfd, self._line = pidfd, ControlLine(control, self._said)
        asyncio.get_running_loop().add_reader(pidfd, self._died)

    def _died(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self.pidfd)
        log.warning("link (pid %d) %s", self.pid, recovery.describe(launch.exit_code(self.pidfd)))
        launch.reap(self.pidfd)
        os.close(self.pidfd)
        self.pidfd = -1  # nobody may signal what gets the number next
        if self._line is not None:
            self._line.close()
            self._line = None
        quick = time.monotonic() - self.started_at < 1.0
        self._backoff = min(self._backoff * 2, LINK_BACKOFF[1]) if quick else LINK_BACKOFF[0]
        loop.call_later(self._backoff if quick else 0, self._launch)
