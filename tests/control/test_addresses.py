"""The addresses that the stack has: what link says of IPv6 reaches the page, the steering and the ports."""

import asyncio
import mmap
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from neatstack.control import pages
from neatstack.control.addresses import Addresses
from neatstack.control.pages import DEPRECATED, Own, Route, StackPage
from neatstack.control.ports import Ports
from neatstack.control.settings import Settings

V4 = Own(IPv4Address("10.77.0.2"), 24)
OPERATORS = Route(IPv4Address("10.9.0.0"), 16, IPv4Address("10.77.0.9"))
GLOBAL, LOCAL, OTHER = "fd77::2", "fe80::2", "2001:db8::2"


class Steering:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[list[str]] = []

    def configure(self, keys: tuple[int, int, int], addresses: list[str], link_queue: int) -> None:
        self.told.append(addresses)


class Bench:
    def __init__(self, before: StackPage | None = None) -> None:
        self.view = mmap.mmap(pages.memory("stack", mmap.PAGESIZE), mmap.PAGESIZE)
        address = IPv4Address("10.77.0.2")
        self.page = before or StackPage(address, address, None, 1500, 1, 1, bytes(6), 1, 1, (1, 1, 1), own=[V4])
        self.page.write(self.view)
        self.steering, self.ports = Steering(), Ports([address])
        made = Settings(routes=["10.9.0.0/16 via 10.77.0.9"])
        self.addresses = Addresses(made, self.page, self.view, self.steering, self.ports)  # type: ignore[arg-type]

    def read(self) -> StackPage:
        return StackPage.read(self.view)


def told(*addresses: str, preferred_until: float | None = None, **more: Any) -> dict[str, Any]:
    listed = [
        {"address": address, "length": 64, "formed": False, "valid_until": None, "preferred_until": preferred_until}
        for address in addresses
    ]
    return {"addresses": listed, "router": None, "router_until": None, "mtu": None, "hops": 0} | more


def run(check: Callable[[Bench], None]) -> None:
    async def inside() -> None:
        check(Bench())

    asyncio.run(inside())


def test_link_tells_of_them() -> None:
    def check(bench: Bench) -> None:
        assert bench.read().mtu6 == 0
        bench.addresses.changed(told(GLOBAL, LOCAL, router="fe80::1", mtu=1400, hops=31))
        page = bench.read()
        assert page.own == [V4, Own(IPv6Address(GLOBAL), 64), Own(IPv6Address(LOCAL), 64)]
        assert (page.mtu6, page.hop_limit, page.gateway6) == (1400, 31, IPv6Address("fe80::1"))
        assert bench.steering.told == [["10.77.0.2", GLOBAL, LOCAL]]
        assert bench.ports.own6 == {IPv6Address(GLOBAL), IPv6Address(LOCAL)}

    run(check)


@pytest.mark.rfc("4861:6.3.4-6", "1122:gateways")
def test_link_tells_of_ways() -> None:
    def check(bench: Bench) -> None:
        bench.addresses.changed(told(GLOBAL, on_link={"2001:db8::/64": None, "2001:db8:7::/48": 7.5}))
        bench.addresses.ways({"gateway": "10.77.0.9", "redirects": {}})
        near = [Route(IPv6Address("2001:db8::"), 64), Route(IPv6Address("2001:db8:7::"), 48)]
        assert (bench.read().routes, bench.read().gateway) == ([OPERATORS, *near], IPv4Address("10.77.0.9"))
        bench.addresses.changed(told(GLOBAL))
        assert (bench.read().routes, bench.read().gateway) == ([OPERATORS], IPv4Address("10.77.0.9"))
        bench.addresses.ways({"gateway": None, "redirects": {}})
        assert bench.read().gateway is None

    run(check)


@pytest.mark.rfc("1122:redirect", "4861:8.3-1")
def test_link_tells_of_redirects() -> None:
    def check(bench: Bench) -> None:
        redirects = {"192.0.2.7": "10.77.0.9", "2001:db8::7": "fe80::9", "2001:db8::8": "2001:db8::8"}
        bench.addresses.ways({"gateway": None, "redirects": redirects})
        seven, gateway = IPv4Address("192.0.2.7"), IPv4Address("10.77.0.9")
        six, eight, other = (IPv6Address(text) for text in ("2001:db8::7", "2001:db8::8", "fe80::9"))
        ways = [OPERATORS, Route(seven, 32, gateway), Route(six, 128, other), Route(eight, 128)]
        assert bench.read().routes == ways
        again = Bench(bench.read())  # a new manager finds them
        again.addresses.changed(told(GLOBAL))
        assert again.read().routes == ways
        again.addresses.ways({"gateway": None, "redirects": {}})
        assert again.read().routes == [OPERATORS]

    run(check)


def test_all_that_can_be_learned_has_room() -> None:
    def check(bench: Bench) -> None:
        near = {f"2001:db8:{n:x}::/64": None for n in range(pages.MOST_PREFIXES)}
        bench.addresses.operators *= pages.MOST_ROUTES
        bench.addresses.changed(told(GLOBAL, on_link=near))
        redirects = {f"192.0.2.{n}": "10.77.0.9" for n in range(pages.MOST_REDIRECTS)}
        bench.addresses.ways({"gateway": None, "redirects": redirects})
        assert len(bench.read().routes) == 64 and str(bench.read().routes[-1].destination) == "192.0.2.47"
        assert bench.read().table == bench.page.table

    run(check)


def test_without_a_routers_word_the_device_counts() -> None:
    def check(bench: Bench) -> None:
        bench.addresses.changed(told(LOCAL))
        assert bench.read().mtu6 == Settings().mtu
        assert bench.read().gateway6 is None

    run(check)


def test_those_that_stay_keep_their_place() -> None:
    def check(bench: Bench) -> None:
        bench.addresses.changed(told(GLOBAL, LOCAL))
        bench.addresses.changed(told(OTHER, LOCAL))
        assert [str(own.address) for own in bench.read().own[1:]] == [LOCAL, OTHER]
        bench.addresses.changed(told(LOCAL, OTHER, mtu=1300))
        assert len(bench.steering.told) == 2  # not for nothing
        assert bench.read().mtu6 == 1300

    run(check)


def test_one_is_deprecated_when_its_time_comes() -> None:
    async def inside() -> None:
        bench = Bench()
        bench.addresses.changed(told(OTHER, preferred_until=time.monotonic() + 0.05))
        assert bench.read().own[1].flags == 0
        end = time.monotonic() + 5
        while bench.read().own[1].flags != DEPRECATED:
            assert time.monotonic() < end
            await asyncio.sleep(0.01)

    asyncio.run(inside())
