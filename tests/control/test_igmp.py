"""Groups of IPv4, as link tells routers of them: joined, left, asked for, and with routers that speak older ones."""

import itertools
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neatstack.control import frames, igmp, membership
from neatstack.control import link as link_module
from neatstack.control.igmp import ALL_HOSTS, ALL_ROUTERS, LEAVE2, QUERY, REPORT1, REPORT2, REPORT3, REPORTS
from neatstack.control.membership import IS_EXCLUDE, QUERY_EVERY, TO_EXCLUDE, TO_INCLUDE, scaled
from tests.control.test_link import ADDRESS, HOST, OURS, PEER, Wire

GROUP, OTHER = (IPv4Address(f"239.1.2.{n}") for n in (3, 4))
ALERT = igmp.ROUTER_ALERT


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    clock = [1000.0]
    monkeypatch.setattr(link_module.time, "monotonic", lambda: clock[0])
    made = Wire(clock)
    yield made
    made.ours.close()
    made.theirs.close()


def query(
    code: int = 10, group: bytes = bytes(4), destination: bytes | None = None, version: int = 3,
    options: bytes = ALERT, ttl: int = 1, source: bytes = HOST, more: bytes = b"", kind: int = QUERY,
) -> bytes:  # fmt: skip
    """A frame of a router that asks."""
    destination = destination or (group if any(group) else ALL_HOSTS)
    message = bytes((kind, code, 0, 0)) + group + (bytes(4) if version == 3 else b"") + more
    message = message[:2] + frames.checksum(message).to_bytes(2, "big") + message[4:]
    words = 5 + len(options) // 4
    header = frames.IP.pack(
        0x40 | words, 0xC0, words * 4 + len(message), 0, 0, ttl, igmp.PROTOCOL, 0, source, destination
    )
    header += options
    header = header[:10] + frames.checksum(header).to_bytes(2, "big") + header[12:]
    mac = frames.group_mac(destination) if frames.is_multicast(destination) else OURS
    return frames.VNET + frames.ETHERNET.pack(mac, PEER, frames.ETHERTYPE_IP) + header + message


def told(sent: list[bytes]) -> list[tuple[IPv4Address, int, list[tuple[int, IPv4Address]]]]:
    """Destination, kind, and the groups with what is so with each; the frames are right in all else."""
    found = []
    for frame in sent:
        packet = frames.parse_packet(frame, OURS)
        assert packet is not None and frame[6:12] == OURS
        assert (packet[0], packet[1], packet[8], packet[9]) == (0x46, 0xC0, 1, igmp.PROTOCOL)
        assert packet[6:8] == b"\x40\0"  # which no identification need tell apart
        assert packet[12:16] == ADDRESS and packet[20:24] == ALERT
        message = packet[24:]
        assert not frames.checksum(message)
        if message[0] == REPORT3:
            assert int.from_bytes(message[6:8], "big") * 8 == len(message) - 8 <= 1492 - 32
            assert all(message[n + 1 : n + 4] == bytes(3) for n in range(8, len(message), 8))
            records = [(message[n], IPv4Address(message[n + 4 : n + 8])) for n in range(8, len(message), 8)]
        else:
            assert len(message) == 8
            records = [(0, IPv4Address(message[4:8]))]
        found.append((IPv4Address(packet[16:20]), message[0], records))
    return found


def told_later(wire: Wire, seconds: float) -> list[tuple[IPv4Address, int, list[tuple[int, IPv4Address]]]]:
    """In steps of a tenth, as if somebody waited."""
    return told([frame for _ in range(round(seconds * 10)) for frame in wire.pass_time(0.1)])


@pytest.mark.rfc(
    "9776:5.1-change",
    "9776:4-header",
    "9776:8.1-robustness",
    "9776:4.2.11-auxiliary",
    "9776:4.2.12-more",
    "9776:4.2.14-source",
)
def test_a_group_that_is_joined_or_left_is_told_twice(wire: Wire) -> None:
    wire.link.set_groups([GROUP])
    first = (IPv4Address(REPORTS), REPORT3, [(TO_EXCLUDE, GROUP)])
    assert told(wire.sent()) == [first]
    assert told_later(wire, 3) == [first]
    wire.link.set_groups([GROUP, OTHER])
    assert told(wire.sent()) == [(IPv4Address(REPORTS), REPORT3, [(TO_EXCLUDE, OTHER)])]
    told_later(wire, 3)
    wire.link.set_groups([OTHER])
    last = (IPv4Address(REPORTS), REPORT3, [(TO_INCLUDE, GROUP)])
    assert [*told(wire.sent()), *told_later(wire, 3)] == [last, last]


@pytest.mark.rfc("9776:5-all-hosts")
def test_of_all_hosts_nothing_is_told(wire: Wire) -> None:
    wire.link.set_groups([IPv4Address(ALL_HOSTS)])
    wire.deliver(query())
    assert wire.sent() == [] and told_later(wire, 3) == []


def test_groups_of_ipv6_are_nobodys_without_ipv6(wire: Wire) -> None:
    wire.link.set_groups([IPv6Address("ff02::1234")])
    wire.link.set_groups([])
    assert wire.sent() == [] and told_later(wire, 3) == []


@pytest.mark.rfc("9776:5.2-answer", "9776:4.1.12-anywhere", "9776:4.1.10-more")
def test_queries_are_answered_within_their_time(wire: Wire) -> None:
    wire.link.set_groups([GROUP, OTHER])
    told_later(wire, 3)
    asking = [
        query(20),
        query(20, source=bytes(4)),  # a switch that asks has no address
        query(20, destination=ADDRESS),
        query(20, more=b"\1\2\3\4"),  # it says of none that it is a source
    ]
    for frame in asking:
        assert wire.deliver(frame) == []
        ((group, kind, records),) = told_later(wire, 2)
        assert (group, kind) == (IPv4Address(REPORTS), REPORT3)
        assert sorted(records) == [(IS_EXCLUDE, GROUP), (IS_EXCLUDE, OTHER)]
    for destination in (None, ADDRESS, ALL_HOSTS, OTHER.packed):
        wire.deliver(query(10, GROUP.packed, destination))
        assert told_later(wire, 1) == [(IPv4Address(REPORTS), REPORT3, [(IS_EXCLUDE, GROUP)])]
    wire.deliver(query(10, IPv4Address("239.9.9.9").packed))
    assert told_later(wire, 2) == []


@pytest.mark.rfc("9776:9.1-alert", "9776:9.1-general", "9776:4.1.2-checksum", "9776:7.1-version", "9776:4-unknown")
def test_what_is_no_good_query_is_not_answered(wire: Wire) -> None:
    wire.link.set_groups([GROUP])
    told_later(wire, 3)
    good = query()
    bad = [
        query(options=b""),
        query(ttl=2),  # has passed a router
        query(destination=GROUP.packed),  # a general one
        query(group=GROUP.packed, destination=OTHER.packed),  # where nobody listens
        query(kind=0x1F),
        query(version=2, options=b""),
        good[:-1] + bytes((1,)),  # its checksum is wrong
        good[:-4],
    ]
    for frame in bad:
        wire.deliver(frame)
        assert told_later(wire, 2) == []


@pytest.mark.rfc(
    "9776:7.2.1-mode", "9776:7.2.1-cancel", "9776:7.2.1-linear", "9776:7.1-version", "9776:4-older", "9776:8.12-older"
)
@pytest.mark.parametrize("version", [1, 2])
def test_with_an_older_router_the_older_version_is_spoken(wire: Wire, version: int) -> None:
    wire.link.set_groups([GROUP])
    code, options, report = (0, b"", REPORT1) if version == 1 else (30, ALERT, REPORT2)
    asked = wire.clock[0]
    wire.deliver(query(code, version=version, options=options))  # what was to be told again is so no more
    answers = told_later(wire, 10 if version == 1 else 3)
    assert answers == [(GROUP, report, [(0, GROUP)])]
    wire.link.set_groups([OTHER])
    first = told(wire.sent())
    left = [(IPv4Address(ALL_ROUTERS), LEAVE2, [(0, GROUP)])] if version == 2 else []
    joined = [(OTHER, report, [(0, OTHER)])]
    assert first == left + joined and sorted(told_later(wire, 3)) == sorted(left + joined)
    wire.deliver(query())  # a newer one is there as well
    assert [kind for _, kind, _ in told_later(wire, 2)] == [report]
    after = wire.clock[0] - asked
    wire.pass_time(2 * QUERY_EVERY + 10 * (10 if version == 1 else 3) - after - 1)
    wire.sent()
    wire.link.set_groups([GROUP, OTHER])  # what is still to be told of it is not, in another version
    assert [kind for _, kind, _ in told(wire.sent())] == [report]
    wire.clock[0] += 1
    wire.link.run_timers()
    assert told_later(wire, 2) == []
    wire.deliver(query(group=OTHER.packed))
    assert told_later(wire, 2) == [(IPv4Address(REPORTS), REPORT3, [(IS_EXCLUDE, OTHER)])]


@pytest.mark.rfc("9776:7.2.1-specific")
def test_a_query_for_one_group_does_not_change_the_version(wire: Wire) -> None:
    wire.link.set_groups([GROUP])
    wire.sent()
    wire.deliver(query(10, GROUP.packed, version=2))
    kinds = [kind for _, kind, _ in told_later(wire, 3)]
    assert kinds == [REPORT3, REPORT3]  # the answer, and the change once more


@pytest.mark.rfc("9776:5.2-combined")
def test_several_queries_are_answered_together(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership.secrets, "randbelow", lambda below: below // 2)
    wire.link.set_groups([GROUP, OTHER])
    told_later(wire, 3)
    wire.deliver(query(40, GROUP.packed))
    wire.deliver(query(20, OTHER.packed))
    assert told_later(wire, 0.8) == []
    ((_, _, records),) = told_later(wire, 3)
    assert sorted(records) == [(IS_EXCLUDE, GROUP), (IS_EXCLUDE, OTHER)]
    wire.deliver(query(20))
    wire.deliver(query(100))
    ((_, _, records),) = told_later(wire, 1.2)
    assert len(records) == 2 and told_later(wire, 9) == []


@pytest.mark.rfc("9776:4.2.17-size")
def test_many_groups_are_told_in_several_reports(wire: Wire) -> None:
    groups = [IPv4Address(f"239.3.{n >> 8}.{n & 255}") for n in range(256)]
    wire.link.set_groups(groups)
    wire.sent()
    told_later(wire, 3)
    wire.deliver(query(1))
    answers = told_later(wire, 1)
    assert len(answers) == 2
    assert sorted(group for _, _, records in answers for _, group in records) == groups


@pytest.mark.rfc("9776:4.1.1-code", "9777:5.1.3-code")
def test_long_times_are_told_as_powers_of_two() -> None:
    codes = [scaled(code, 8) for code in range(256)]
    assert codes[:129] == [*range(128), 128] and codes[129] == 136 and codes[255] == 31744
    assert all(before < after for before, after in itertools.pairwise(codes))
    assert (scaled(0x7FFF, 16), scaled(0x8000, 16), scaled(0xFFFF, 16)) == (0x7FFF, 0x8000, 0x1FFF << 10)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_is_too_strange(wire: Wire, data: st.DataObject) -> None:
    wire.link.set_groups([GROUP])
    frame = bytearray(query(version=data.draw(st.integers(2, 3))))
    for _ in range(data.draw(st.integers(0, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    wire.deliver(bytes(frame[: data.draw(st.integers(10, len(frame)))]))
    assert told_later(wire, 1)[1:] == [] or wire.link.igmp.groups == {GROUP.packed: 1}
