"""What a stack runs with: the checked options, as plain values that travel to the keeper and the manager as JSON.

`config.py` makes them from a file and the command line. They are apart because pydantic takes 100 ms to import, which
only the command line should pay.
"""

import json
import re
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

DEFAULT_NAME = "default"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
NAME_RULE = "use letters, digits, '-', '_' and '.', at most 64"


@dataclass(frozen=True)
class Settings:
    """The options of one stack. Addresses are text, so that the whole is JSON as it stands."""

    name: str = DEFAULT_NAME
    address: str = "10.77.0.2/24"
    gateway: str | None = None
    device: str = "neat0"
    host_address: str = "10.77.0.1/24"
    netns: str | None = None  # a name under /run/netns; None: the namespace of the caller
    mtu: int = 1500
    replicas: int = 2
    max_replicas: int = 4
    max_connections: int = 65536  # per replica
    sockets: int = 8192  # per program and replica
    receive_buffer: int = 524288  # bytes, per socket
    send_buffer: int = 524288
    max_backlog: int = 4096
    user: str = "nobody"  # replicas and link run as this user
    seccomp: bool = True
    recovery: str = "adopt"
    spares: int = 1
    rejuvenate_every: float | None = None  # seconds
    rejuvenate_jitter: float = 0.1
    allow_faults: bool = False
    faults: dict[str, Any] | None = None  # fault injector round the device, for tests

    @property
    def interface(self) -> IPv4Interface:
        return IPv4Interface(self.address)

    @property
    def gateway_address(self) -> IPv4Address | None:
        return IPv4Address(self.gateway) if self.gateway else None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Settings":
        return cls(**json.loads(text))
