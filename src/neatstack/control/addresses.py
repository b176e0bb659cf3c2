"""The addresses that the stack has now: those that the operator has given, and what link says of IPv6.

Whoever needs them is told of every change: the stack page, from which replicas and programs read them; the steering
program, which sends nothing of others to replicas; the ports.
"""

import asyncio
import mmap
import time
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Any

from neatstack.control import routes
from neatstack.control.pages import DEPRECATED, Own, Route, StackPage
from neatstack.control.ports import Ports
from neatstack.control.redirects import way
from neatstack.control.settings import Settings

if TYPE_CHECKING:
    from neatstack.dataplane.driver.steer import Steering


class Addresses:
    """What is told of them, and to whom."""

    def __init__(
        self, settings: Settings, page: StackPage, page_view: mmap.mmap, steering: "Steering", ports: Ports
    ) -> None:
        self.settings = settings
        self.page, self._page_view = page, page_view
        self.steering = steering
        self.ports = ports
        self.operators = [routes.parse(text) for text in settings.routes]
        self.on_link: list[Route] = []
        learned = page.routes[len(self.operators) :]  # as a former manager has left them
        self.redirects = [route for route in learned if route.prefix == route.destination.max_prefixlen]
        self._timer: asyncio.TimerHandle | None = None

    def changed(self, told: dict[str, Any]) -> None:
        """Link has said this (`Discovery.to_data`)."""
        now = time.monotonic()
        page, before = self.page, list(self.page.own)
        page.own = [own for own in before if own.address.version == 4] + in_place(before, own6(told, now))
        page.mtu6 = told["mtu"] or self.settings.mtu
        page.hop_limit = told["hops"] or self.settings.hop_limit
        page.gateway6 = IPv6Address(told["router"]) if told["router"] else None
        self.on_link = on_link(told)
        page.routes = self._routes()
        page.write(self._page_view)
        if {own.address for own in page.own} != {own.address for own in before}:
            self.steering.configure(page.keys, [str(own.address) for own in page.own], page.link_queue)
        self.ports.own6 = {own.address for own in page.own if isinstance(own.address, IPv6Address)}
        self._look_again(told, now)

    def ways(self, told: dict[str, Any]) -> None:
        """Link has said this (`Link._tell_ways`)."""
        self.page.gateway = IPv4Address(told["gateway"]) if told["gateway"] else None
        self.redirects = [way(ip_address(host), ip_address(hop)) for host, hop in told["redirects"].items()]
        self.page.routes = self._routes()
        self.page.write(self._page_view)

    def _routes(self) -> list[Route]:
        return [*self.operators, *self.on_link, *self.redirects]

    def _look_again(self, told: dict[str, Any], now: float) -> None:
        """When the next address is no longer preferred."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        until = [each["preferred_until"] for each in told["addresses"] if each["preferred_until"] is not None]
        due = min((at for at in until if at > now), default=None)
        if due is not None:
            self._timer = asyncio.get_running_loop().call_later(due - now, self.changed, told)


def own6(told: dict[str, Any], now: float) -> list[Own]:
    """The IPv6 addresses that link has told of (RFC 4862 section 5.5.4: some are not for what is new)."""
    found = []
    for each in told["addresses"]:
        until = each["preferred_until"]
        flags = DEPRECATED if until is not None and until <= now else 0
        found.append(Own(IPv6Address(each["address"]), each["length"], flags))
    return found


def on_link(told: dict[str, Any]) -> list[Route]:
    """The prefixes whose hosts are on the link."""
    networks = map(IPv6Network, told.get("on_link", {}))
    return [Route(network.network_address, network.prefixlen) for network in networks]


def in_place(before: list[Own], now: list[Own]) -> list[Own]:
    """The present ones in the order of before, then the new ones: replicas read the page while it is written."""
    present = {own.address: own for own in now}
    kept = [present.pop(own.address) for own in before if own.address in present]
    return kept + list(present.values())
