"""The addresses of `neat up`, checked: the stack's own, its gateways, and the kernel's at the device's other end."""

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, IPv6Network, ip_address, ip_interface
from typing import Any

Interface = IPv4Interface | IPv6Interface
Address = IPv4Address | IPv6Address

MOST_ADDRESSES = 8  # NEAT_MAX_ADDRESSES of layout.h
MOST_GATEWAYS = 8
LENGTHS = {4: (8, 30), 6: (16, 127)}
EXAMPLES = {4: "10.77.0.2/24", 6: "fd77::2/64"}
LINK_LOCAL = IPv6Network("fe80::/64")
SMALLEST_MTU = 1280  # of IPv6: RFC 8200 section 5


@dataclass(frozen=True)
class Addressing:
    """What the options say of addresses. Raises ValueError, with the option's name first, when they do not fit."""

    own: list[Interface]
    gateways: list[Address] = field(default_factory=list)
    host: list[Interface] = field(default_factory=list)

    def check(self, mtu: int, slaac: bool) -> None:
        """Whether all go together."""
        used = [interface.ip for interface in self.own]
        if len(set(used)) < len(used):
            raise ValueError("address: one is given twice; give each once")
        if not any(interface.version == 4 for interface in self.own):
            raise ValueError(f"address: there is no IPv4 address; give one too, such as {EXAMPLES[4]}")
        ipv6 = slaac or any(interface.version == 6 for interface in self.own)
        formed = ipv6 and not any(interface.version == 6 and interface.is_link_local for interface in self.own)
        if len(used) + formed > MOST_ADDRESSES:
            counted = ", the link-local one included" if formed else ""
            raise ValueError(f"address: a stack has at most {MOST_ADDRESSES}{counted}; leave some away")
        # rfc: 8200:5-least
        if ipv6 and mtu < SMALLEST_MTU:
            raise ValueError(f"mtu: IPv6 needs {SMALLEST_MTU} bytes at least; got {mtu}")
        self._check_gateways(ipv6)
        for interface in self.host:
            if interface.ip in used:
                network = next(own.network for own in self.own if own.ip == interface.ip)
                raise ValueError(
                    f"host_address: {interface.ip} is the stack's own address; choose another in {network}"
                )

    def _check_gateways(self, ipv6: bool) -> None:
        for gateway in self.gateways:
            if self.gateways.count(gateway) > 1:
                raise ValueError(f"gateway: {gateway} is given twice; give it once")
            if sum(other.version == gateway.version for other in self.gateways) > MOST_GATEWAYS:
                raise ValueError(f"gateway: there are at most {MOST_GATEWAYS} of a family; leave some away")
            networks = [interface.network for interface in self.own if interface.version == gateway.version]
            networks += [LINK_LOCAL] if ipv6 and gateway.version == 6 else []
            if not networks:
                raise ValueError(f"gateway: {gateway} is of a family that the stack has no address of; give one too")
            if not any(gateway in network for network in networks) or any(
                gateway == interface.ip for interface in self.own
            ):
                shown = " or ".join(str(network) for network in networks)
                raise ValueError(f"gateway: {gateway} is not another address in {shown}; choose one that is")

    def gateway(self, version: int) -> Address | None:
        """The first of one family."""
        return next((gateway for gateway in self.gateways if gateway.version == version), None)

    def host_side(self) -> list[Interface]:
        """The kernel's addresses: those given, and of a family of which none is given, one in each network of ours."""
        given = {interface.version for interface in self.host}
        networks = {interface.network: None for interface in self.own if interface.version not in given}
        # link-local addresses are the kernel's own affair
        chosen = [self._default_host(network) for network in networks if not network.is_link_local]
        return sorted([*self.host, *chosen], key=lambda interface: interface.version)

    def _default_host(self, network: Any) -> Interface:
        """The gateway, else the first address of the network that is not ours."""
        own = {interface.ip for interface in self.own}
        gateway = self.gateway(network.version)
        chosen = gateway if gateway is not None and gateway in network else network.network_address + 1
        while chosen in own:
            chosen += 1
        return ip_interface(f"{chosen}/{network.prefixlen}")


def listed(value: Any) -> list[Any]:
    """What may be given once or as a list."""
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def own_address(value: Any) -> Interface:
    """An address that a stack may have. Raises ValueError."""
    interface = host_address(value)
    least, most = LENGTHS[interface.version]
    network, address = interface.network, interface.ip
    if not least <= network.prefixlen <= most:
        raise ValueError(f"give the prefix length too, from /{least} to /{most}, such as {EXAMPLES[interface.version]}")
    if address.version == 4 and address in (network.network_address, network.broadcast_address):
        raise ValueError("that is the network's or the broadcast address; choose one between them")
    # RFC 4291 section 2.6.1; there is none in a network of two (RFC 6164)
    if address.version == 6 and address == network.network_address and network.prefixlen < 127:
        raise ValueError("that is the anycast address of the network's routers; choose another one")
    if address.is_multicast or address.is_loopback or address.is_unspecified or _is_special(address):
        raise ValueError("choose a unicast address")
    if address.version == 6 and address.is_link_local and network.prefixlen != 64:
        raise ValueError("the prefix of link-local addresses is fe80::/64; choose one there")
    return interface


def _is_special(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return address.is_reserved
    return address.ipv4_mapped is not None or address.packed[:12] == bytes(12)


def host_address(value: Any) -> Interface:
    """An address with the length of its prefix. Raises ValueError."""
    try:
        return ip_interface(value)
    except ValueError:
        raise ValueError(f"input is not an address and a prefix length, such as {EXAMPLES[4]}; got {value!r}") from None


def gateway(value: Any) -> Address:
    """Raises ValueError."""
    try:
        return ip_address(value)
    except ValueError:
        raise ValueError(f"input is not an address; got {value!r}") from None


def endpoint(address: str, port: object) -> str:
    """An address and a port as RFC 5952 section 6 writes them."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
