"""What a stack runs with: the checked options, as plain values that travel to the keeper and the manager as JSON.

`config.py` makes them from a file and the command line. They are apart because pydantic takes 100 ms to import, which
only the command line should pay.
"""

import json
import re
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from typing import Any

DEFAULT_NAME = "default"
DEFAULT_ADDRESS = "10.77.0.2/24"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
NAME_RULE = "use letters, digits, '-', '_' and '.', at most 64"


@dataclass(frozen=True)
class Settings:
    """The options of one stack. Addresses are text, so that the whole is JSON as it stands."""

    name: str = DEFAULT_NAME
    addresses: list[str] = field(default_factory=lambda: [DEFAULT_ADDRESS])  # at least one of IPv4
    gateways: list[str] = field(default_factory=list)  # of IPv4, in order of preference
    gateways6: list[str] = field(default_factory=list)
    routes: list[str] = field(default_factory=list)  # as routes.py reads and writes them
    redirects: bool = False  # obeyed
    slaac: bool = False  # addresses from router advertisements
    device: str = "neat0"
    host_addresses: list[str] = field(default_factory=lambda: ["10.77.0.1/24"])  # IPv4 ones first
    netns: str | None = None  # a name under /run/netns; None: the namespace of the caller
    mtu: int = 1500
    ttl: int = 64  # of IPv4 packets
    hop_limit: int = 64  # of IPv6 packets, until a router tells another
    icmp_errors: int = 200  # in a second, of each replica and of link
    dad_transmits: int = 1  # solicitations that look for a duplicate of an IPv6 address; 0: none is looked for
    replicas: int = 2
    max_replicas: int = 4
    max_connections: int = 65536  # per replica
    sockets: int = 8192  # per program and replica
    receive_buffer: int = 524288  # bytes, per socket
    send_buffer: int = 524288
    max_backlog: int = 4096
    user: str = "nobody"  # replicas and link run as this user
    seccomp: bool = True
    ecn: str = "passive"
    without: list[str] = field(default_factory=list)  # options of TCP that are switched off: pages.WITHOUT
    notsent_lowat: int = 0  # as Linux's tcp_notsent_lowat; 0: no limit
    fastopen: int = 3  # as Linux's tcp_fastopen
    fastopen_keys: str = ""  # hexadecimal, one or two of 16 bytes; none: of the stack's own
    recovery: str = "adopt"
    spares: int = 1
    rejuvenate_every: float | None = None  # seconds
    rejuvenate_jitter: float = 0.1
    allow_faults: bool = False
    faults: dict[str, Any] | None = None  # fault injector round the device, for tests

    @property
    def address(self) -> str:
        """The one that is meant where there can be one only: the first of IPv4."""
        return str(self.interface)

    @property
    def host_address(self) -> str:
        """The kernel's at the other end of the device: the first."""
        return self.host_addresses[0]

    @property
    def interface(self) -> IPv4Interface:
        return self.interfaces4[0]

    @property
    def interfaces4(self) -> list[IPv4Interface]:
        return [each for each in map(ip_interface, self.addresses) if isinstance(each, IPv4Interface)]

    @property
    def interfaces6(self) -> list[IPv6Interface]:
        return [each for each in map(ip_interface, self.addresses) if isinstance(each, IPv6Interface)]

    @property
    def ipv6(self) -> bool:
        """Does the stack speak IPv6 on its device? On its loopback it always does."""
        return self.slaac or bool(self.interfaces6)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Settings":
        return cls(**json.loads(text))
