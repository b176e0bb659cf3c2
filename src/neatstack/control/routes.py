"""Ways to networks that are neither ours nor behind the gateway: as the operator writes them, and who is next on them.

A route is written `10.9.0.0/16 via 10.77.0.9`, or with a comma, so that it is one word: `10.9.0.0/16,via 10.77.0.9`;
without `via` its hosts are on the link.
"""

import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from neatstack.control.addressing import LINK_LOCAL, Interface
from neatstack.control.pages import MOST_ROUTES, Address, Route

Network = IPv4Network | IPv6Network

FORM = re.compile(r"\s*(\S+?)\s*(?:[\s,]\s*via\s+(\S+)\s*)?")
EXAMPLE = "10.9.0.0/16,via 10.77.0.9"


def parse(value: object) -> Route:
    """One route of the operator. Raises ValueError."""
    found = FORM.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"input is not a network and perhaps a gateway, such as {EXAMPLE}; got {value!r}")
    network = _network(found[1])
    gateway = None
    if found[2] is not None:
        try:
            gateway = ip_address(found[2])
        except ValueError:
            raise ValueError(f"the gateway is not an address; got {found[2]!r}") from None
        if gateway.version != network.version:
            raise ValueError(f"{network} and {gateway} are of two families; choose a gateway of the network's")
        if gateway.is_unspecified or gateway.is_multicast or gateway.is_loopback:
            raise ValueError(f"{gateway} is no host's address; choose a gateway's")
    return Route(network.network_address, network.prefixlen, gateway)


def _network(text: str) -> Network:
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"input is not a network, such as {EXAMPLE}; got {text!r}") from None
    if network.prefixlen == 0:
        raise ValueError(f"{text} is everything; that is what the option gateway is for")
    if "/" in text and str(network.network_address) != str(ip_address(text.partition("/")[0])):
        raise ValueError(f"{text} has bits set behind its prefix; choose {network}")
    first = network.network_address
    if first.is_multicast or first.is_loopback or first.is_link_local or first.is_unspecified:
        raise ValueError(f"{network} is no network of other hosts' unicast addresses; choose one that is")
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise ValueError(f"{network} is IPv4; write it so")
    return network


def text(route: Route) -> str:
    """As `parse` takes it."""
    via = f" via {route.gateway}" if route.gateway is not None else ""
    return f"{route.destination}/{route.prefix}{via}"


def check(routes: list[Route], own: Iterable[Interface], ipv6: bool) -> None:
    """Whether they go together with our addresses. Raises ValueError, with the option's name first."""
    own = list(own)
    if len(routes) > MOST_ROUTES:
        raise ValueError(f"route: a stack has at most {MOST_ROUTES}; leave some away")
    networks = [route.network for route in routes]
    for route, network in zip(routes, networks, strict=True):
        ours = [interface.network for interface in own if interface.version == network.version]
        if networks.count(network) > 1:
            raise ValueError(f"route: {network} is given twice; give it once")
        if not (ipv6 if network.version == 6 else ours):
            raise ValueError(f"route: {network} is of a family that the stack has no address of; give one too")
        for mine in ours:
            if network.version == mine.version and network.subnet_of(mine):  # type: ignore[arg-type]
                raise ValueError(f"route: {network} is in the stack's own network {mine}; choose another one")
        _check_gateway(route, routes, own)


def _check_gateway(route: Route, routes: list[Route], own: list[Interface]) -> None:
    gateway = route.gateway
    if gateway is None:
        return
    if any(gateway == interface.ip for interface in own):
        raise ValueError(f"route: {gateway} is the stack's own address; choose another one")
    near = [interface.network for interface in own if interface.version == gateway.version]
    near += [LINK_LOCAL] if gateway.version == 6 else []
    near += [other.network for other in routes if other.gateway is None]
    if not any(gateway in network for network in near):
        raise ValueError(f"route: the gateway {gateway} is on no network of the stack; choose one that is")


def next_hop(host: Address, networks: Iterable[Network], routes: Iterable[Route]) -> Address | None:
    """Who takes packets for a host, by our networks and the routes, of which the longest prefix counts; None: neither
    says it, and the gateway does. As `find_way` of the replicas."""
    longest, hop = -1, None
    for network in networks:
        if host in network and network.prefixlen > longest:
            longest, hop = network.prefixlen, host
    for route in routes:
        if host in route.network and route.prefix > longest:
            longest, hop = route.prefix, route.gateway or host
    return hop
