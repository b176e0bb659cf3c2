"""Neighbour discovery of link: what it asks, answers, learns, and what it does not believe. In virtual time."""

import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neatstack.control import frames, frames6, routes
from neatstack.control import link as link_module
from neatstack.control.frames6 import ADVERTISEMENT, ALL_NODES, OVERRIDE, SOLICITATION, SOLICITED, UNSPECIFIED
from tests.support.discovery import (
    HOST,
    LOCAL,
    OTHER,
    OURS,
    OWN,
    PEER,
    ROUTER,
    THIRD,
    Segment,
    built,
    packed,
    prefix,
    router,
)

GROUP = frames6.solicited_node(OWN)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    times = [1000.0]
    monkeypatch.setattr(link_module.time, "monotonic", lambda: times[0])
    return times


@pytest.fixture
def segment(clock: list[float]) -> Iterator[Segment]:
    """With its addresses in use."""
    made = Segment(clock, "fd77::2/64", "fe80::2/64", gateways=[ROUTER])
    made.pass_time(1.5)
    assert made.addresses() == ["fd77::2", "fe80::2"]
    yield made
    made.close()


@pytest.mark.rfc("4862:5.4.3-3", "4862:5.4.3-4", "4862:5.4-2", "6980:5-sent")
@pytest.mark.rfc("4862:5.4-1", "4862:5.4.2-1", "4861:7.2.1-1", "4862:5.4.3-2", "9777:5.2.14-source")
def test_an_address_is_used_after_a_second_of_silence(clock: list[float]) -> None:
    made = Segment(clock, "fd77::2/64", "fe80::2/64", gateways=[ROUTER])
    first = made.sent()
    asked = [packet for packet in first if packet.kind == SOLICITATION]
    assert [(packet.source, packet.destination) for packet in asked] == [
        (UNSPECIFIED, GROUP), (UNSPECIFIED, frames6.solicited_node(LOCAL)),
    ]  # fmt: skip
    assert all(packet.hops == 255 and len(packet.message) == 24 for packet in asked)
    reports = [n for n, packet in enumerate(first) if packet.kind == frames6.REPORT and GROUP in packet.message]
    assert reports[0] < first.index(asked[0])
    assert all(first[n].source == UNSPECIFIED for n in reports)
    assert made.addresses() == [] and made.link.settling
    assert made.say(frames6.solicitation(OWN, PEER), destination=GROUP) == []  # tentative: does not answer
    assert made.say(frames6.echo(frames6.ECHO, 1, 1, b"x")) == []
    made.say(frames6.solicitation(OWN, None), UNSPECIFIED, GROUP, mac=OURS)  # its own
    made.pass_time(0.9)
    assert made.addresses() == []
    made.pass_time(0.2)
    assert made.addresses() == ["fd77::2", "fe80::2"] and not made.link.settling
    assert [each["address"] for each in made.told[-1]["addresses"]] == ["fd77::2", "fe80::2"]


@pytest.mark.rfc("4862:5.1-1")
@pytest.mark.parametrize("transmits", [0, 3])
def test_how_many_solicitations_look_for_a_duplicate(clock: list[float], transmits: int) -> None:
    made = Segment(clock, "fd77::2/64", "fe80::2/64", transmits=transmits)
    asked = made.of_kind(SOLICITATION)
    for _ in range(transmits):
        assert made.addresses() == []
        asked += [packet for packet in made.pass_time(1.05) if packet.kind == SOLICITATION]
    assert made.addresses() == ["fd77::2", "fe80::2"]
    assert [packet.message[8:24] for packet in asked].count(OWN) == transmits


@pytest.mark.rfc("4862:5.4.2-3")
@pytest.mark.rfc("4862:5.4.3-1", "4862:5.4.5-1", "4861:7.2.1-2", "4862:5.4.5-2")
def test_a_duplicate_is_not_used_when_another_asks_for_it(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    made = Segment(clock, "fd77::2/64", "fe80::2/64")
    made.say(frames6.solicitation(OWN, None), UNSPECIFIED, GROUP)
    made.pass_time(3)
    assert made.addresses() == ["fe80::2"] and not made.link.settling
    assert GROUP in made.discovery.listeners.groups  # which fe80::2 has, too
    assert "fd77::2 is already used by 02:00:00:00:00:02" in capsys.readouterr().err
    assert made.say(frames6.solicitation(OWN, PEER), destination=GROUP) == []


@pytest.mark.rfc("4862:5.4.4-1", "4862:5.4.5-1")
def test_a_duplicate_is_not_used_when_another_has_it(clock: list[float]) -> None:
    made = Segment(clock, "fd77::2/64", "fe80::2/64")
    made.say(frames6.advertisement(OWN, OVERRIDE, PEER), OWN, ALL_NODES)
    made.pass_time(3)
    assert made.addresses() == ["fe80::2"]


@pytest.mark.rfc("4862:5.3-1")
def test_a_formed_address_that_another_has_is_formed_anew(clock: list[float]) -> None:
    made = Segment(clock, "fd77::2/64")
    first = next(own.address for own in made.discovery.own if own.formed)
    made.say(frames6.advertisement(first, OVERRIDE, PEER), first, ALL_NODES)
    made.pass_time(3)
    (local,) = (own for own in made.discovery.own if own.formed)
    assert local.address != first and made.discovery.own.has(local.address)


def test_what_a_former_link_had_is_in_use_at_once(clock: list[float], segment: Segment) -> None:
    again = Segment(clock, "fd77::2/64", "fe80::2/64", gateways=[ROUTER], before=segment.discovery.to_data())
    assert again.addresses() == ["fd77::2", "fe80::2"] and not again.link.settling
    assert again.of_kind(SOLICITATION) == []


@pytest.mark.rfc("4861:7.2.4-1", "4861:7.2.3-1", "4861:7.2.4-2")
def test_answers_and_notes_who_asked(segment: Segment) -> None:
    (answer,) = segment.say(frames6.solicitation(OWN, PEER), destination=GROUP)
    assert (answer.source, answer.destination, answer.hops) == (OWN, HOST, 255)
    assert answer.message[4] == SOLICITED | OVERRIDE
    assert answer.message[8:] == OWN + bytes((2, 1)) + OURS
    assert segment.mac(HOST) == PEER
    (probe,) = segment.pass_time(5.5)  # to be confirmed
    assert (probe.kind, probe.destination) == (SOLICITATION, HOST)


@pytest.mark.rfc("4861:7.2.4-1", "4861:7.2.4-2")
def test_who_has_no_address_yet_is_answered_before_all(segment: Segment) -> None:
    (answer,) = segment.say(frames6.solicitation(OWN, None), UNSPECIFIED, GROUP)
    assert (answer.destination, answer.message[4]) == (ALL_NODES, OVERRIDE)


@pytest.mark.rfc("4861:7.2.2-1")
def test_resolves_what_replicas_want(segment: Segment) -> None:
    segment.link.want(HOST)
    (asked,) = segment.sent()
    assert (asked.source, asked.destination) == (OWN, frames6.solicited_node(HOST))
    assert asked.message[8:] == HOST + bytes((1, 1)) + OURS
    assert segment.mac(HOST) is None
    segment.say(frames6.advertisement(HOST, SOLICITED | OVERRIDE, PEER))
    assert segment.mac(HOST) == PEER
    segment.link.want(THIRD)
    assert len([p for p in [*segment.sent(), *segment.pass_time(5)] if p.message[8:24] == THIRD]) == 3
    assert segment.mac(THIRD) is None


@pytest.mark.rfc("4861:7.3.3-1")
def test_a_neighbour_that_has_gone_is_forgotten(segment: Segment) -> None:
    segment.link.want(HOST)
    segment.say(frames6.advertisement(HOST, SOLICITED | OVERRIDE, PEER))
    probes = [packet.destination for packet in segment.pass_time(64)]
    assert probes == [HOST, HOST, frames6.solicited_node(HOST)]
    assert segment.mac(HOST) is None


@pytest.mark.rfc("4861:7.2.5-1", "4861:7.2.5-3", "4861:7.2.5-4")
def test_does_not_believe_what_it_has_not_asked(segment: Segment) -> None:
    segment.say(frames6.advertisement(HOST, SOLICITED | OVERRIDE, OTHER))
    assert segment.mac(HOST) is None and segment.link.table.get(HOST) is None
    segment.link.want(HOST)
    segment.say(frames6.advertisement(HOST, SOLICITED | OVERRIDE, PEER))
    segment.say(frames6.advertisement(HOST, 0, OTHER), destination=ALL_NODES)  # no override: it is asked itself
    assert segment.mac(HOST) == PEER
    assert [packet.destination for packet in segment.pass_time(0.1)] == [HOST]
    segment.say(frames6.advertisement(HOST, OVERRIDE, OTHER), destination=ALL_NODES)
    assert segment.mac(HOST) == OTHER


@pytest.mark.rfc("4861:9-1")
def test_unknown_options_are_passed_over(segment: Segment) -> None:
    strange = bytes((14, 1)) + bytes(6)
    (answer,) = segment.say(frames6.solicitation(OWN, None) + strange + frames6.link_option(1, PEER), destination=GROUP)
    assert answer.kind == ADVERTISEMENT and segment.mac(HOST) == PEER
    segment.link.want(THIRD)
    told = frames6.advertisement(THIRD, SOLICITED | OVERRIDE, OTHER)
    segment.say(told[:24] + strange + told[24:], THIRD, OWN, OTHER)
    assert segment.mac(THIRD) == OTHER


def test_neighbours_have_addresses_like_ours(segment: Segment) -> None:
    segment.say(router(prefix("2001:db8:1::/64", flags=0x40)), ROUTER, ALL_NODES)
    near, far = packed("fd77::7"), packed("2001:db8:1::7")
    assert (segment.discovery.next_hop(near), segment.discovery.next_hop(far)) == (near, ROUTER)


@pytest.mark.rfc("5942:4-4a", "5942:4-4b", "5942:3-nd")
def test_without_a_router_nobody_else_is_a_neighbour(clock: list[float]) -> None:
    """Nor is who sends messages of neighbour discovery."""
    made = Segment(clock, "fd77::2/64", "fe80::2/64")
    made.pass_time(1.5)
    far = packed("2001:db8::7")
    for _ in range(2):
        assert made.discovery.next_hop(far) is None
        made.link.want(far)
        assert made.of_kind(SOLICITATION) == []
        made.say(frames6.solicitation(OWN, PEER), far)
        made.say(frames6.advertisement(far, OVERRIDE | SOLICITED, PEER), far)
        assert made.mac(far) is None
    made.close()


@pytest.mark.rfc("4861:8.1-1", "4861:8.3-2")
def test_a_redirect_changes_nothing_and_none_is_sent(segment: Segment) -> None:
    told = bytes((frames6.REDIRECT, 0, 0, 0)) + bytes(4) + LOCAL[:-1] + b"\7" + THIRD + frames6.link_option(2, OTHER)
    before = segment.discovery.to_data()
    for hops in (255, 64):
        assert segment.say(told, ROUTER, OWN, hops=hops) == []
    assert segment.discovery.to_data() == before and segment.mac(THIRD) is None
    assert segment.discovery.next_hop(packed("2001:db8::1")) == ROUTER


@pytest.mark.rfc("4861:7.2.3-2", "4861:7.2.3-3")
def test_who_asks_for_another_or_has_no_address_makes_no_entry(segment: Segment) -> None:
    other = frames6.solicited_node(THIRD)
    assert segment.say(frames6.solicitation(THIRD, PEER), HOST, other) == []
    segment.say(frames6.solicitation(OWN, None), UNSPECIFIED, GROUP)
    assert segment.mac(HOST) is None and segment.mac(UNSPECIFIED) is None


@pytest.mark.rfc("4861:7.2.2-2", "4861:7.3.3-2")
def test_one_that_many_want_is_asked_once_a_second(segment: Segment) -> None:
    asked = []
    for _ in range(9):
        segment.link.want(HOST)
        asked += segment.pass_time(0.1)
    assert len(asked) == 1


@pytest.mark.rfc("4861:7.2.5-2")
def test_an_answer_without_an_address_is_none(segment: Segment) -> None:
    segment.link.want(HOST)
    segment.say(frames6.advertisement(HOST, SOLICITED | OVERRIDE, PEER)[:24])
    assert segment.mac(HOST) is None
    segment.say(frames6.advertisement(HOST, SOLICITED | OVERRIDE, PEER))
    assert segment.mac(HOST) == PEER


@pytest.mark.rfc("4861:7.3.1-1")
def test_what_a_neighbour_says_unasked_confirms_nothing(segment: Segment) -> None:
    segment.link.want(HOST)
    segment.say(frames6.advertisement(HOST, SOLICITED | OVERRIDE, PEER))
    assert HOST in [packet.destination for packet in segment.pass_time(59.5) + segment.pass_time(1.4)]
    segment.say(frames6.advertisement(HOST, OVERRIDE, PEER), destination=ALL_NODES)
    segment.pass_time(4)
    assert segment.mac(HOST) is None


@pytest.mark.rfc("4861:7.1.1-1", "4861:7.1.1-2", "4861:7.1.2-1", "4861:4.6-1", "4862:5.4.1-1")
@pytest.mark.parametrize("frame", [
    built(frames6.solicitation(OWN, PEER), HOST, GROUP, hops=254),
    built(frames6.solicitation(GROUP, PEER), HOST, GROUP),
    built(frames6.solicitation(OWN, PEER)[:20], HOST, GROUP),
    built(b"\x87\1" + frames6.solicitation(OWN, PEER)[2:], HOST, GROUP),
    built(frames6.solicitation(OWN, None) + bytes((14, 0)) + bytes(6), HOST, GROUP),
    built(frames6.solicitation(OWN, None) + bytes((1, 2)) + PEER, HOST, GROUP),
    built(frames6.solicitation(OWN, PEER), UNSPECIFIED, GROUP),
    built(frames6.solicitation(OWN, None), UNSPECIFIED, ALL_NODES),
    built(frames6.solicitation(OWN, b"\xff" * 6), HOST, GROUP),
    built(frames6.solicitation(OWN, PEER), GROUP, GROUP),
    built(frames6.advertisement(HOST, SOLICITED, PEER), HOST, ALL_NODES),
    built(frames6.advertisement(HOST, SOLICITED, PEER), HOST, OWN, hops=64),
    built(frames6.solicitation(OWN, PEER), HOST, GROUP)[:-1],
    built(frames6.solicitation(OWN, PEER), HOST, GROUP)[:-1] + b"\x77",
])  # fmt: skip
def test_what_is_not_right_is_counted_and_dropped(segment: Segment, frame: bytes) -> None:
    segment.link.want(HOST)
    segment.sent()
    assert segment.deliver(frame) == []
    assert segment.mac(HOST) is None
    assert segment.discovery.counters["malformed"] == 1


def test_complains_of_who_has_its_address(segment: Segment, capsys: pytest.CaptureFixture[str]) -> None:
    (defence,) = segment.say(frames6.advertisement(OWN, OVERRIDE, OTHER), OWN, ALL_NODES, OTHER)
    assert (defence.kind, defence.message[8:24]) == (ADVERTISEMENT, OWN)
    assert "fd77::2 is also used by" in capsys.readouterr().err
    assert segment.say(frames6.advertisement(OWN, OVERRIDE, OTHER), OWN, ALL_NODES, OTHER) == []
    assert segment.addresses() == ["fd77::2", "fe80::2"]


@pytest.mark.rfc("4443:4.2-echo", "4443:4.2-group", "4443:2.2-source")
def test_answers_ping_within_bounds(segment: Segment) -> None:
    ask = frames6.echo(frames6.ECHO, 7, 1, b"x" * 56)
    (answer,) = segment.say(ask, hops=64)
    assert (answer.source, answer.destination, answer.kind) == (OWN, HOST, frames6.ECHO_REPLY)
    assert answer.message[4:] == ask[4:]
    (answer,) = segment.say(ask, LOCAL[:-1] + b"\7", ALL_NODES)
    assert answer.source == LOCAL
    assert segment.say(ask, UNSPECIFIED) == [] and segment.say(ask, OWN) == []
    assert segment.say(ask, destination=THIRD) == []
    segment.link.echoes.rate = segment.link.echoes.left = 5
    assert sum(len(segment.say(ask)) for _ in range(20)) == 5


@pytest.mark.rfc("4443:2.4-informational")
@pytest.mark.parametrize("kind", [5, 99, 127, 138, 200, 255])
def test_messages_of_unknown_kinds_are_dropped(segment: Segment, kind: int) -> None:
    assert segment.say(bytes((kind, 0, 0, 0)) + bytes(60), hops=64) == []
    assert segment.addresses() == ["fd77::2", "fe80::2"]


@pytest.mark.rfc("4443:4.2-passed")
def test_pings(segment: Segment) -> None:
    answers: list[dict[str, object]] = []
    ask = {"op": "ping", "address": "fd77::1", "size": 8, "sequence": 1, "timeout": 2.0}
    segment.link.pings.start(ask, answers.append)
    assert [packet.kind for packet in segment.sent()] == [SOLICITATION]
    (request,) = segment.say(frames6.advertisement(HOST, SOLICITED | OVERRIDE, PEER))
    assert (request.source, request.destination, request.hops) == (OWN, HOST, 64)
    segment.say(bytes((129, 0, 0, 0)) + request.message[4:], hops=61)
    assert answers.pop()["outcome"] == "reply"
    (request,) = (segment.link.pings.start({**ask, "sequence": 2}, answers.append), segment.sent())[1]
    quoted = frames6.build(OWN, HOST, request.message, 64)
    segment.say(bytes((1, 4)) + bytes(6) + quoted, ROUTER)
    assert answers.pop() == {"outcome": "unreachable", "from": "fe80::1", "code": 4}
    segment.link.pings.start({**ask, "address": "fd77::2"}, answers.append)
    segment.link.pings.start({**ask, "address": "::1"}, answers.append)
    assert [each["outcome"] for each in answers] == ["reply", "reply"]
    with pytest.raises(ValueError, match="65487"):
        segment.link.pings.start({**ask, "size": 65488}, answers.append)


def in_fragments(message: bytes, number: int = 9, destination: bytes = OWN) -> list[bytes]:
    """Frames of a message from the peer."""
    parts = frames6.cut(frames6.build(HOST, destination, message, 64), 1280, number)
    return [frames6.frame(OURS, PEER, part)[len(frames.VNET) :] for part in parts]


def put_together(packets: list[bytes]) -> frames6.Packet:
    """The message that frames of link bring in fragments, which fit into each path and are in order."""
    data, first = b"", packets[0]
    for frame in packets:
        length, following = struct.unpack_from("!HB", frame, 18)
        protocol, place, number = frames6.FRAGMENT_HEADER.unpack_from(frame, 54)
        assert (following, protocol, number) == (44, 58, struct.unpack_from("!I", first, 58)[0])
        assert len(frame) == 54 + length <= 1280 + 14 and place == len(data) | (frame is not packets[-1])
        data += frame[62:]
    whole = first[:18] + len(data).to_bytes(2, "big") + b"\x3a" + first[21:54] + data
    packet = frames6.parse(whole, PEER)
    assert packet is not None
    return packet


@pytest.mark.rfc("4443:4.2-echo", "8200:4.5-reassembly", "8200:4.5-fit")
@pytest.mark.parametrize("size", [1453, 4000, 65487])
def test_answers_large_pings_in_fragments(segment: Segment, size: int) -> None:
    ask = frames6.echo(frames6.ECHO, 7, 1, bytes(k * 7 & 255 for k in range(size)))
    *parts, last = in_fragments(ask)
    assert [segment.deliver(part) for part in reversed(parts)] == [[]] * len(parts)
    answer = put_together(segment.exchange(last))
    assert (answer.kind, answer.source, answer.destination) == (frames6.ECHO_REPLY, OWN, HOST)
    assert answer.message[4:] == ask[4:]
    assert [segment.deliver(part) for part in in_fragments(ask, 10, THIRD)] == [[]] * (len(parts) + 1)


def in_one_fragment(packet: bytes) -> bytes:
    length = frames6.FRAGMENT_HEADER.size + len(packet) - frames6.IP6.size
    header = packet[:4] + length.to_bytes(2, "big") + bytes([frames6.FRAGMENT]) + packet[7 : frames6.IP6.size]
    return header + frames6.FRAGMENT_HEADER.pack(frames6.ICMP6, 0, 9) + packet[frames6.IP6.size :]


@pytest.mark.rfc("6946:atomic", "6946:others", "8200:4.5-atomic")
def test_a_ping_in_one_fragment_waits_for_no_other(segment: Segment) -> None:
    first, *rest = in_fragments(frames6.echo(frames6.ECHO, 7, 1, bytes(2000)))
    segment.deliver(first)
    small = frames6.build(HOST, OWN, frames6.echo(frames6.ECHO, 7, 2, b"x"), 64)
    (answer,) = segment.deliver(frames6.frame(OURS, PEER, in_one_fragment(small))[len(frames.VNET) :])
    assert answer.message[8:] == b"x"
    assert len(put_together(segment.exchange(rest[0])).message) == 2008


@pytest.mark.rfc("6980:5-ignored")
def test_discovery_in_fragments_is_not_believed(segment: Segment) -> None:
    """Not in a single one, either."""
    long = frames6.solicitation(OWN, PEER) + bytes((253, 200)) + bytes(1598)
    assert segment.say(long) != []
    assert [segment.deliver(part) for part in in_fragments(long)] == [[], []]
    short = frames6.build(HOST, OWN, frames6.solicitation(OWN, PEER))
    assert segment.deliver(frames6.frame(OURS, PEER, short)[len(frames.VNET) :]) != []
    assert segment.deliver(frames6.frame(OURS, PEER, in_one_fragment(short))[len(frames.VNET) :]) == []


@pytest.mark.rfc("8200:4.5-minute", "4443:2.4-no-error")
@pytest.mark.parametrize(("kind", "told"), [(frames6.ECHO, True), (frames6.ECHO_REPLY, True), (1, False)])
def test_a_ping_whose_fragments_do_not_all_come(segment: Segment, kind: int, told: bool) -> None:
    first, _ = in_fragments(bytes((kind, 0)) + bytes(2000))
    segment.deliver(first)
    segment.deliver(in_fragments(bytes((kind, 0)) + bytes(2000), 10)[1])
    assert [packet for packet in segment.pass_time(58) if packet.kind == frames6.TIME_EXCEEDED] == []
    segment.say(frames6.solicitation(OWN, PEER))
    errors = [packet for packet in segment.pass_time(4) if packet.kind == frames6.TIME_EXCEEDED]
    assert [(packet.code, packet.destination, packet.message[48:56][:2]) for packet in errors] == [
        (1, HOST, bytes((kind, 0)))
    ] * told


@pytest.mark.rfc("4443:4.1-client")
def test_large_pings_leave_in_fragments(segment: Segment) -> None:
    segment.say(frames6.solicitation(OWN, PEER))
    answers: list[dict[str, object]] = []
    ask = {"op": "ping", "address": "fd77::1", "size": 3000, "sequence": 1, "timeout": 2.0}
    segment.link.pings.start(ask, answers.append)
    message = put_together(segment.frames()).message
    for part in in_fragments(bytes((129, 0, 0, 0)) + message[4:]):
        segment.deliver(part)
    assert [(answer["outcome"], answer["bytes"]) for answer in answers] == [("reply", 3008)]


def test_routes_are_obeyed(clock: list[float]) -> None:
    ways = [routes.parse(text) for text in ("fd79::/48,via fe80::9", "fd79:0:0:1::/64,via fd77::9", "fd78::/64")]
    made = Segment(clock, "fd77::2/64", "fe80::2/64", gateways=[ROUTER], routes=ways)
    made.pass_time(1.5)
    for host, hop in (
        ("fd77::5", "fd77::5"), ("fd79::1", "fe80::9"), ("fd79:0:0:1::1", "fd77::9"), ("fd78::7", "fd78::7"),
        ("2001:db8::1", "fe80::1"), ("fe80::7", "fe80::7"),
    ):  # fmt: skip
        assert made.discovery.next_hop(packed(host)) == packed(hop), host
    for host, wanted in (("fd78::7", True), ("fd79::1", False), ("fe80::9", True)):
        made.link.want(packed(host))
        assert bool(made.of_kind(SOLICITATION)) == wanted, host


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([133, 134, 135, 136, 137, 128, 129, 130, 1, 3]),
    st.binary(max_size=90),
    st.sampled_from([HOST, ROUTER, UNSPECIFIED, OWN]),
    st.sampled_from([OWN, ALL_NODES, GROUP]),
    st.sampled_from([255, 1]),
)
def test_no_message_is_too_strange(
    segment: Segment, kind: int, body: bytes, source: bytes, destination: bytes, hops: int
) -> None:
    segment.say(bytes((kind, 0, 0, 0)) + body, source, destination, hops=hops)
    segment.pass_time(0.3)
    assert segment.addresses()[:2] == ["fd77::2", "fe80::2"]


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_is_too_strange(segment: Segment, data: st.DataObject) -> None:
    """A frame that is nearly right."""
    frame = bytearray(built(data.draw(st.sampled_from([
        frames6.solicitation(OWN, PEER), frames6.advertisement(HOST, 0xE0, PEER), router(),
    ])), ROUTER, ALL_NODES))  # fmt: skip
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    segment.deliver(bytes(frame[: data.draw(st.integers(0, len(frame)))]))
    segment.pass_time(0.1)
    assert segment.addresses()[:2] == ["fd77::2", "fe80::2"]
