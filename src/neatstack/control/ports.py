"""Who has bound which port: the one authority of a stack, with Linux's rules.

Pure bookkeeping: no system calls, no replicas. Ports are numbers in host order. An IPv4 address that a socket of IPv6
was given in its mapped form is an `IPv4Address` here; `::` takes both families, unless the socket is for IPv6 only.
"""

import errno
import secrets
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address
from typing import Any

Address = IPv4Address | IPv6Address

ANY, ANY6 = IPv4Address(0), IPv6Address(0)
LOOPBACK = IPv4Network("127.0.0.0/8")
EPHEMERAL = range(32768, 61000)  # ip_local_port_range's default
UNPRIVILEGED = 1024  # ip_unprivileged_port_start's default
MOST_BINDINGS = 16384
MOST_LISTENERS = 1024  # MAX_LISTENERS of a replica
MOST_PER_PROGRAM = 2048
MOST_GROUPS = 256  # GROUPS of a replica
MOST_GROUPS_OF_SOCKET = 20  # igmp_max_memberships' default


class Refused(Exception):
    """A request is refused; `errno` says why, as the system call would."""

    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode[number])
        self.errno = number


@dataclass(frozen=True)
class ListenOptions:
    """What a listener's options are to the replicas, as struct neat_request in layout.h has them; 0: not set."""

    mss: int = 0
    defer: int = 0
    syn_retries: int = 0
    fastopen: int = 0
    congestion: int = 0
    save_syn: int = 0
    least_ttl: int = 0
    least_hops: int = 0
    fastopen_keys: str = ""  # hexadecimal, up to two of 16 bytes


@dataclass
class Binding:
    """One bound socket, possibly held by several programs after fork(); or all that share a port by SO_REUSEPORT.

    Those are one to the replicas, so that connections are spread over all who accept, whichever socket they have.
    """

    number: int
    address: Address
    port: int
    uid: int  # of the process that bound it
    reuse_address: bool = False
    reuse_port: bool = False
    datagram: bool = False  # UDP, whose ports are others than TCP's
    v6only: bool = False  # IPV6_V6ONLY: nothing of IPv4 comes to `::`
    channel: int = 0  # of UDP: the program in whose memory it lives, and its name for it
    cookie: int = 0
    groups: list[Address] = field(default_factory=list)  # that it has joined
    backlog: int | None = None  # None: not listening
    holders: dict[int, int] = field(default_factory=dict)  # channel -> how many sockets of its program
    options: ListenOptions = ListenOptions()

    @property
    def listening(self) -> bool:
        return self.backlog is not None

    @property
    def told(self) -> bool:
        """Do replicas know it?"""
        return self.listening or self.datagram

    def overlaps(self, address: Address, port: int, v6only: bool = False) -> bool:
        """Could something be for both? inet_rcv_saddr_equal and ipv6_rcv_saddr_equal of Linux."""
        if self.port != port:
            return False
        same = self.address == address
        return same or covers(self.address, self.v6only, address) or covers(address, v6only, self.address)

    def to_data(self) -> dict[str, Any]:
        """For the keeper."""
        return {
            "number": self.number,
            "address": str(self.address),
            "port": self.port,
            "uid": self.uid,
            "reuse_address": self.reuse_address,
            "reuse_port": self.reuse_port,
            "datagram": self.datagram,
            "v6only": self.v6only,
            "channel": self.channel,
            "cookie": self.cookie,
            "groups": [str(group) for group in self.groups],
            "backlog": self.backlog,
            "options": asdict(self.options),
            "holders": sorted(self.holders.items()),
        }

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> "Binding":
        values = {**data, "address": ip_address(data["address"]), "holders": dict(data["holders"])}
        values["groups"] = [ip_address(group) for group in data["groups"]]
        values["options"] = ListenOptions(**data.get("options", {}))
        return cls(**values)


def covers(any_address: Address, v6only: bool, address: Address) -> bool:
    """Does a socket that is bound to `any_address` get what is for `address`, because that means any?"""
    if any_address == ANY6:
        return not (v6only and isinstance(address, IPv4Address))
    return any_address == ANY and isinstance(address, IPv4Address)


class Ports:
    """Every binding of the stack. `own6` are its IPv6 addresses, which may change."""

    def __init__(
        self, own: Collection[IPv4Address], bindings: Iterable[Binding] = (), networks: Iterable[IPv4Network] = ()
    ) -> None:
        self.own = set(own)
        self.own6: set[IPv6Address] = set()
        self.broadcast = {IPv4Address("255.255.255.255"), *(network.broadcast_address for network in networks)}
        self.bindings = {binding.number: binding for binding in bindings}
        self._by_port: dict[tuple[bool, int], list[Binding]] = {}  # UDP or not, port
        for binding in self.bindings.values():
            self._by_port.setdefault((binding.datagram, binding.port), []).append(binding)
        self._next = max(self.bindings, default=0) + 1

    def __iter__(self) -> Iterator[Binding]:
        return iter(list(self.bindings.values()))

    def bind(
        self,
        channel: int,
        uid: int,
        address: Address,
        port: int,
        *,
        reuse_address: bool = False,
        reuse_port: bool = False,
        datagram: bool = False,
        v6only: bool = False,
        cookie: int = 0,
    ) -> Binding:
        """Bind for the program with `channel`; port 0 chooses one. Raises Refused with bind(2)'s errno."""
        group = datagram and (address.is_multicast or address in self.broadcast)
        if not self._is_own(address) and not group:
            raise Refused(errno.EADDRNOTAVAIL)
        if 0 < port < UNPRIVILEGED and uid != 0:
            raise Refused(errno.EACCES)
        if len(self.bindings) >= MOST_BINDINGS or self._count(channel) >= MOST_PER_PROGRAM:
            raise Refused(errno.ENOBUFS)
        binding = Binding(self._next, address, port, uid, reuse_address, reuse_port, holders={channel: 1})
        binding.v6only = v6only and isinstance(address, IPv6Address)
        if datagram:
            binding.datagram, binding.channel, binding.cookie = True, channel, cookie
        elif port and reuse_port and (same := self._group(binding)):
            same.holders[channel] = same.holders.get(channel, 0) + 1
            return same
        if port == 0:
            binding.port = self._choose(binding)
        elif any(self._conflict(other, binding) for other in self._by_port.get((datagram, port), ())):
            raise Refused(errno.EADDRINUSE)
        self._next += 1
        self.bindings[binding.number] = binding
        self._by_port.setdefault((datagram, binding.port), []).append(binding)
        return binding

    def listen(self, channel: int, number: int, backlog: int, options: ListenOptions = ListenOptions()) -> Binding:
        """The binding accepts from now on, or has a new backlog and options. Raises Refused with listen(2)'s errno.

        Two sockets may share a port by SO_REUSEADDR while neither listens; when the second then wants to listen, it is
        too late: the check is made again, as Linux does.
        """
        binding = self.held(channel, number)
        if binding.datagram:
            raise Refused(errno.EOPNOTSUPP)
        if not binding.listening:
            others = (b for b in self._by_port[False, binding.port] if b is not binding and b.listening)
            if any(self._conflict(other, binding) for other in others):
                raise Refused(errno.EADDRINUSE)
            if sum(b.listening for b in self.bindings.values()) >= MOST_LISTENERS:
                raise Refused(errno.ENOBUFS)
        binding.backlog = backlog
        binding.options = options
        return binding

    # rfc: 9776:3.2-resources, 9777:4.2-resources
    def join(self, channel: int, number: int, group: Address) -> Binding:
        """The UDP socket joins a group of hosts. Raises Refused with the errno of IP_ADD_MEMBERSHIP."""
        binding = self.held(channel, number)
        if not binding.datagram or not group.is_multicast:
            raise Refused(errno.EINVAL)
        if group in binding.groups:
            raise Refused(errno.EADDRINUSE)
        everybody = self.groups()
        if len(binding.groups) >= MOST_GROUPS_OF_SOCKET or (group not in everybody and len(everybody) >= MOST_GROUPS):
            raise Refused(errno.ENOBUFS)
        binding.groups.append(group)
        return binding

    def leave(self, channel: int, number: int, group: Address) -> Binding:
        """The same for IP_DROP_MEMBERSHIP."""
        binding = self.held(channel, number)
        if group not in binding.groups:
            raise Refused(errno.EADDRNOTAVAIL)
        binding.groups.remove(group)
        return binding

    def groups(self) -> set[Address]:
        """Every group that somebody has joined."""
        return {group for binding in self.bindings.values() for group in binding.groups}

    def held(self, channel: int, number: int) -> Binding:
        """The binding, which the program must hold."""
        binding = self.bindings.get(number)
        if binding is None or channel not in binding.holders:
            raise Refused(errno.EBADF)
        return binding

    def inherit(self, parent: int, child: int) -> list[Binding]:
        """After a fork the child holds what its parent holds."""
        shared = self.of(parent)
        for binding in shared:
            binding.holders[child] = binding.holders[parent]
        return shared

    def of(self, channel: int) -> list[Binding]:
        """What the program holds."""
        return [binding for binding in self.bindings.values() if channel in binding.holders]

    def release(self, channel: int, number: int, *, dead: bool = False) -> Binding:
        """The program has closed one socket of the binding, or all if it is dead; without holders it is free again."""
        binding = self.held(channel, number)
        binding.holders[channel] -= 1
        if dead or not binding.holders[channel]:
            del binding.holders[channel]
        if not binding.holders:
            del self.bindings[number]
            same = self._by_port[binding.datagram, binding.port]
            same.remove(binding)
            if not same:
                del self._by_port[binding.datagram, binding.port]
        return binding

    def _count(self, channel: int) -> int:
        return sum(channel in binding.holders for binding in self.bindings.values())

    def _group(self, new: Binding) -> Binding | None:
        """The binding whose port the new one may share by SO_REUSEPORT."""
        same = (b for b in self._by_port.get((False, new.port), ()) if b.reuse_port and b.uid == new.uid)
        return next((b for b in same if (b.address, b.v6only) == (new.address, new.v6only)), None)

    @staticmethod
    def _conflict(old: Binding, new: Binding) -> bool:
        """inet_csk_bind_conflict of Linux; for UDP inet_rcv_saddr_equal and udp_lib_lport_inuse."""
        if not old.overlaps(new.address, new.port, new.v6only):
            return False
        if old.reuse_port and new.reuse_port and old.uid == new.uid:
            return False
        return not (old.reuse_address and new.reuse_address and not old.listening)

    def _is_own(self, address: Address) -> bool:
        """May a socket be bound to it?"""
        if isinstance(address, IPv6Address):
            return address == ANY6 or address.is_loopback or address in self.own6
        return address == ANY or address in self.own or address in LOOPBACK

    def _choose(self, new: Binding) -> int:
        """A free port, from a random one on, so that it cannot be guessed."""
        start = secrets.randbelow(len(EPHEMERAL))
        for step in range(len(EPHEMERAL)):
            port = EPHEMERAL[(start + step) % len(EPHEMERAL)]
            there = self._by_port.get((new.datagram, port), ())
            if not any(other.overlaps(new.address, port, new.v6only) for other in there):
                return port
        raise Refused(errno.EADDRINUSE)
