"""Options of `neat up`, from a TOML file and the command line, checked."""

import pwd
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from neatstack.control import addressing, durations, pages, routes
from neatstack.control.addressing import Address, Addressing, Interface
from neatstack.control.errors import NeatError
from neatstack.control.pages import MOST_REPLICAS as MAX_REPLICAS
from neatstack.control.pages import Route
from neatstack.control.settings import DEFAULT_ADDRESS, DEFAULT_NAME, NAME, NAME_RULE, Settings

MAX_SPARES = 8
INTERFACE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
FASTOPEN_KEY = "-".join(["[0-9a-fA-F]{1,8}"] * 4)
FASTOPEN_KEYS = re.compile(f"{FASTOPEN_KEY}(,{FASTOPEN_KEY})?")
LARGEST_CHANNEL = 1 << 40  # bytes of the buffers of one program in one replica: of address space, 128 TiB


def fastopen_key(text: str) -> bytes:
    """The 16 bytes that Linux makes of the text of its tcp_fastopen_key."""
    return b"".join(int(group, 16).to_bytes(4, "little") for group in text.split("-") if group)


class Faults(BaseModel):
    """What the fault injector does to frames, each way; for tests. Chances are of 1."""

    model_config = ConfigDict(extra="forbid", strict=True)

    seed: int = Field(1, ge=0, lt=2**64)
    drop: float = Field(0.0, ge=0, le=1)
    reorder: float = Field(0.0, ge=0, le=1)
    duplicate: float = Field(0.0, ge=0, le=1)
    corrupt: float = Field(0.0, ge=0, le=1)


class Options(BaseModel):
    """Every option, with its default. The names are those of the TOML file and, with dashes, of the command line."""

    model_config = ConfigDict(extra="forbid", validate_default=True)

    name: str = DEFAULT_NAME
    address: list[Any] = [DEFAULT_ADDRESS]
    gateway: list[Any] = []
    route: list[Any] = []
    redirects: bool = False
    slaac: bool = False
    device: str = "tap:neat0"
    host_address: list[Any] = []
    netns: str | None = None
    mtu: int = Field(1500, ge=576, le=65535)
    ttl: int = Field(64, ge=1, le=255)
    hop_limit: int = Field(64, ge=1, le=255)
    icmp_errors: int = Field(200, ge=0, le=65535)
    dad_transmits: int = Field(1, ge=0, le=100)
    replicas: int = Field(2, ge=1, le=MAX_REPLICAS)
    max_replicas: int | None = Field(None, ge=1, le=MAX_REPLICAS)
    max_connections: int = Field(65536, ge=64, le=1 << 20)
    sockets: int = Field(8192, ge=64, le=65536)
    receive_buffer: int = Field(524288, ge=4096, le=1 << 30)
    send_buffer: int = Field(524288, ge=4096, le=1 << 30)
    max_backlog: int = Field(4096, ge=1, le=65535)
    user: str = "nobody"
    seccomp: bool = True
    ecn: Literal["off", "passive", "active"] = "passive"
    timestamps: bool = True
    sack: bool = True
    window_scaling: bool = True
    slow_start_after_idle: bool = True
    notsent_lowat: int = Field(0, ge=0, le=2**32 - 1)
    fastopen: int = 3
    fastopen_key: str | None = None
    recovery: Literal["adopt", "reset"] = "adopt"
    spares: int = Field(1, ge=0, le=MAX_SPARES)
    rejuvenate_every: float | None = None
    rejuvenate_jitter: float = Field(0.1, ge=0, le=1)
    allow_faults: bool = False
    faults: Faults | None = None

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError(NAME_RULE)
        return name

    @field_validator("address", mode="before")
    @classmethod
    def _address(cls, values: Any) -> list[Interface]:
        return [addressing.own_address(value) for value in addressing.listed(values)]

    @field_validator("gateway", mode="before")
    @classmethod
    def _gateway(cls, values: Any) -> list[Address]:
        return [addressing.gateway(value) for value in addressing.listed(values)]

    @field_validator("route", mode="before")
    @classmethod
    def _route(cls, values: Any) -> list[Route]:
        return [routes.parse(value) for value in addressing.listed(values)]

    @field_validator("host_address", mode="before")
    @classmethod
    def _host_address(cls, values: Any) -> list[Interface]:
        return [addressing.host_address(value) for value in addressing.listed(values)]

    @field_validator("device")
    @classmethod
    def _device(cls, device: str) -> str:
        kind, _, interface = device.partition(":")
        if kind != "tap" or not INTERFACE.fullmatch(interface) or interface in (".", ".."):
            raise ValueError("use tap:NAME, such as tap:neat0, the name at most 15 characters")
        return device

    @field_validator("netns")
    @classmethod
    def _netns(cls, netns: str | None) -> str | None:
        if netns is not None and ("/" in netns or netns in ("", ".", "..")):
            raise ValueError("use the name of a namespace that `ip netns list` shows")
        return netns

    @field_validator("rejuvenate_every", mode="before")
    @classmethod
    def _duration(cls, value: Any) -> float | None:
        return None if value is None else durations.seconds(value)

    @field_validator("sockets", "receive_buffer", "send_buffer")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            raise ValueError(f"use a power of two, such as {1 << value.bit_length()}")
        return value

    @field_validator("fastopen")
    @classmethod
    def _fastopen(cls, value: int) -> int:
        if value & ~pages.FASTOPEN:
            raise ValueError(f"use a sum of 1, 2, 4, 0x200 and 0x400 (see docs/operating.md); got {value:#x}")
        return value

    @field_validator("fastopen_key")
    @classmethod
    def _fastopen_key(cls, text: str | None) -> str | None:
        if text is not None and not FASTOPEN_KEYS.fullmatch(text):
            raise ValueError(
                "use four groups of hexadecimal digits, 01234567-89abcdef-01234567-89abcdef, or two such keys"
            )
        return text

    @field_validator("user")
    @classmethod
    def _user(cls, user: str) -> str:
        try:
            number = pwd.getpwnam(user).pw_uid
        except (KeyError, ValueError):  # the latter: there is a null byte
            raise ValueError("no such user; name one that exists, such as nobody") from None
        if number == 0:
            raise ValueError("replicas must not run as root; name an unprivileged user, such as nobody")
        return user

    @model_validator(mode="after")
    def _together(self) -> "Options":
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"replicas: {self.replicas} is more than max_replicas, {self.max_replicas}; raise that")
        each = self.receive_buffer + self.send_buffer
        if self.sockets * each > LARGEST_CHANNEL:
            most = 1 << (LARGEST_CHANNEL // each).bit_length() - 1
            raise ValueError(
                f"sockets: with buffers of that size there is room for {most} of a program; got {self.sockets}"
            )
        self._addressing().check(self.mtu, self.slaac)
        routes.check(self.route, self.address, self.slaac or any(own.version == 6 for own in self.address))
        return self

    def settings(self) -> Settings:
        """The values to run with: defaults that depend on other options are filled in."""
        values = self.model_dump(
            mode="json", exclude={"address", "gateway", "host_address", "route", "fastopen_key", *pages.WITHOUT}
        )
        values["without"] = [option for option in pages.WITHOUT if not getattr(self, option)]
        values["fastopen_keys"] = b"".join(map(fastopen_key, (self.fastopen_key or "").split(","))).hex()
        values["device"] = self.device.partition(":")[2]
        values["max_replicas"] = self.max_replicas or max(self.replicas, 4)
        addresses = self._addressing()
        values["addresses"] = [str(interface) for interface in addresses.own]
        values["host_addresses"] = [str(interface) for interface in addresses.host_side()]
        values["routes"] = [routes.text(route) for route in self.route]
        for name, version in (("gateways", 4), ("gateways6", 6)):
            values[name] = [str(gateway) for gateway in self.gateway if gateway.version == version]
        return Settings(**values)

    def _addressing(self) -> Addressing:
        return Addressing(self.address, self.gateway, self.host_address)


# rfc: 1122:configured
def load(file: Path | None, given: dict[str, Any]) -> Settings:
    """The settings from `file` (TOML; None: no file) and from `given`, the options of the command line, which win.

    Options whose value in `given` is None, or an empty list, were not given. Raises NeatError with one line that names
    the option and the remedy.
    """
    values = _read(file) if file else {}
    values.update({name: value for name, value in given.items() if value not in (None, [])})
    try:
        return Options(**values).settings()
    except ValidationError as error:
        raise NeatError(_explain(error, file), status=2) from None


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise NeatError(f"cannot read the configuration {file}: {error.strerror}; check --config", status=2) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise NeatError(f"the configuration {file} is not TOML: {error}; mend it there", status=2) from None


def _explain(error: ValidationError, file: Path | None) -> str:
    """The first error in one line."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        there = Faults if len(first["loc"]) > 1 else Options
        message = f"no such option; there are: {', '.join(there.model_fields)}"
    elif first["type"] == "model_type":
        message = f"write a table, such as {{ drop = 0.1 }}; got {first['input']!r}"
    elif first["type"].startswith(("int_", "float_", "finite_", "bool_", "string_", "literal_", "less_", "greater_")):
        message = f"{message[0].lower()}{message[1:]}; got {first['input']!r}"
    source = f" (options come from the command line and {file})" if file else ""
    return f"{where}: {message}{source}" if where else f"{message}{source}"
