"""Buckets that move between replicas, as one replica sees it: which SYNs it takes, what it puts down, what it tells of
its flows."""

import errno
import mmap
import time
from dataclasses import replace

import pytest

from neatstack.control import pages
from neatstack.dataplane import flows
from neatstack.dataplane.channel.region import region_size
from neatstack.dataplane.driver.steer import bucket, flows_of
from tests.dataplane.tcp.test_numbers import stack_page
from tests.support.lab import PEER, PEER_MAC, STACK, STACK_MAC, Lab
from tests.support.layout import StackPage, neat
from tests.support.packet import build

ME, OTHER = 1, 2
PORT = 80


class Share(Lab):
    """Replica 1 of 4. All buckets have the same entry."""

    def __init__(self, entry: int = ME, **options: object) -> None:
        self.page, self.keys, _ = stack_page(4, 1)
        self.region = mmap.mmap(-1, region_size(256))
        super().__init__(replica=ME, stack_page=self.page, region=self.region, **options)
        self.entry(entry)

    def entry(self, entry: int, *buckets: int) -> None:
        table = StackPage.from_buffer(self.page).table
        for number in buckets or range(neat.BUCKETS):
            table[number] = entry

    def live(self, buckets: list[int] | None = None) -> list[int]:
        """The ports of the peers whose flows are found in the region."""
        found = flows_of(flows.live_flows(self.region, self.keys, buckets))
        assert all((each.source, each.destination, each.protocol) == (PEER, STACK, 6) for each in found)
        return sorted(each.source_port for each in found)


def test_the_manager_knows_the_marks_of_the_table():
    assert (pages.TABLE_MOVING, pages.TABLE_MOVED) == (neat.TABLE_MOVING, neat.TABLE_MOVED)
    assert neat.MAX_REPLICAS <= neat.TABLE_MOVING < neat.TABLE_MOVED


# ---- segments of no connection ----


@pytest.mark.parametrize(
    ("entry", "taken"),
    [
        (ME, True),
        (OTHER, False),
        (neat.TABLE_MOVING, True),
        (neat.TABLE_MOVED | ME, True),
        (neat.TABLE_MOVED | OTHER, False),
        (neat.TABLE_MOVED, False),
    ],
)
def test_who_takes_a_syn(entry, taken):
    lab = Share()
    lab.listening(PORT)
    lab.entry(entry)
    c = lab.connection(PORT)
    c.sends("S")
    lab.run()
    assert [s.flags for s in lab.left] == ["SA"] * taken
    assert lab.drops("moved") == (not taken)
    assert flows.strays(lab.region) == (0, b"")


def test_a_syn_taken_while_the_bucket_moves_becomes_a_connection():
    lab = Share(neat.TABLE_MOVED | ME)
    c = lab.accepted(PORT)
    lab.entry(OTHER)
    c.sends(data=b"hello")
    assert c.socket.recv() == b"hello"
    assert flows.strays(lab.region)[0] == 0


@pytest.mark.parametrize("flags", ["A", "SA", "R", "FA", ""])
@pytest.mark.parametrize(
    ("entry", "ours"), [(ME, True), (OTHER, False), (neat.TABLE_MOVING, False), (neat.TABLE_MOVED | ME, False)]
)
def test_what_is_no_syn_is_put_down_and_answered_only_in_our_own_buckets(entry, ours, flags):
    lab = Share(entry)
    c = lab.connection(PORT)
    c.sends(flags, ack=1)
    lab.run()
    assert len(lab.left) == (ours and "R" not in flags)
    assert lab.drops("moved") == (not ours)
    total, last = flows.strays(lab.region)
    assert total == 1
    assert [(each.source_port, each.destination_port) for each in flows_of(last)] == [(c.peer_port, PORT)]


def test_the_last_strays_are_remembered_oldest_first():
    lab = Share(OTHER)
    ports = [lab.connection(PORT) for _ in range(100)]
    for c in ports:
        c.sends("A", ack=1)
    lab.run()
    total, last = flows.strays(lab.region)
    assert total == 100
    assert [each.source_port for each in flows_of(last)] == [c.peer_port for c in ports[-64:]]


def test_a_stack_of_one_replica_has_no_strays():
    region = mmap.mmap(-1, region_size(256))
    lab = Lab(region=region)
    lab.connection(PORT).sends("A", ack=1)
    lab.run()
    assert flows.strays(region)[0] == 0


# ---- connections that programs open ----


@pytest.mark.parametrize("entry", [OTHER, neat.TABLE_MOVING, neat.TABLE_MOVED | ME])
def test_nobody_opens_a_connection_in_a_bucket_that_moves(entry):
    lab = Share()
    lab.entry(entry)
    chosen, bound = lab.program.connect(PEER, 443), lab.program.connect(PEER, 443, local_port=5000)
    lab.run()
    assert lab.left == []
    assert (chosen.error, bound.error) == (errno.EADDRNOTAVAIL, errno.EADDRNOTAVAIL)


# ---- flows as seen from outside ----


def test_flows_of_buckets_and_of_all():
    lab = Share(sockets=128)
    listener = lab.listening(PORT)
    ports = [lab.accepted(PORT, listener=listener).peer_port for _ in range(40)]
    place = {port: bucket(lab.keys, PEER, port, STACK, PORT) for port in ports}
    some = list(place.values())[:5]
    assert lab.live() == sorted(ports)
    assert lab.live(some) == sorted(port for port in ports if place[port] in some)
    assert lab.live([]) == []
    with pytest.raises(ValueError, match="no bucket 256"):
        lab.live([256])


def test_a_flow_lives_from_its_syn_to_the_end_of_time_wait():
    lab = Share()
    listener = lab.listening(PORT)
    c = lab.connection(PORT)
    c.sends("S")
    lab.run()
    assert lab.live() == [c.peer_port], "SYN-RECEIVED"
    d = lab.accepted(PORT, listener=listener)
    d.socket.close()
    lab.run()
    d.expects("FA")
    d.sends("FA", seq=1, ack=2)
    lab.run()
    assert d.state == "TIME_WAIT"
    assert lab.live() == sorted([c.peer_port, d.peer_port])
    lab.wait(200)
    assert lab.live() == []
    assert flows.in_use(lab.region) == (0, 0)


def test_a_connection_that_is_over_and_not_closed_yet_is_no_flow_but_counts():
    lab = Share()
    c = lab.accepted(PORT)
    c.sends("R", seq=1)
    lab.run()
    assert c.socket.reset
    assert lab.live() == []
    assert flows.in_use(lab.region) == (1, 0)
    c.socket.close()
    lab.run()
    assert flows.in_use(lab.region) == (0, 0)


def test_connections_to_ourselves_are_no_flows():
    lab = Share()
    lab.listening(PORT)
    for address in ("127.0.0.1", STACK):
        lab.program.connect(address, PORT)
    lab.run()
    assert flows.in_use(lab.region) == (4, 4)
    assert lab.live() == []


def test_whose_a_stray_is():
    lab = Share()
    c = lab.accepted(PORT)
    lab.entry(OTHER)
    strange = lab.connection(PORT)
    strange.sends("A", ack=1)
    lab.run()
    [stray] = flows_of(flows.strays(lab.region)[1])
    assert stray.source_port == strange.peer_port
    live = flows.live_flows(lab.region, lab.keys, None)
    asked = flows.strays(lab.region)[1] + live
    assert flows.owns(lab.region, asked) == live
    assert flows_of(live)[0].source_port == c.peer_port
    assert flows.owns(lab.region, b"") == b""
    with pytest.raises(ValueError, match="no whole number"):
        flows.owns(lab.region, b"x")


def test_what_is_no_region_has_no_flows():
    for look in (flows.in_use, flows.strays, lambda junk: flows.owns(junk, b"")):
        with pytest.raises(ValueError, match="not a state region"):
            look(bytes(4096))


def test_many_flows_are_read_in_no_time():
    """In 10 ms for each 100,000 where it was measured."""
    count = 20_000
    most = 4 * count + 4  # a quarter may be half open
    region = mmap.mmap(-1, region_size(most))
    lab = Lab(region=region, max_tcbs=most)
    lab.program.listen(PORT, backlog=count)
    syn = lab.connection(PORT, peer_port=1).segment("S")
    for number in range(count):
        frame = build(replace(syn, source_port=1000 + number), source_mac=PEER_MAC, destination_mac=STACK_MAC)
        lab.engine.input(frame)
        if number % 500 == 0:
            lab.engine.run()
            lab.engine.output()
    lab.engine.run()
    began = time.perf_counter()
    live = flows.live_flows(region, (1, 1, 1), None)
    assert time.perf_counter() - began < 0.1
    assert {each.source_port for each in flows_of(live)} == set(range(1000, 1000 + count))


# ---- requests ----


def requests(lab: Lab) -> int:
    return lab.engine.counters()["requests"]


def test_a_request_begins_with_the_first_text_after_an_answer():
    lab = Lab()
    c = lab.accepted(PORT)
    assert requests(lab) == 0
    c.sends(data=b"GET / ")
    c.sends(seq=7, data=b"HTTP/1.1\r\n\r\n")
    assert requests(lab) == 1
    c.socket.send(b"200 OK")
    lab.run()
    c.sends(seq=19, ack=7)
    assert requests(lab) == 1
    c.sends(seq=19, ack=7, data=b"GET /")
    assert requests(lab) == 2


def test_an_answer_sent_again_begins_no_request():
    lab = Lab()
    c = lab.accepted(PORT)
    c.sends(data=b"one")
    c.socket.send(b"answer")
    lab.run()
    c.sends(seq=4, ack=1, data=b"two")
    assert requests(lab) == 2
    retransmits = lab.engine.counters()["retransmits"]
    lab.wait(1)
    assert lab.engine.counters()["retransmits"] > retransmits
    c.sends(seq=7, ack=1, data=b"still two")
    assert requests(lab) == 2


def test_requests_of_connections_that_a_program_opened():
    """What answers a request is counted where it arrives."""
    lab = Lab()
    c = lab.connected()
    c.socket.send(b"question")
    lab.run()
    c.sends(ack=9, data=b"answer")
    assert requests(lab) == 1
