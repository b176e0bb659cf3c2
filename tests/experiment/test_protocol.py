"""Every byte is checked: whatever is changed on the way shows, in either direction."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from neatstack.experiment import protocol
from neatstack.experiment.client import wrong_bytes
from neatstack.experiment.netns import Lab
from neatstack.experiment.stage import loaded
from neatstack.experiment.timeline import DROPPED, LOST, WRONG
from tests.experiment.fake import local, serve

Change = Callable[[bytes], bytes]


def test_sizes() -> None:
    requests = [protocol.request(3, sequence) for sequence in range(2048)]
    answers = [protocol.answer(3, sequence) for sequence in range(2048)]
    assert sum(len(each) > protocol.SMALL_REQUEST for each in requests) == 2048 // protocol.REQUEST_EVERY
    assert sum(len(each) != protocol.SMALL_ANSWER for each in answers) == 2048 // protocol.ANSWER_EVERY
    assert 30_000 < max(map(len, requests)) <= protocol.HEADER.size + protocol.LARGEST
    assert 30_000 < max(map(len, answers)) <= protocol.ANSWER.size + protocol.LARGEST
    assert len(set(requests)) == len(set(answers)) == 2048


@pytest.mark.parametrize("at", range(protocol.SMALL_REQUEST))
def test_any_bit_of_a_first_request(at: int) -> None:
    """Header: refused; payload: not what it must be."""
    sent = protocol.request(9, 4)
    got = sent[:at] + bytes([sent[at] ^ 1]) + sent[at + 1 :]
    assert protocol.first(sent) == (9, 4)
    if at < protocol.HEADER.size:
        assert protocol.first(got) is None
    assert protocol.differing(got, sent) == 1


def test_what_is_wrong_in_an_answer() -> None:
    right = protocol.answer(5, 7)
    assert wrong_bytes(right, right) == wrong_bytes(right[:9], right) == 0
    assert wrong_bytes(protocol.answer(5, 7, status=3), right) == 3
    assert wrong_bytes(protocol.answer(5, 6), right) > 0  # the answer to another request
    assert wrong_bytes(right + b"more", right) == 4
    assert wrong_bytes(right[:-1] + bytes([right[-1] ^ 8]), right) == 1


@contextlib.contextmanager
def proxy(port: int, towards_server: Change, towards_client: Change) -> Iterator[int]:
    """Carries connections to the server, and changes what passes; its port."""

    def carry(source: socket.socket, target: socket.socket, change: Change) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(change(data))
        for sock in (source, target):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client = entrance.accept()[0]
                server = socket.create_connection(("127.0.0.1", port))
                for pair in ((client, server, towards_server), (server, client, towards_client)):
                    threading.Thread(target=carry, args=pair, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as entrance:
        threading.Thread(target=accept, daemon=True).start()
        yield entrance.getsockname()[1]
        entrance.shutdown(socket.SHUT_RDWR)


def untouched(data: bytes) -> bytes:
    return data


class FlipOnce:
    """Changes a bit in the middle of what passes, after a while, once."""

    def __init__(self, after: int, least: int = 0):
        self.left, self.least = after, least

    def __call__(self, data: bytes) -> bytes:
        self.left -= 1
        if self.left > 0 or len(data) < self.least or self.done:
            return data
        self.done = True
        at = len(data) // 2
        return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]

    done = False


@pytest.mark.parametrize("direction", ["none", "to the server", "to the client"])
@pytest.mark.parametrize("least", [0, 4000], ids=["small", "large"])
def test_a_flipped_bit_is_found(direction: str, least: int) -> None:
    flip = FlipOnce(200, least)
    changes = (flip if direction == "to the server" else untouched, flip if direction == "to the client" else untouched)
    with Lab() as lab:
        _, port = serve(local(lab))
        with proxy(port, *changes) as entrance, loaded(local(lab), "127.0.0.1", entrance, 4, None) as load:
            timeline, end = load.timeline, time.monotonic() + 30
            while time.monotonic() < end and not (timeline.answers > 4000 and (flip.done or direction == "none")):
                load.pump(0.05)
            load.pump(0.3)
            assert timeline.answers > 4000
            wrong = [each for each in timeline.troubles if each.kind == WRONG]
            assert sum(each.count for each in wrong) == (0 if direction == "none" else 1)
            assert [each.kind for each in timeline.troubles if each.kind != WRONG] == [DROPPED] * len(wrong)
            assert timeline.open()  # the connection was replaced


def test_a_reset_is_a_lost_connection_and_no_wrong_byte() -> None:
    with Lab() as lab:
        server, port = serve(local(lab))
        with loaded(local(lab), "127.0.0.1", port, 4, None) as load:
            load.pump(0.1)
            server.stop()
            again = local(lab).spawn(*server.argv[:-1], port)
            end = time.monotonic() + 20
            while time.monotonic() < end and None not in load.timeline.opened and again.running():
                load.pump(0.01)
            while time.monotonic() < end and not load.timeline.all_served(load.timeline.troubles[-1].time, 0):
                load.pump(0.01)
            assert {each.kind for each in load.timeline.troubles} == {LOST}
            assert {each.place for each in load.timeline.troubles} == {0, 1, 2, 3}
            assert load.timeline.open()
