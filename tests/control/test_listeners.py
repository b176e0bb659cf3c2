"""Groups of IPv6, as link tells routers of them: joined, left, asked for, and with routers that speak MLDv1."""

from collections.abc import Iterator
from ipaddress import IPv6Address

import pytest

from neatstack.control import frames6, membership
from neatstack.control import link as link_module
from neatstack.control.frames6 import ALL_NODES, LINK_LOCAL, REPORT1, REPORTS, ROUTER_ALERT, UNSPECIFIED, Packet
from neatstack.control.membership import IS_EXCLUDE, TO_EXCLUDE, TO_INCLUDE
from tests.support.discovery import HOST, LOCAL, OWN, ROUTER, Segment, packed

GROUP, OTHER = packed("ff02::1234"), packed("ff05::1234")
SOLICITED = frames6.solicited_node(OWN)  # of both addresses


@pytest.fixture
def segment(monkeypatch: pytest.MonkeyPatch) -> Iterator[Segment]:
    """With its addresses in use, and all told."""
    clock = [1000.0]
    monkeypatch.setattr(link_module.time, "monotonic", lambda: clock[0])
    made = Segment(clock, "fd77::2/64", "fe80::2/64", gateways=[ROUTER])
    made.pass_time(4)
    yield made
    made.close()


def query(delay: int = 1000, group: bytes = bytes(16), more: bytes = bytes(4)) -> bytes:
    """Of MLDv2, or without `more` of MLDv1; `delay` in ms."""
    return bytes((130, 0, 0, 0)) + delay.to_bytes(2, "big") + bytes(2) + group + more


def records(packets: list[Packet]) -> list[tuple[int, bytes]]:
    """What the reports among these say of groups, in order; they are right in all else."""
    found = []
    for packet in packets:
        assert (packet.kind, packet.destination, packet.hops, packet.source) == (frames6.REPORT, REPORTS, 1, LOCAL)
        message = packet.message
        assert packet.alert and int.from_bytes(message[6:8], "big") * 20 == len(message) - 8 <= 1500 - 56
        for n in range(8, len(message), 20):
            assert message[n + 1 : n + 4] == bytes(3)
            found.append((message[n], message[n + 4 : n + 20]))
    return found


@pytest.mark.rfc(
    "9777:6.1-change", "9777:5-header", "9777:9.1-robustness", "9777:5.2.11-auxiliary", "9777:5.2.12-more"
)  # fmt: skip
def test_a_group_that_is_joined_or_left_is_told_twice(segment: Segment) -> None:
    for groups, kind in (([IPv6Address(GROUP)], TO_EXCLUDE), ([], TO_INCLUDE)):
        segment.link.set_groups(groups)
        assert records(segment.sent()) == [(kind, GROUP)]
        assert records(segment.pass_time(2)) == [(kind, GROUP)]


@pytest.mark.rfc("9777:6.2-answer", "9777:5.1.15-anywhere", "9777:5.1.12-more", "9777:5.1.1-code")
def test_queries_are_answered_within_their_time(segment: Segment) -> None:
    segment.link.set_groups([IPv6Address(GROUP)])
    segment.pass_time(2)
    everything = [(IS_EXCLUDE, group) for group in sorted((GROUP, SOLICITED))]
    asked = query()
    for message, destination in (
        (asked, ALL_NODES), (asked, OWN), (asked, LOCAL), (asked[:1] + b"\7" + asked[2:], ALL_NODES),
        (query(more=bytes(4) + b"\1\2\3\4"), ALL_NODES),
    ):  # fmt: skip
        assert segment.query(message, destination=destination) == []
        assert sorted(records(segment.pass_time(1.1))) == everything
    segment.query(query(group=GROUP), destination=GROUP)
    assert records(segment.pass_time(1.1)) == [(IS_EXCLUDE, GROUP)]
    segment.query(query(group=OTHER), destination=OTHER)
    assert segment.pass_time(2) == []


@pytest.mark.rfc("4443:2.1-checksum")
@pytest.mark.rfc(
    "9777:6.2-valid", "9777:5.1.14-source", "9777:5.1.2-checksum", "9777:8.1-version", "9777:5-unknown",
    "8200:4.2-option", "8200:4.2-skip",
)  # fmt: skip
def test_what_is_no_good_query_is_not_answered(segment: Segment) -> None:
    segment.say(query(), ROUTER, ALL_NODES, hops=64, extension=ROUTER_ALERT)  # has passed a router
    for extension in (
        b"", ROUTER_ALERT[:5] + b"\1" + ROUTER_ALERT[6:],  # for others than listeners
        ROUTER_ALERT[:6] + b"\x40\0", ROUTER_ALERT[:6] + b"\1\1",  # unknown; not whole
    ):  # fmt: skip
        segment.query(query(), extension=extension)
    for source in (HOST, UNSPECIFIED):
        segment.query(query(), source)
    segment.query(query(more=bytes(2)))
    segment.query(b"\xc8" + query()[1:])
    frame = bytearray(frames6.build(ROUTER, ALL_NODES, query(), 1, ROUTER_ALERT))
    frame[-1] ^= 1
    segment.deliver(frames6.frame(frames6.group_mac(ALL_NODES), segment.link.mac[:5] + b"\2", bytes(frame))[10:])
    assert segment.pass_time(2) == []
    segment.query(query(), extension=ROUTER_ALERT[:6] + b"\x1e\0")  # unknown, but to be passed over
    assert records(segment.pass_time(1.1)) == [(IS_EXCLUDE, SOLICITED)]


@pytest.mark.rfc("9777:6.2-combined")
def test_several_queries_are_answered_together(segment: Segment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership.secrets, "randbelow", lambda below: below // 2)
    segment.link.set_groups([IPv6Address(GROUP)])
    segment.pass_time(2)
    segment.query(query(4000, GROUP), destination=GROUP)
    segment.query(query(2000))
    segment.query(query(20000))
    assert segment.pass_time(0.8) == []
    assert sorted(records(segment.pass_time(0.5))) == [(IS_EXCLUDE, group) for group in sorted((GROUP, SOLICITED))]
    assert segment.pass_time(20) == []


@pytest.mark.rfc(
    "9777:8.2.1-mode", "9777:8.2.1-cancel", "9777:8.2.1-linear", "9777:5-older", "9777:8.1-version", "9777:9.12-older"
)  # fmt: skip
def test_with_an_older_router_its_version_is_spoken(segment: Segment) -> None:
    segment.link.set_groups([IPv6Address(GROUP)])
    segment.sent()
    segment.query(query(2000, more=b""))
    answers = segment.pass_time(2.1)  # and no second time what was told of the change
    assert {p.kind for p in answers} == {REPORT1} and len(answers) == 2
    assert {p.destination for p in answers} == {GROUP, SOLICITED}
    assert all(p.message[8:] == p.destination and p.hops == 1 for p in answers)
    segment.query(query(0xFFFF, more=b""))
    assert len(segment.pass_time(66)) == 2
    segment.link.set_groups([IPv6Address(OTHER)])
    left, joined = segment.sent()
    assert (left.kind, left.destination, left.message[8:]) == (frames6.DONE1, frames6.ALL_ROUTERS, GROUP)
    assert (joined.kind, joined.destination, joined.message[8:]) == (REPORT1, OTHER, OTHER)
    segment.pass_time(3)
    segment.clock[0] += 260 - 66 - 3 - 1  # for so long after it has asked
    segment.link.set_groups([IPv6Address(OTHER), IPv6Address(GROUP)])
    assert [packet.kind for packet in segment.sent()] == [REPORT1]
    segment.clock[0] += 1.1
    segment.link.run_timers()
    assert segment.pass_time(2) == []  # what was still to be told of it is not, in another version
    segment.query(query(group=OTHER), destination=OTHER)
    assert records(segment.pass_time(1.1)) == [(IS_EXCLUDE, OTHER)]


def test_a_query_for_one_group_does_not_change_the_version(segment: Segment) -> None:
    segment.link.set_groups([IPv6Address(GROUP)])
    segment.pass_time(2)
    segment.query(query(group=GROUP, more=b""), destination=GROUP)
    assert records(segment.pass_time(1.1)) == [(IS_EXCLUDE, GROUP)]


@pytest.mark.rfc("9777:6-told")
def test_of_groups_that_stay_here_nothing_is_told(segment: Segment) -> None:
    segment.link.set_groups([IPv6Address("ff01::1234"), IPv6Address(ALL_NODES)])
    assert segment.sent() == segment.pass_time(2) == []


@pytest.mark.rfc("9777:5.2.16-size")
def test_many_groups_are_told_in_several_reports(segment: Segment) -> None:
    groups = [packed(f"ff05::3:{n:x}") for n in range(100)]
    segment.link.set_groups([IPv6Address(group) for group in groups])
    segment.pass_time(2)
    segment.query(query())
    answers = segment.pass_time(1.1)
    assert len(answers) == 2 and sorted(records(answers)) == [
        (IS_EXCLUDE, group) for group in sorted([*groups, SOLICITED])
    ]


@pytest.mark.rfc("9777:5.2.14-again")
def test_when_there_is_a_link_local_address_all_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(link_module.time, "monotonic", lambda: clock[0])
    made = Segment(clock, "fd77::2/64", gateways=[ROUTER])
    made.link.set_groups([IPv6Address(GROUP)])
    reports = [packet for packet in made.sent() if packet.kind == frames6.REPORT]
    assert {packet.source for packet in reports} == {UNSPECIFIED}
    reports = [packet for packet in made.pass_time(4) if packet.kind == frames6.REPORT and GROUP in packet.message]
    assert reports[-1].source.startswith(LINK_LOCAL)
    made.close()
