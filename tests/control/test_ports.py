"""bind() and listen() as Linux decides them."""

import errno
from ipaddress import IPv4Address, IPv4Network, IPv6Address

import pytest

from neatstack.control.ports import EPHEMERAL, MOST_PER_PROGRAM, Binding, Ports, Refused

OWN, ANY, LOOPBACK = IPv4Address("10.77.0.2"), IPv4Address(0), IPv4Address("127.0.0.1")
ONE, OTHER = 1, 2  # channels of two programs


@pytest.fixture
def ports() -> Ports:
    return Ports([OWN])


def refused(number: int):  # type: ignore[no-untyped-def]
    return pytest.raises(Refused, match=errno.errorcode[number])


@pytest.mark.parametrize(("first", "second", "clash"), [
    (OWN, OWN, True), (ANY, OWN, True), (OWN, ANY, True), (ANY, ANY, True), (OWN, LOOPBACK, False),
])  # fmt: skip
def test_addresses_that_overlap(ports: Ports, first: IPv4Address, second: IPv4Address, clash: bool) -> None:
    ports.bind(ONE, 0, first, 80)
    if clash:
        with refused(errno.EADDRINUSE):
            ports.bind(OTHER, 0, second, 80)
    else:
        ports.bind(OTHER, 0, second, 80)
    ports.bind(OTHER, 0, second, 81)


def test_reuse_address_until_one_listens(ports: Ports) -> None:
    first = ports.bind(ONE, 0, ANY, 80, reuse_address=True)
    second = ports.bind(OTHER, 0, ANY, 80, reuse_address=True)
    ports.listen(ONE, first.number, 10)
    with refused(errno.EADDRINUSE):
        ports.listen(OTHER, second.number, 10)
    with refused(errno.EADDRINUSE):
        ports.bind(OTHER, 0, ANY, 80, reuse_address=True)
    ports.release(ONE, first.number)
    ports.listen(OTHER, second.number, 10)


def test_reuse_address_takes_both(ports: Ports) -> None:
    ports.bind(ONE, 0, ANY, 80, reuse_address=True)
    with refused(errno.EADDRINUSE):
        ports.bind(OTHER, 0, ANY, 80)


def test_reuse_port_for_one_user(ports: Ports) -> None:
    first = ports.bind(ONE, 1000, ANY, 8080, reuse_port=True)
    second = ports.bind(OTHER, 1000, ANY, 8080, reuse_port=True)
    third = ports.bind(OTHER, 1000, ANY, 8080, reuse_port=True)
    assert first is second is third  # one listener, whose connections go to all
    ports.listen(ONE, first.number, 10)
    ports.listen(OTHER, second.number, 10)
    with refused(errno.EADDRINUSE):
        ports.bind(OTHER, 1001, ANY, 8080, reuse_port=True)
    with refused(errno.EADDRINUSE):
        ports.bind(OTHER, 1000, ANY, 8080)
    ports.release(ONE, first.number)
    ports.release(OTHER, first.number)
    assert first.holders == {OTHER: 1}
    ports.release(OTHER, first.number)
    assert list(ports) == []


def test_a_dead_program_holds_nothing(ports: Ports) -> None:
    for _ in range(3):
        binding = ports.bind(ONE, 1000, ANY, 8080, reuse_port=True)
    ports.inherit(ONE, OTHER)
    assert ports.release(ONE, binding.number, dead=True).holders == {OTHER: 3}


def test_addresses_that_are_not_ours(ports: Ports) -> None:
    with refused(errno.EADDRNOTAVAIL):
        ports.bind(ONE, 0, IPv4Address("10.77.0.9"), 80)
    ports.bind(ONE, 0, IPv4Address("127.1.2.3"), 80)


def test_privileged_ports(ports: Ports) -> None:
    with refused(errno.EACCES):
        ports.bind(ONE, 1000, ANY, 1023)
    ports.bind(ONE, 1000, ANY, 1024)


def test_port_zero_takes_each_port_once(ports: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neatstack.control.ports.EPHEMERAL", range(40000, 40010))
    chosen = {ports.bind(ONE, 0, ANY, 0).port for _ in range(10)}
    assert chosen == set(range(40000, 40010))
    with refused(errno.EADDRINUSE):
        ports.bind(ONE, 0, ANY, 0)


def test_port_zero_is_ephemeral(ports: Ports) -> None:
    assert ports.bind(ONE, 1000, OWN, 0).port in EPHEMERAL


def test_forked_children_share(ports: Ports) -> None:
    binding = ports.bind(ONE, 0, ANY, 80)
    ports.listen(ONE, binding.number, 10)
    assert ports.inherit(ONE, OTHER) == [binding]
    ports.release(ONE, binding.number)
    with refused(errno.EADDRINUSE):
        ports.bind(ONE, 0, ANY, 80)
    ports.release(OTHER, binding.number)
    ports.bind(ONE, 0, ANY, 80)


def test_only_holders_may_speak_of_a_binding(ports: Ports) -> None:
    binding = ports.bind(ONE, 0, ANY, 80)
    for number in (binding.number, binding.number + 1):
        with refused(errno.EBADF):
            ports.listen(OTHER, number, 10)
        with refused(errno.EBADF):
            ports.release(OTHER, number)


def test_a_program_cannot_take_everything(ports: Ports) -> None:
    for port in range(MOST_PER_PROGRAM):
        ports.bind(ONE, 0, ANY, 1024 + port)
    with refused(errno.ENOBUFS):
        ports.bind(ONE, 0, ANY, 60000)
    ports.bind(OTHER, 0, ANY, 60000)


def test_found_again_after_a_restart(ports: Ports) -> None:
    binding = ports.bind(ONE, 1000, OWN, 8080, reuse_port=True)
    ports.listen(ONE, binding.number, 10)
    ports.inherit(ONE, OTHER)
    again = Ports([OWN], [Binding.from_data(binding.to_data())])
    assert list(again) == [binding]
    with refused(errno.EADDRINUSE):
        again.bind(OTHER, 1000, ANY, 8080)
    assert again.bind(OTHER, 1000, ANY, 8081).number > binding.number


# ---- UDP ----


def test_udp_has_ports_of_its_own(ports: Ports) -> None:
    tcp = ports.bind(ONE, 0, ANY, 53)
    udp = ports.bind(OTHER, 0, ANY, 53, datagram=True, cookie=7)
    assert tcp.number != udp.number and (udp.channel, udp.cookie, udp.told) == (OTHER, 7, True)
    with refused(errno.EADDRINUSE):
        ports.bind(ONE, 0, OWN, 53, datagram=True)
    ports.release(OTHER, udp.number)
    ports.bind(ONE, 0, OWN, 53, datagram=True)
    with refused(errno.EOPNOTSUPP):
        ports.listen(ONE, ports.bind(ONE, 0, ANY, 0, datagram=True).number, 10)


@pytest.mark.parametrize("how", ["reuse_address", "reuse_port"])
def test_udp_sockets_that_share_a_port_are_several(ports: Ports, how: str) -> None:
    first = ports.bind(ONE, 0, ANY, 53, datagram=True, **{how: True})
    second = ports.bind(ONE, 0, ANY, 53, datagram=True, cookie=1, **{how: True})
    assert first.number != second.number
    with refused(errno.EADDRINUSE):
        ports.bind(OTHER, 0, ANY, 53, datagram=True)


def test_udp_may_be_bound_to_a_group(ports: Ports) -> None:
    ports.bind(ONE, 0, IPv4Address("224.0.0.251"), 5353, datagram=True)
    ports.bind(ONE, 0, IPv4Address("255.255.255.255"), 5353, datagram=True)
    with refused(errno.EADDRNOTAVAIL):
        ports.bind(ONE, 0, IPv4Address("224.0.0.251"), 5353)
    with refused(errno.EADDRNOTAVAIL):
        ports.bind(ONE, 0, IPv4Address("10.77.0.9"), 5353, datagram=True)


def test_a_udp_socket_is_kept(ports: Ports) -> None:
    bound = ports.bind(ONE, 0, OWN, 53, datagram=True, cookie=9, reuse_port=True)
    again = Ports([OWN], [Binding.from_data(bound.to_data())])
    assert again.bindings[bound.number] == bound
    with refused(errno.EADDRINUSE):
        again.bind(ONE, 0, OWN, 53, datagram=True)


@pytest.mark.rfc("9776:3.2-resources", "9777:4.2-resources")
def test_groups(ports: Ports) -> None:
    group = IPv4Address("239.1.2.3")
    one, two = (ports.bind(ONE, 0, ANY, port, datagram=True) for port in (1000, 1001))
    tcp = ports.bind(ONE, 0, ANY, 1000)
    ports.join(ONE, one.number, group)
    ports.join(ONE, two.number, group)
    assert Binding.from_data(one.to_data()).groups == [group]
    for number, where, why in (
        (one.number, group, errno.EADDRINUSE), (one.number, OWN, errno.EINVAL), (tcp.number, group, errno.EINVAL),
    ):  # fmt: skip
        with refused(why):
            ports.join(ONE, number, where)
    with refused(errno.EBADF):
        ports.join(OTHER, one.number, group)
    ports.leave(ONE, one.number, group)
    with refused(errno.EADDRNOTAVAIL):
        ports.leave(ONE, one.number, group)
    for number in range(20):
        ports.join(ONE, one.number, IPv4Address(f"239.0.0.{number}"))
    with refused(errno.ENOBUFS):
        ports.join(ONE, one.number, group)


def test_own_addresses_of_both_families() -> None:
    second, six = IPv4Address("10.78.0.2"), IPv6Address("fd77::2")
    ports = Ports([OWN, second], networks=[IPv4Network("10.77.0.0/24"), IPv4Network("10.78.0.0/16")])
    ports.bind(ONE, 0, second, 80)
    ports.bind(ONE, 0, IPv4Address("10.78.255.255"), 80, datagram=True)
    ports.bind(ONE, 0, IPv6Address("::1"), 80)
    with refused(errno.EADDRNOTAVAIL):
        ports.bind(ONE, 0, six, 80)
    ports.own6 = {six}
    bound = ports.bind(ONE, 0, six, 80, v6only=True)
    again = Ports([OWN], [Binding.from_data(binding.to_data()) for binding in ports])
    assert again.bindings[bound.number] == bound and bound.v6only
    with refused(errno.EADDRINUSE):
        again.bind(OTHER, 0, IPv6Address(0), 80, v6only=True)
    with refused(errno.EADDRINUSE):
        again.bind(OTHER, 0, IPv6Address(0), 80)


def test_groups_of_ipv6(ports: Ports) -> None:
    group = IPv6Address("ff02::1234")
    socket = ports.bind(ONE, 0, IPv6Address(0), 5000, datagram=True)
    ports.join(ONE, socket.number, group)
    assert Binding.from_data(socket.to_data()).groups == [group]
    ports.bind(ONE, 0, group, 5001, datagram=True)
    with refused(errno.EINVAL):
        ports.join(ONE, socket.number, IPv6Address("fd77::1"))


def test_a_chosen_port_is_free_in_both_families(ports: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neatstack.control.ports.EPHEMERAL", range(40000, 40002))
    taken = ports.bind(ONE, 0, OWN, 0)
    both = ports.bind(ONE, 0, IPv6Address(0), 0)
    assert {taken.port, both.port} == {40000, 40001}
    assert ports.bind(ONE, 0, IPv6Address("::1"), 0, reuse_address=True).port == taken.port
    with refused(errno.EADDRINUSE):
        ports.bind(ONE, 0, IPv6Address(0), 0)
