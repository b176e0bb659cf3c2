"""The stack's device: a TAP with a queue for each replica slot and one for link, and its host side in a namespace."""

import ctypes
import json
import os
import subprocess
import threading
from ipaddress import ip_interface
from pathlib import Path

from neatstack.control.errors import NeatError
from neatstack.control.settings import Settings

CLONE_NEWNET = 0x40000000
TABLE = 1 << 16  # bytes of /proc/net/dev that are looked at
DROPPED = 8 + 3  # its column after the name: of what the device sends, which is what the stack receives
NAMESPACES = Path("/run/netns")  # where `ip netns` keeps them


def open_queues(settings: Settings) -> list[int]:
    """Make the TAP; its queues, the last one link's. Raises NeatError."""
    from neatstack.dataplane.driver import tap

    place = _namespace(settings.netns)
    try:
        return list(tap.open_queues(settings.device, settings.max_replicas + 1, place))
    except OSError as error:
        raise NeatError(f"{error.strerror}; see `neat doctor`, or choose another --device") from None


def configure_host_side(settings: Settings) -> None:
    """Give the kernel's side of the TAP its addresses and set it up. Blocks; raises NeatError.

    The addresses must be free in that namespace: with the kernel answering for one of them too, each would take the
    other's connections. iproute2 does it in a few milliseconds, where a netlink library takes hundreds to load.
    """
    links = json.loads(_ip(settings, "-json", "address", "show") or "[]")
    taken = {address.get("local") for link in links for address in link.get("addr_info", ())}
    for option, addresses in (("address", settings.addresses), ("host_address", settings.host_addresses)):
        for address in (str(ip_interface(text).ip) for text in addresses):
            if address in taken:
                raise NeatError(f"{option}: {address} is in use in this network namespace; choose another one")
    for text in settings.host_addresses:
        # no duplicate address detection: who else is on this link has other addresses, and nobody shall wait for it
        more = ("nodad",) if ip_interface(text).version == 6 else ()
        _ip(settings, "address", "add", text, "dev", settings.device, *more)
    _ip(settings, "link", "set", settings.device, "mtu", str(settings.mtu), "up")


class QueueDrops:
    """Frames for the stack that found a queue full, as the kernel counts them for the device."""

    def __init__(self, settings: Settings) -> None:
        self._device = settings.device.encode() + b":"
        self._file = -1
        opening = threading.Thread(target=self._open, args=(_namespace(settings.netns),))
        opening.start()  # a thread of its own, which ends in that namespace
        opening.join()

    def read(self) -> int:
        """How many since the device is there; 0 when the kernel does not tell."""
        if self._file < 0:
            return 0
        for line in os.pread(self._file, TABLE, 0).splitlines():
            if line.lstrip().startswith(self._device):
                return int(line.partition(b":")[2].split()[DROPPED])
        return 0

    def _open(self, place: str | None) -> None:
        try:
            if place is not None:
                namespace = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET):
                        return
                finally:
                    os.close(namespace)
            self._file = os.open("/proc/thread-self/net/dev", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            pass


def _ip(settings: Settings, *arguments: str) -> str:
    """What `ip` prints, in the namespace of the host side. Raises NeatError."""
    where = ("-netns", settings.netns) if settings.netns else ()
    try:
        done = subprocess.run(("ip", *where, *arguments), capture_output=True, text=True, timeout=10)
    except FileNotFoundError:
        raise NeatError("there is no command `ip`; install the package iproute2") from None
    except subprocess.TimeoutExpired:
        raise NeatError(f"`ip` does not answer; cannot configure {settings.device}") from None
    if done.returncode:
        raise NeatError(f"cannot configure {settings.device}: {' '.join(done.stderr.split()) or 'ip has failed'}")
    return done.stdout


def _namespace(name: str | None) -> str | None:
    if name is None:
        return None
    path = NAMESPACES / name
    if not path.exists():
        raise NeatError(f"netns: there is no network namespace {name}; make it with `ip netns add {name}`")
    return str(path)
