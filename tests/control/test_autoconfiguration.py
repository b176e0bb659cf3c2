"""Routers and what they advertise: default router, addresses, MTU, and how long each lasts. In virtual time."""

import itertools
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address, IPv6Network
from typing import Any

import pytest

from neatstack.control import frames6
from neatstack.control import link as link_module
from neatstack.control.frames6 import ALL_NODES, OVERRIDE, ROUTER_SOLICITATION, SOLICITED
from neatstack.control.interface_id import interface_id, is_reserved
from tests.support.discovery import HOST, LOCAL, OTHER, OURS, PEER, ROUTER, Segment, built, mtu, packed, prefix, router

PREFIX = IPv6Network("2001:db8:1::/64")
Make = Callable[..., Segment]
ASKED_ROUTER = frames6.ROUTER | SOLICITED | OVERRIDE


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    clock, made = [1000.0], []
    monkeypatch.setattr(link_module.time, "monotonic", lambda: clock[0])

    def new(*addresses: str, **options: Any) -> Segment:
        made.append(Segment(clock, *(addresses or ("fe80::2/64",)), **{"slaac": True} | options))
        made[-1].early = made[-1].pass_time(1.1)
        return made[-1]

    yield new
    for each in made:
        each.close()


def advertise(segment: Segment, *options: bytes, source: bytes = ROUTER, lifetime: int = 1800, hops: int = 64) -> None:
    segment.say(router(*options, lifetime=lifetime, hops=hops), source, ALL_NODES)


def formed(segment: Segment) -> list[str]:
    return [text for text in segment.addresses() if IPv6Address(text) in PREFIX]


@pytest.mark.rfc("4861:6.3.7-1")
def test_routers_are_looked_for(make: Make) -> None:
    segment = make()
    asked = [packet for packet in segment.early + segment.pass_time(20) if packet.kind == ROUTER_SOLICITATION]
    assert len(asked) == 3
    assert all((p.source, p.destination, p.hops) == (LOCAL, frames6.ALL_ROUTERS, 255) for p in asked)
    assert asked[0].message[8:] == bytes((1, 1)) + OURS


@pytest.mark.rfc("8504:5.4-resilient")
def test_routers_are_looked_for_less_and_less_often(make: Make) -> None:
    """RFC 7559: from 4 seconds to an hour, a tenth more or less; the first answer of a router ends it."""
    segment = make()
    times: list[float] = []
    while len(times) < 14:
        if segment.of_kind(ROUTER_SOLICITATION):
            times.append(segment.clock[0])
        wait = segment.link.run_timers()
        assert wait is not None
        segment.clock[0] += max(wait, 0.01)
        segment.link.run_timers()
    expected = [*(4.0 * 2**n for n in range(10)), 3600, 3600, 3600, 3600][solicitations(segment.early) :]
    for (before, after), wait in zip(itertools.pairwise(times), expected, strict=False):
        assert 0.89 * wait < after - before < 1.11 * wait
    advertise(segment)
    segment.clock[0] += 4000
    segment.link.run_timers()
    assert segment.of_kind(ROUTER_SOLICITATION) == []


def solicitations(packets: list[frames6.Packet]) -> int:
    return [packet.kind for packet in packets].count(ROUTER_SOLICITATION)


@pytest.mark.rfc("4861:6.3.7-2", "4861:6.3.7-3")
def test_a_router_that_has_spoken_is_asked_once_at_most(make: Make) -> None:
    segment = make()
    advertise(segment)
    assert solicitations(segment.early + segment.pass_time(20)) == 1


@pytest.mark.rfc("4861:6.3.7-3")
def test_who_is_no_default_router_does_not_end_the_search(make: Make) -> None:
    segment = make()
    advertise(segment, lifetime=0)
    assert solicitations(segment.early + segment.pass_time(20)) == 3


def test_no_router_is_looked_for_where_none_is_wanted(make: Make) -> None:
    fixed = make(slaac=False, gateways=[ROUTER])
    assert solicitations(fixed.early + fixed.pass_time(20)) == 0


@pytest.mark.rfc("4861:6.3.4-1")
def test_a_default_router_comes_and_goes(make: Make) -> None:
    segment = make()
    advertise(segment)
    assert segment.told[-1]["router"] == "fe80::1"
    assert segment.mac(ROUTER) == PEER
    assert segment.discovery.next_hop(packed("2001:db8:9::9")) == ROUTER
    advertise(segment, lifetime=0)
    assert segment.told[-1]["router"] is None
    advertise(segment, lifetime=5)
    segment.pass_time(5.1)
    assert segment.told[-1]["router"] is None


@pytest.mark.rfc("4861:6.3.6-1", "4861:6.3.4-2")
def test_another_router_is_chosen_when_one_is_silent(make: Make) -> None:
    segment = make()
    advertise(segment)
    other = packed("fe80::9")
    segment.say(router(mac=OTHER), other, ALL_NODES, OTHER)
    assert segment.told[-1]["router"] == "fe80::1"
    for _ in range(12):  # only the other answers when it is asked
        segment.pass_time(1)
        segment.say(frames6.advertisement(other, ASKED_ROUTER, OTHER), other, LOCAL, OTHER)
    assert segment.told[-1]["router"] == "fe80::9"


@pytest.mark.rfc("4861:7.2.5-6")
def test_a_router_that_says_that_it_is_none_is_none(make: Make) -> None:
    segment = make()
    advertise(segment)
    for flags, mac, left in (
        (ASKED_ROUTER, PEER, "fe80::1"),
        (SOLICITED, OTHER, "fe80::1"),  # another says so, and does not override: it is not believed
        (SOLICITED | OVERRIDE, PEER, None),
    ):
        segment.pass_time(1)
        segment.say(frames6.advertisement(ROUTER, flags, mac), ROUTER, LOCAL, mac)
        assert segment.told[-1]["router"] == left


def test_the_operators_router_goes_before_others(make: Make) -> None:
    segment = make(gateways=[HOST])
    advertise(segment)
    assert segment.discovery.to_data()["router"] == "fd77::1"


@pytest.mark.rfc("4861:6.3.4-1", "4861:6.3.4-3")
def test_the_hop_limit_of_the_link(make: Make) -> None:
    segment = make()
    for hops, taken in ((0, 64), (31, 31), (0, 31)):
        advertise(segment, hops=hops)
        assert segment.told[-1]["hops"] == taken


@pytest.mark.rfc("4862:5.7-1")
def test_a_new_link_goes_on_with_what_a_former_one_knew(make: Make) -> None:
    segment = make()
    advertise(segment, mtu(1400), prefix("2001:db8:1::/64"), lifetime=100, hops=31)
    segment.pass_time(1.1)
    told = segment.told[-1]
    again = make(before=told)
    assert again.told[0] == told
    again.pass_time(101)
    assert again.told[-1]["router"] is None


@pytest.mark.rfc("4861:6.1.2-1", "4861:4.6-1")
@pytest.mark.parametrize("frame", [
    built(router(), HOST, ALL_NODES),
    built(router(), ROUTER, ALL_NODES, hops=254),
    built(router()[:12], ROUTER, ALL_NODES),
    built(b"\x86\1" + router()[2:], ROUTER, ALL_NODES),
    built(router(bytes((9, 0)) + bytes(6)), ROUTER, ALL_NODES),
    built(router(mac=b"\1" * 6), ROUTER, ALL_NODES),
])  # fmt: skip
def test_no_router_is_believed_that_does_not_say_it_right(make: Make, frame: bytes) -> None:
    segment = make()
    segment.deliver(frame)
    assert segment.discovery.to_data()["router"] is None
    assert segment.discovery.counters["malformed"] == 1


@pytest.mark.rfc("4861:6.2.6-1", "4861:6.2.4-1")
def test_solicitations_of_routers_are_not_answered(make: Make) -> None:
    segment = make()
    assert segment.say(frames6.router_solicitation(PEER), HOST, frames6.ALL_ROUTERS) == []


@pytest.mark.rfc("4861:6.3.4-3")
def test_a_router_tells_how_often_to_ask(make: Make) -> None:
    segment = make()
    told = router()
    segment.say(told[:12] + (3000).to_bytes(4, "big") + told[16:], ROUTER, ALL_NODES)
    other = packed("fe80::9")
    segment.link.want(other)
    asked = [[packet.destination for packet in segment.pass_time(each)] for each in (2.9, 0.2)]
    assert [each.count(frames6.solicited_node(other)) for each in asked] == [1, 1]


@pytest.mark.rfc("4861:6.3.4-4")
def test_the_mtu_of_the_link(make: Make) -> None:
    segment = make()
    for number, taken in ((1400, 1400), (1279, 1400), (1501, 1400), (0xFFFFFFFF, 1400), (1280, 1280)):
        advertise(segment, mtu(number))
        assert segment.discovery.to_data()["mtu"] == taken


@pytest.mark.rfc("8504:6.6-selection", "8504:6.2-many")
def test_an_address_of_a_prefix_and_a_stable_identifier(make: Make) -> None:
    segment = make()
    advertise(segment, prefix("2001:db8:1::/64"))
    assert formed(segment) == []  # tentative
    segment.pass_time(1.1)
    (address,) = formed(segment)
    assert IPv6Address(address).packed[8:] == interface_id(b"secret", PREFIX.network_address.packed, "neat0")
    again = make()
    advertise(again, prefix("2001:db8:1::/64"))
    again.pass_time(1.1)
    assert formed(again) == [address]
    assert segment.discovery.own.source_for(packed("2001:db8:5::1")) == packed(address)
    assert segment.discovery.own.source_for(ROUTER) == LOCAL


@pytest.mark.rfc("4862:5.5.3-1")
@pytest.mark.parametrize("option", [
    prefix("2001:db8:1::/64", flags=0x80), prefix("fe80::/64"), prefix("2001:db8:1::/60"), prefix("2001:db8:1::/200"),
    prefix("2001:db8:1::/64", valid=100, preferred=101), prefix("2001:db8:1::/64", valid=0, preferred=0),
])  # fmt: skip
def test_prefixes_that_make_no_address(make: Make, option: bytes) -> None:
    segment = make()
    advertise(segment, option)
    segment.pass_time(2)
    assert segment.addresses() == ["fe80::2"]


@pytest.mark.rfc("4862:5.5-2")
def test_without_slaac_no_prefix_makes_an_address(make: Make) -> None:
    segment = make(slaac=False)
    advertise(segment, prefix("2001:db8:1::/64"))
    segment.pass_time(2)
    assert segment.addresses() == ["fe80::2"] and segment.told[-1]["router"] == "fe80::1"


@pytest.mark.rfc("4862:5.5.3-2")
def test_nobody_ends_an_address_in_less_than_two_hours(make: Make) -> None:
    segment = make()
    advertise(segment, prefix("2001:db8:1::/64", valid=86400))
    segment.pass_time(1.1)
    (own,) = (each for each in segment.discovery.own if each.address[:2] == b"\x20\x01")
    advertise(segment, prefix("2001:db8:1::/64", valid=10, preferred=0))
    assert own.valid_until == pytest.approx(segment.clock[0] + 7200)
    segment.clock[0] += 600
    advertise(segment, prefix("2001:db8:1::/64", valid=10, preferred=0))
    assert own.valid_until == pytest.approx(segment.clock[0] + 6600)
    advertise(segment, prefix("2001:db8:1::/64", valid=7201, preferred=0))
    assert own.valid_until == pytest.approx(segment.clock[0] + 7201)


@pytest.mark.rfc("4862:5.5.3-3")
def test_only_the_same_prefix_tells_how_long_an_address_lasts(make: Make) -> None:
    segment = make()
    advertise(segment, prefix("2001:db8:1::/64", preferred=100))
    segment.pass_time(1.1)
    (own,) = (each for each in segment.discovery.own if each.address[:2] == b"\x20\x01")
    before = own.valid_until, own.preferred_until
    advertise(segment, prefix("2001:db8:1::/60"), prefix("2001:db8:1::/128", valid=9999, preferred=0))
    assert (own.valid_until, own.preferred_until) == before
    advertise(segment, prefix("2001:db8:1::/64", valid=9999, preferred=99))
    assert (own.valid_until, own.preferred_until) == (segment.clock[0] + 9999, segment.clock[0] + 99)


@pytest.mark.rfc("4862:5.5.4-1", "4862:5.5.4-2")
def test_lifetimes_end(make: Make) -> None:
    segment = make()
    advertise(segment, prefix("2001:db8:1::/64", valid=30, preferred=5), prefix("2001:db8:2::/64"))
    segment.pass_time(1.1)
    second = packed("2001:db8:2::")[:8]
    assert len(segment.addresses()) == 3
    segment.pass_time(5)
    assert IPv6Address(segment.addresses()[0]).packed[:8] == second  # what is deprecated comes later
    chosen = segment.discovery.own.source_for(packed("2001:db8:1::77"))
    assert chosen is not None and chosen[:8] == second
    segment.pass_time(25)
    assert formed(segment) == [] and len(segment.addresses()) == 2
    assert [each["address"] for each in segment.told[-1]["addresses"]] == segment.addresses()


def on_link(segment: Segment) -> dict[str, float | None]:
    return segment.told[-1]["on_link"]


@pytest.mark.rfc("4861:6.3.4-6")
def test_whoever_is_said_to_be_on_the_link_is_a_neighbour(make: Make) -> None:
    """RFC 4861 section 6.3.4, also with a prefix that makes no address; it expires, ends, and comes again."""
    segment = make()
    far = packed("2001:db8:1::7")
    advertise(segment, prefix("2001:db8:1::/60", valid=30, preferred=9, flags=0x80))
    for again in range(2):
        assert on_link(segment) == {"2001:db8:1::/60": segment.clock[0] + 30}
        assert segment.discovery.next_hop(far) == far and formed(segment) == []
        segment.link.want(far)
        (asked,) = segment.of_kind(frames6.SOLICITATION)
        assert asked.message[8:24] == far
        if again:
            advertise(segment, prefix("2001:db8:1::/60", valid=0, preferred=0, flags=0x80))
        else:
            segment.pass_time(30.1)
        assert on_link(segment) == {} and segment.discovery.next_hop(far) == ROUTER
        advertise(segment, prefix("2001:db8:1::/60", valid=30, preferred=9, flags=0x80))
    advertise(segment, prefix("2001:db8:2::/64", valid=2**32 - 1, flags=0x80))
    told = segment.told[-1]
    assert on_link(make(before=told)) == {
        "2001:db8:1::/60": told["on_link"]["2001:db8:1::/60"],
        "2001:db8:2::/64": None,
    }


@pytest.mark.rfc("5942:4-1", "5942:4-2", "5942:4-3")
def test_neighbours_are_whom_a_router_says_to_be(make: Make) -> None:
    """Not who has an address like ours; and two prefixes end each for itself."""
    segment = make()
    near, far = packed("2001:db8:1::7"), packed("2001:db8:1:8::7")
    advertise(segment, prefix("2001:db8:1::/64", flags=0x40))
    segment.pass_time(3)
    assert len(formed(segment)) == 1 and segment.discovery.next_hop(near) == ROUTER
    advertise(segment, prefix("2001:db8:1::/48", valid=30, flags=0x80), prefix("2001:db8:1::/64", valid=60, flags=0x80))
    assert (segment.discovery.next_hop(near), segment.discovery.next_hop(far)) == (near, far)
    segment.pass_time(31)
    assert (segment.discovery.next_hop(near), segment.discovery.next_hop(far)) == (near, ROUTER)
    segment.pass_time(30)
    assert segment.discovery.next_hop(near) == ROUTER


@pytest.mark.parametrize("text", ["::/0", "::/64", "::/80", "::ffff:0:0/96", "::ffff:192.0.2.0/120"])
def test_nobody_says_by_ipv6_where_hosts_of_ipv4_are(make: Make, text: str) -> None:
    """Replicas have mapped addresses in the same tables."""
    segment = make()
    advertise(segment, prefix(text))
    segment.pass_time(2)
    assert on_link(segment) == {} and segment.addresses() == ["fe80::2"]


def test_what_is_said_to_be_on_the_link_is_bounded(make: Make) -> None:
    segment = make(slaac=False)
    advertise(segment, prefix("fe80::/64", flags=0x80), prefix("ff02::/16", flags=0x80))
    for n in range(20):
        advertise(segment, prefix(f"2001:db8:{n:x}::/64", flags=0x80))
    assert len(on_link(segment)) == 8 and all(network.startswith("2001:db8:") for network in on_link(segment))


@pytest.mark.rfc("4861:6.3.6-2", "1122:gateways", "1122:dead-gateway")
@pytest.mark.parametrize("given", [True, False])
def test_when_no_router_answers_all_are_asked(make: Make, given: bool) -> None:
    """The operator's in order of preference; of those that have advertised themselves the present one stays."""
    other = packed("fe80::9")
    segment = make(gateways=[ROUTER, other]) if given else make()
    if not given:
        advertise(segment)
        segment.say(router(mac=OTHER), other, ALL_NODES, OTHER)
    segment.pass_time(30)
    assert segment.mac(ROUTER) is None and segment.mac(other) is None

    def passes(seconds: int, *answering: bytes) -> str:
        for _ in range(seconds):
            asked = {p.message[8:24] for p in segment.pass_time(1) if p.kind == frames6.SOLICITATION}
            for each in asked & set(answering):
                segment.say(frames6.advertisement(each, ASKED_ROUTER, OTHER), each, LOCAL, OTHER)
        return segment.told[-1]["router"]

    assert passes(15, other) == "fe80::9"
    assert passes(100, ROUTER, other) == ("fe80::1" if given else "fe80::9")
    assert passes(20, ROUTER) == "fe80::1"


def test_a_router_cannot_give_more_addresses_than_there_is_room_for(make: Make) -> None:
    segment = make()
    for n in range(20):
        advertise(segment, prefix(f"2001:db8:{n:x}::/64"), source=packed(f"fe80::1:{n:x}"))
    segment.pass_time(2)
    assert len(segment.addresses()) == 7  # and one of IPv4
    assert len(segment.discovery.routers.known) <= 8


@pytest.mark.rfc("8504:6.3-identifier")
def test_identifiers_differ_by_prefix_and_are_never_reserved() -> None:
    found = {interface_id(b"secret", n.to_bytes(8, "big"), "neat0") for n in range(100)}
    assert len(found) == 100
    assert is_reserved(bytes(8)) and is_reserved(bytes.fromhex("fdffffffffffffff"))
    assert not any(map(is_reserved, found))
