"""`neat experiment reload`: what counts as a failure, and what as a leak."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from neatstack.experiment.footprint import Footprint, Taken, Tolerance
from neatstack.experiment.reload import Course, Plan, Result
from neatstack.experiment.reload_report import report
from neatstack.experiment.web_load import Fresh, Kept, Site
from tests.experiment.test_command import neat

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"
PLACE: Any = SimpleNamespace(entered=nullcontext)


def footprint(reloads: int, private: int = 0, descriptors: int = 10, programs: int = 3) -> Footprint:
    processes = {"manager": Taken(private, descriptors, 100)}
    return Footprint(processes, programs, 6, 1, 20, 0, 0, reloads)


@contextmanager
def serving(*scripts: list[bytes]) -> Iterator[Site]:
    """Each connection is given one script: an answer for each request, then it is closed."""

    def serve() -> None:
        for script in scripts:
            connection, _ = listener.accept()
            with connection:
                for answer in script:
                    connection.recv(4096)
                    connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
                connection.recv(4096)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield Site("127.0.0.1", listener.getsockname()[1], {"file": b"body"})
        thread.join(5)


def client(kind: type[Fresh] | type[Kept], site: Site) -> Fresh | Kept:
    return kind(0, PLACE, site, threading.Event(), threading.Event())


def test_a_kept_connection_that_ends_between_answers_is_no_failure() -> None:
    with serving([ANSWER, ANSWER], [ANSWER]) as site:
        asking = client(Kept, site)
        for _ in range(3):
            asking.attempt()
        asking.finish()
    assert (asking.tally.answered, asking.tally.closed_idle, asking.tally.failed) == (3, 1, 0)


WRONG = [[], [b"HTTP"], [ANSWER[:-1]], [ANSWER.replace(b"body", b"ydob")], [b"HTTP/1.1 500 \r\n\r\n"]]


@pytest.mark.parametrize(
    ("kind", "script"),
    # on a connection that is kept, more belongs to the next answer
    [*((kind, script) for kind in (Fresh, Kept) for script in WRONG), (Fresh, [ANSWER + b"more"])],
)
def test_everything_else_is(kind: type[Fresh] | type[Kept], script: list[bytes]) -> None:
    with serving(script) as site:
        asking = client(kind, site)
        asking.attempt()
    assert (asking.tally.answered, asking.tally.failed) == (0, 1)


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        site = Site("127.0.0.1", listener.getsockname()[1], {"file": b"body"})
    asking = client(Fresh, site)
    asking.attempt()
    assert asking.tally.failed == 1 and "refused" in asking.tally.failures[0]


def test_what_has_grown() -> None:
    before, leak = footprint(50), footprint(100, private=8 << 20, descriptors=60, programs=4)
    assert not Tolerance().grown(before, footprint(100, private=1 << 20, descriptors=11))
    assert [words.split(": 10")[0] for words in Tolerance().grown(before, leak)][1:] == [
        "manager: private: 0 at 50 reloads, 8388608 at 100",
        "manager: descriptors",
    ]


def test_what_is_being_cleared_away() -> None:
    """A measurement waits for descriptors of workers that have ended, not for memory that changes from time to time."""
    assert footprint(50).held == footprint(100, private=1 << 20).held
    assert footprint(50).held not in (footprint(50, descriptors=12).held, footprint(50, programs=4).held)


def test_report() -> None:
    plan, course = Plan(100, 10), Course(100)
    assert [done for done in range(1, 101) if plan.measures(done)] == [50, 100]
    course.tally.fail("Fresh-0: refused")
    course.footprints = [footprint(50), footprint(100)]
    said = report(Result(course, Course(10), ["manager: descriptors: 10 at 50 reloads, 60 at 100"]))
    assert "| failed requests | 1 | 0 |" in said and "failed: Fresh-0" in said and "grown: manager" in said


def test_bad_usage() -> None:
    answer = neat("experiment", "reload", "--reloads", "0")
    assert answer.returncode == 2 and answer.stderr.startswith("neat: reloads")
