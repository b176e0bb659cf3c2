"""What viewers are told, what actions ask of the stack, and what is said when it does not start."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from neatstack.dashboard import hub
from tests.dashboard.support import Dashboard, dashboard, refused
from tests.support.fake_stack import FakeStack

ROOT = Path(__file__).parents[2]
STATIC = Path(hub.__file__).parent / "static"


def following(told: Iterator[tuple[str, Any]], wanted: Callable[[Any], Any], limit: float = 15) -> Any:
    """The next state of which `wanted` is true."""
    end = time.monotonic() + limit
    for kind, value in told:
        if kind == "state" and wanted(value):
            return value
        assert time.monotonic() < end, value
    raise AssertionError("the stream has ended")


def files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


class TestEvents:
    def test_the_past_comes_first_then_each_second(self, board: Dashboard) -> None:
        with board.events() as told:
            kind, past = next(told)
            assert kind == "past" and set(past) == {"samples", "events"}
            first = following(told, lambda state: "sample" in state)
            second = following(told, lambda state: state["time"] > first["time"])
        stack = second["stack"]
        assert (stack["name"], stack["active"], stack["wrong_replica"], stack["spares_ready"]) == ("web", 2, 0, 1)
        assert len(stack["table"]) == 256 and set(stack["table"]) == {0, 1}
        assert [replica["id"] for replica in stack["replicas"]] == [0, 1]
        assert 800 < stack["replicas"][0]["rates"]["requests"] < 1200
        assert 0.5 < second["time"] - first["time"] < 3
        requests, bytes_, busy = second["sample"]["replicas"]["1"]
        assert 1600 < requests < 2400 and 1.6e6 < bytes_ < 2.4e6 and busy == 0.25

    def test_what_happens_is_told_once_and_kept(self, board: Dashboard, fake: FakeStack) -> None:
        with board.events() as told:
            next(told)
            fake.happen("upgrade", 1, "to version 0.2.0", gap_ms=2.5, adopted=9, lost=0)
            state = following(told, lambda state: state["events"])
            (event,) = state["events"]
            assert (event["kind"], event["replica"], event["gap_ms"], event["lost"]) == ("upgrade", 1, 2.5, 0)
            assert not following(told, lambda state: True)["events"]
        with board.events() as told:
            assert event in next(told)[1]["events"]

    def test_one_poller_for_all(self, board: Dashboard, fake: FakeStack) -> None:
        streams = [board.events() for _ in range(8)]
        viewers = [stream.__enter__() for stream in streams]
        try:
            for viewer in viewers:
                next(viewer)
            before, started = fake.looks, time.monotonic()
            for _ in range(4):
                for viewer in viewers:
                    next(viewer)
            assert fake.looks - before <= time.monotonic() - started + 2
        finally:
            for stream in streams:
                stream.__exit__(None, None, None)

    def test_a_manager_that_restarts(self, fake: FakeStack, board: Dashboard) -> None:
        with board.events() as told:
            following(told, lambda state: not state["problem"])
            fake.be_silent()
            state = following(told, lambda state: state["problem"])
            assert "web is not there" in state["problem"]
            assert state["stack"]["name"] == "web"  # what was known last
            assert board.act("kill", {"replica": 0})[0] == 409
            fake.answer()
            assert following(told, lambda state: not state["problem"])["silent"] == 0

    def test_an_older_stack(self, run_dir: Path) -> None:
        """One that tells less of itself than we show."""
        with FakeStack(run_dir) as fake:
            fake.replies["status"] = {"name": "web", "replicas": [{"id": 0, "pid": 7, "state": "running"}]}
            with dashboard(run_dir) as board, board.events() as told:
                stack = following(told, lambda state: state["stack"])["stack"]
        assert (stack["table"], stack["uptime"], stack["replicas"][0]["connections"]) == ([], None, 0)

    def test_no_more_viewers_than_may_be(self, fake: FakeStack) -> None:
        with dashboard(fake.root) as board:
            streams = [board.events() for _ in range(hub.MOST_VIEWERS)]
            for stream in streams:
                stream.__enter__()
            assert board.ask("/events")[0] == 503
            assert board.ask("/")[0] == 200
            for stream in streams:
                stream.__exit__(None, None, None)
            end = time.monotonic() + 10
            while board.ask("/events", "HEAD")[0] == 503:
                assert time.monotonic() < end
                time.sleep(0.05)

    def test_who_does_not_read_makes_room(self, fake: FakeStack) -> None:
        """Its place is free again before its buffers could grow without end."""
        hurried = "from neatstack.dashboard import hub, server; hub.MOST_VIEWERS = 2; server.INTERVAL = 0.002"
        with dashboard(fake.root, before=hurried) as board, socket.socket() as stalled, board.events() as told:
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stalled.connect(("127.0.0.1", board.port))
            stalled.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            end = time.monotonic() + 10
            while board.ask("/events", "HEAD")[0] != 503:
                assert time.monotonic() < end
            while board.ask("/events", "HEAD")[0] == 503:
                next(told)
                assert time.monotonic() < end

    def test_it_ends_when_it_cannot_look_any_more(self, run_dir: Path) -> None:
        """A picture that stands still would be taken for the truth."""
        with FakeStack(run_dir) as fake, dashboard(run_dir) as board, board.events() as told:
            fake.replies["status"] = {"steering": {"table": [None]}}
            for _ in told:
                pass
            assert board.process.wait(10) == 1

    def test_streams_end_with_the_server(self, fake: FakeStack) -> None:
        with dashboard(fake.root) as board, board.events() as told:
            next(told)
            started = time.monotonic()
            board.process.terminate()
            for _ in told:
                pass
            board.process.wait(5)
            assert time.monotonic() - started < 4


class TestViewers:
    """In the process of the test: what is slow in reality."""

    def test_who_does_not_read_is_dropped(self) -> None:
        viewer = hub.Viewer()
        for _ in range(hub.WAITING):
            viewer.take(b"")
        assert not viewer.dropped.is_set()
        viewer.take(b"")
        assert viewer.dropped.is_set()

    def test_a_message_is_one_line(self) -> None:
        assert hub.message("state", {"text": "a\nb\r\n\u2028"}).count(b"\n") == 3


class TestActions:
    @pytest.mark.parametrize(("action", "wish", "asked", "line"), [
        ("kill", {"replica": 0}, {"op": "kill", "target": "0", "fault": "kill"}, "killed replica 0 (pid 1000)"),
        ("scale", {"replicas": 3}, {"op": "scale", "replicas": 3, "deadline": None},
         "scaled from 2 to 3 replicas in 12 ms"),
        ("scale", {"replicas": 2}, {"op": "scale", "replicas": 2, "deadline": None},
         "scaled from 3 to 2 replicas in 12 ms"),
        ("rejuvenate", {}, {"op": "rejuvenate"},
         "rejuvenated 2 replicas; longest gap 0.9 ms; connections lost: 0"),
    ])  # fmt: skip
    def test_asked_of_the_stack(
        self, board: Dashboard, fake: FakeStack, action: str, wish: Any, asked: Any, line: str
    ) -> None:
        assert board.act(action, wish) == (200, {"text": line})
        assert fake.requests[-1] == asked

    def test_a_refusal_is_told_as_it_is(self, board: Dashboard) -> None:
        assert board.act("kill", {"replica": 7}) == (
            409, {"error": "no replica 7; there are: 0, 1, manager, link"}
        )  # fmt: skip

    def test_answers_that_say_less(self, board: Dashboard, fake: FakeStack) -> None:
        fake.replies |= {"scale": {"ok": True}, "rejuvenate": {"ok": True, "replaced": [{}]}}
        try:
            assert board.act("scale", {"replicas": 2})[0] == 200
            assert board.act("rejuvenate", {}) == (200, {"text": "rejuvenated 1 replica; connections lost: 0"})
        finally:
            fake.replies.clear()

    @pytest.mark.parametrize(("action", "wish", "status"), [
        ("kill", {"replica": "0"}, 400), ("kill", {"replica": True}, 400), ("kill", {"replica": -1}, 400),
        ("kill", {"replica": 1.5}, 400), ("kill", {}, 400), ("kill", [], 400), ("kill", b"", 400),
        ("kill", b"\xff{", 400), ("kill", b"[" * 900, 400), ("scale", {"replicas": 0}, 400),
        ("scale", {"replicas": 10**30}, 400), ("kill", b" " * 2000, 413), ("destroy", {}, 404), ("__init__", {}, 404),
    ])  # fmt: skip
    def test_bad_input(self, board: Dashboard, fake: FakeStack, action: str, wish: Any, status: int) -> None:
        before = len(fake.requests)
        answer = board.act(action, wish)
        assert answer[0] == status
        assert "\n" not in answer[1]["error"]
        assert len(fake.requests) == before


class TestStart:
    """One line, and the exit status."""

    @pytest.mark.parametrize("listen", [
        "127.0.0.1", "8077", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", "1.2.3:80", "::1:80", "[127.0.0.1]:80",
        "somewhere:80", "127.0.0.1:²", "",
    ])  # fmt: skip
    def test_bad_address(self, fake: FakeStack, listen: str) -> None:
        status, error = refused(fake.root, "--listen", listen)
        assert status == 2 and error.startswith("neat: ") and error.count("\n") == 1 and "--listen" in error

    def test_port_in_use(self, fake: FakeStack, board: Dashboard) -> None:
        status, error = refused(fake.root, "--listen", f"127.0.0.1:{board.port}")
        assert status == 1 and error.count("\n") == 1 and "in use" in error and "--listen" in error

    def test_no_such_address(self, fake: FakeStack) -> None:
        status, error = refused(fake.root, "--listen", "192.0.2.1:8077")
        assert status == 1 and error.count("\n") == 1 and "192.0.2.1" in error

    def test_no_such_stack(self, fake: FakeStack, run_dir: Path) -> None:
        status, error = refused(fake.root, "--stack", "db")
        assert status == 1 and error == "neat: no stack db is running; there is: web\n"
        assert refused(run_dir) == (1, "neat: no stack is running; start one with `neat up`\n")

    def test_while_the_manager_restarts(self, run_dir: Path) -> None:
        with FakeStack(run_dir) as fake:
            fake.be_silent()
            with dashboard(run_dir) as board, board.events() as told:
                assert following(told, lambda state: state["problem"])["stack"] is None
                fake.answer()
                assert following(told, lambda state: state["stack"])["problem"] is None

    def test_ipv6(self, fake: FakeStack) -> None:
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("this machine has no IPv6 loopback")
        with dashboard(fake.root, listen="[::1]:0") as board:
            assert board.url.startswith("http://[::1]:")


class TestFiles:
    def test_a_wheel_has_them_all(self, tmp_path: Path) -> None:
        """What setuptools makes a wheel of."""
        argv = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", tmp_path]
        subprocess.run(argv, cwd=ROOT, check=True, capture_output=True)
        assert files(tmp_path / "neatstack/dashboard/static") == files(STATIC)

    def test_nothing_from_the_network(self) -> None:
        for file in [*STATIC.glob("*.*"), *STATIC.glob("js/*.js")]:
            text = file.read_text().replace("http://www.w3.org/2000/svg", "")  # a name, not an address
            assert "http:" not in text and "https:" not in text and "//cdn" not in text, file

    def test_no_html_from_text(self) -> None:
        for file in STATIC.glob("js/*.js"):
            for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
                assert word not in file.read_text(), file
        assert "<script>" not in (page := (STATIC / "index.html").read_text()) and "style=" not in page

    def test_licences(self) -> None:
        vendor = STATIC / "vendor"
        assert "MIT" in (vendor / "uPlot.LICENSE").read_text()
        assert (
            "1.6.32" in (vendor / "README").read_text() and "1.6.32" in (vendor / "uPlot.iife.min.js").read_text()[:99]
        )
