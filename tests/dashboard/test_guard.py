"""Who may see the dashboard, and who may act."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dashboard.support import Dashboard, command, dashboard, refused
from tests.support.fake_stack import FakeStack

TOKEN = "correct-horse-battery-staple"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@pytest.fixture(scope="module")
def guarded(fake: FakeStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    """One that needs a token."""
    file = tmp_path_factory.mktemp("token") / "token"
    file.write_text(TOKEN + "\n")
    with dashboard(fake.root, "--token-file", file) as made:
        assert TOKEN not in made.url
        yield made


class TestHost:
    """A page under another name, pointed at this host, sees nothing."""

    @pytest.mark.parametrize("host", ["127.0.0.1:8077", "localhost", "localhost:1", "[::1]:8077", "127.1.2.3"])
    def test_this_host(self, board: Dashboard, host: str) -> None:
        assert board.ask("/", host=host)[0] == 200

    @pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:80", "10.0.0.1", "", "[", "127.0.0.1.a"])
    @pytest.mark.parametrize("path", ["/", "/events", "/static/style.css"])
    def test_strangers(self, board: Dashboard, host: str, path: str) -> None:
        assert board.ask(path, host=host)[0] in (400, 421)


class TestHeaders:
    @pytest.mark.parametrize("path", ["/", "/static/js/main.js", "/none", "/static/../server.py"])
    def test_on_every_answer(self, board: Dashboard, path: str) -> None:
        _, headers, _ = board.ask(path)
        assert {name: headers[name] for name in HEADERS} == HEADERS
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy and "http" not in policy and "*" not in policy

    def test_on_refusals(self, board: Dashboard, guarded: Dashboard) -> None:
        for _, headers, _ in (board.ask("/", host="evil.example"), guarded.ask("/")):
            assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]

    def test_only_the_page_is_served(self, board: Dashboard) -> None:
        for path in ("/static/../server.py", "/static/%2e%2e/server.py", "/static//etc/passwd", "/static/"):
            assert board.ask(path)[0] == 404


class TestToken:
    @pytest.mark.parametrize("path", ["/", "/events", "/static/style.css", "/none", f"/events?token={TOKEN}"])
    def test_without(self, guarded: Dashboard, path: str) -> None:
        status, headers, text = guarded.ask(path)
        assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
        assert TOKEN not in text

    @pytest.mark.parametrize("wrong", ["", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "%00", "%FF"])
    def test_wrong(self, guarded: Dashboard, wrong: str) -> None:
        assert guarded.ask(f"/?token={wrong}")[0] == 401
        assert guarded.ask("/", authorization=f"Bearer {wrong}")[0] == 401
        assert guarded.ask("/", cookie=f"neat-dashboard-{guarded.port}={wrong}")[0] == 401

    def test_in_the_url_once_then_a_cookie(self, guarded: Dashboard) -> None:
        status, headers, _ = guarded.ask(f"/?token={TOKEN}")
        assert (status, headers["Location"]) == (303, "/")
        cookie, *attributes = headers["Set-Cookie"].split("; ")
        assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(attributes)
        assert guarded.ask("/", cookie=cookie)[0] == 200
        with guarded.events(cookie=cookie) as told:
            assert next(told)[0] == "past"

    def test_bearer(self, guarded: Dashboard) -> None:
        assert guarded.ask("/", authorization=f"Bearer {TOKEN}")[0] == 200
        assert guarded.ask("/", authorization=f"Basic {TOKEN}")[0] == 401

    def test_actions_need_it_too(self, guarded: Dashboard, fake: FakeStack) -> None:
        before = len(fake.requests)
        assert guarded.act("kill", {"replica": 1})[0] == 401
        assert len(fake.requests) == before
        assert guarded.act("kill", {"replica": 1}, authorization=f"Bearer {TOKEN}")[0] == 200

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes a network namespace")
    def test_made_and_printed_beyond_loopback(self, fake: FakeStack) -> None:
        argv, environment = command(fake.root, "--listen", "0.0.0.0:8077")
        outside = ["unshare", "--net", *argv]
        with subprocess.Popen(outside, stdout=subprocess.PIPE, text=True, env=environment) as process:
            try:
                assert process.stdout is not None
                url, _, token = process.stdout.readline().strip().partition("/?token=")
                assert url.startswith("dashboard of stack web: http://") and url.endswith(":8077")
                assert len(token) >= 43
            finally:
                process.kill()

    @pytest.mark.parametrize(("text", "words"), [
        (None, "cannot read the token"), ("short", "at least 16"), ("", "at least 16"),
        ("sixteen letters and spaces", "at least 16"), ("ünicode-ünicode-ünicode", "at least 16"),
    ])  # fmt: skip
    def test_files_without_one(self, fake: FakeStack, tmp_path: Path, text: str | None, words: str) -> None:
        if text is not None:
            (tmp_path / "token").write_text(text)
        status, error = refused(fake.root, "--token-file", tmp_path / "token")
        assert status == 1 and error.count("\n") == 1 and words in error


class TestStrangersPages:
    """Another site's page in the same browser can have the stack do nothing."""

    @pytest.mark.parametrize("headers", [
        {},
        {"origin": "http://evil.example"},
        {"x_neat_action": "kill", "origin": "http://evil.example"},
        {"x_neat_action": "kill", "origin": "null"},
        {"x_neat_action": "kill", "origin": "http://127.0.0.1:1"},
        {"x_neat_action": "kill", "sec_fetch_site": "cross-site"},
        {"x_neat_action": "kill", "sec_fetch_site": "same-site"},
        {"x_neat_action": "kill", "host": "evil.example"},
    ])  # fmt: skip
    def test_refused(self, board: Dashboard, fake: FakeStack, headers: dict[str, str]) -> None:
        before = len(fake.requests)
        assert board.ask("/actions/kill", "POST", {"replica": 1}, **headers)[0] in (403, 421)
        assert len(fake.requests) == before

    def test_ours(self, board: Dashboard) -> None:
        same = {"origin": f"http://127.0.0.1:{board.port}", "sec_fetch_site": "same-origin"}
        assert board.act("kill", {"replica": 1}, **same)[0] == 200

    def test_looking_is_no_action(self, board: Dashboard) -> None:
        assert board.ask("/actions/kill", "GET", x_neat_action="kill")[0] == 405
