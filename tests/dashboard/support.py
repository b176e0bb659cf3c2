"""A dashboard in a process of its own, and what its viewers say to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SOURCE = Path(__file__).parents[2] / "src"
NEAT = "from neatstack.cli import main; main()"
LIMIT = 20.0  # seconds


@dataclass
class Dashboard:
    """One that serves at `url`."""

    url: str
    process: subprocess.Popen[str]

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 80

    def ask(
        self, path: str, method: str = "GET", body: Any = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, str]:
        """Status, headers and body of an answer; `user_agent` stands for User-Agent."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)
        with contextlib.closing(connection):
            sent = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, sent, named)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()

    def act(self, action: str, body: Any, **headers: str) -> tuple[int, Any]:
        """As the page does."""
        status, told, answer = self.ask(f"/actions/{action}", "POST", body, x_neat_action=action, **headers)
        is_json = told.get_content_type() == "application/json"
        return status, json.loads(answer) if is_json else answer

    @contextlib.contextmanager
    def events(self, **headers: str) -> Iterator[Iterator[tuple[str, Any]]]:
        """A viewer: the kinds and values of what it is sent."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)
        with contextlib.closing(connection):
            connection.request("GET", "/events", headers=headers)
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            assert answer.headers.get_content_type() == "text/event-stream"
            yield messages(answer)


def messages(answer: http.client.HTTPResponse) -> Iterator[tuple[str, Any]]:
    """The server-sent events of a stream."""
    while line := answer.readline():
        kind = line.decode().removeprefix("event: ").strip()
        value = json.loads(answer.readline().decode().removeprefix("data: "))
        assert answer.readline() == b"\n"
        yield kind, value


def command(run_dir: Path, *arguments: object, before: str = "pass") -> tuple[list[str], dict[str, str]]:
    environment = {**os.environ, "NEAT_RUN_DIR": str(run_dir), "PYTHONPATH": str(SOURCE), "COLUMNS": "200"}
    return [sys.executable, "-c", f"{before}; {NEAT}", "dashboard", *map(str, arguments)], environment


@contextlib.contextmanager
def dashboard(
    run_dir: Path, *arguments: object, listen: str = "127.0.0.1:0", before: str = "pass"
) -> Iterator[Dashboard]:
    """One that answers; ended with the block. `before` is Python to run first."""
    argv, environment = command(run_dir, "--listen", listen, *arguments, before=before)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment, cwd="/") as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("dashboard of stack "), line
            yield Dashboard(line.split(": ", 1)[1].strip(), process)
        finally:
            process.terminate()
            try:
                process.wait(LIMIT)
            finally:
                process.kill()


def refused(run_dir: Path, *arguments: object) -> tuple[int, str]:
    """Exit status and standard error of one that does not start."""
    argv, environment = command(run_dir, *arguments)
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, cwd="/", timeout=LIMIT)
    assert done.stdout == ""
    return done.returncode, done.stderr
