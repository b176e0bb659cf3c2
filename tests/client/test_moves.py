"""connect() while buckets move between replicas, and while a replica stops taking new connections."""

# ruff: noqa: F403, F405 - a body that runs in a process of its own imports for itself
from __future__ import annotations

import threading

from tests.client.inside import *
from tests.client.mirror import Mirror
from tests.client.script import on_stack
from tests.support.layout import neat


@on_stack
def connect_twenty_times() -> None:
    accepting, port = listener()
    for _ in range(20):
        with socket.create_connection((ADDRESS, port)) as client, accepting.accept()[0] as server:
            client.sendall(b"x")
            assert server.recv(1) == b"x"


@on_stack
def connect_from_a_port() -> None:
    accepting, port = listener()
    with socket.socket() as client, takes(0, 0.6):
        client.bind(("0.0.0.0", 0))
        client.connect(("192.0.2.1", port))
        assert accepting.accept()


@on_stack
def connect_without_blocking() -> None:
    accepting, port = listener()
    with socket.socket() as client:
        client.setblocking(False)
        assert client.connect_ex((ADDRESS, port)) == 0
        assert client.getpeername() == (ADDRESS, port)
        assert accepting.accept()


@on_stack
def find_no_port() -> None:
    _, port = listener()
    for blocking in (True, False):
        with socket.socket() as client:
            client.setblocking(blocking)
            assert client.connect_ex((ADDRESS, port)) == errno.EADDRNOTAVAIL


def test_a_replica_that_has_stopped_taking_connections_is_not_insisted_on(mirror: Mirror) -> None:
    def leaves(replica: int) -> bool:
        if replica == 0:
            mirror.page.active = 0b10
        return replica == 0

    mirror.no_port = leaves
    connect_twenty_times(mirror)
    assert mirror.connects.count(1) == 20
    assert mirror.connects.count(0) <= 1


def test_a_replica_without_buckets_is_not_asked(mirror: Mirror) -> None:
    mirror.page.table[:] = [1] * neat.BUCKETS
    connect_twenty_times(mirror)
    assert set(mirror.connects) == {1}


def test_without_blocking_the_answer_is_awaited_when_the_replica_has_just_left(mirror: Mirror) -> None:
    def comes_back_elsewhere(replica: int) -> bool:
        mirror.page.active = 0b10
        return replica == 0

    mirror.page.active = 0
    mirror.no_port = comes_back_elsewhere
    connect_without_blocking(mirror)
    assert mirror.connects == [0, 1]


def test_when_all_refuse_it_is_an_error(mirror: Mirror) -> None:
    mirror.page.active = 0
    mirror.no_port = lambda replica: True
    find_no_port(mirror)


def test_a_port_whose_bucket_moves_waits_for_its_next_owner(mirror: Mirror) -> None:
    mirror.page.table[:] = [neat.TABLE_MOVING] * neat.BUCKETS

    def settle(replica: int) -> None:
        mirror.page.table[:] = [replica] * neat.BUCKETS

    mover = threading.Timer(0.6, settle, [1])  # while the program starts, or waits
    mover.start()
    connect_from_a_port(mirror)
    mover.join()
    assert len(mirror.connects) == 1


def test_a_port_whose_bucket_goes_on_moving_is_asked_of_the_next_owner(mirror: Mirror) -> None:
    mirror.page.table[:] = [neat.TABLE_MOVED | 1] * neat.BUCKETS
    connect_from_a_port(mirror)
    assert mirror.connects == [1]


def test_a_port_whose_bucket_has_moved_meanwhile_is_asked_of_the_new_owner(mirror: Mirror) -> None:
    def moves(replica: int) -> bool:
        mirror.page.table[:] = [1] * neat.BUCKETS
        return replica == 0

    mirror.page.table[:] = [0] * neat.BUCKETS
    mirror.no_port = moves
    connect_from_a_port(mirror)
    assert mirror.connects == [0, 1]
