"""The HTTP endpoint that Prometheus scrapes.

The stack is asked when Prometheus asks, by one task of the event loop; each HTTP request has a thread, which waits for
that task. A stack that does not answer is tried again until the limit; then the page says neat_up 0 and repeats what
was known last, unless the stack has ended.
"""

from __future__ import annotations

import asyncio
import copy
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, generate_latest, make_wsgi_app

from neatstack.control import rundir
from neatstack.control.errors import NeatError
from neatstack.observe.client import Feed
from neatstack.observe.metrics import Gaps, Sight, StackCollector

LIMIT = 0.8  # seconds for an answer of the stack; Prometheus itself gives up after 10
PAUSE = 0.05  # seconds between two attempts
CLIENT_LIMIT = 10.0  # seconds for an HTTP client to say and take what it wants

INDEX = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>NEaT metrics</title></head>
<body><h1>NEaT metrics</h1><p><a href="/metrics">/metrics</a> is for Prometheus.</p></body></html>
"""

StartResponse = Callable[[str, list[tuple[str, str]]], object]
App = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


@dataclass(frozen=True)
class Listen:
    """Where the endpoint listens."""

    address: IPv4Address | IPv6Address
    port: int

    @classmethod
    def parse(cls, text: str) -> Listen:
        """Of `127.0.0.1:9177`, `[::1]:9177` or `localhost:9177`. Raises NeatError."""
        host, colon, port = text.rpartition(":")
        try:
            if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
                raise ValueError
            if ":" in host and not (host.startswith("[") and host.endswith("]")):
                raise ValueError
            return cls(ip_address("127.0.0.1" if host == "localhost" else host.strip("[]")), int(port))
        except ValueError:
            raise NeatError(
                f"listen: {text!r} is no address; write it as 127.0.0.1:9177 or [::1]:9177", status=2
            ) from None

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"


class Watcher:
    """Asks the stack, one scrape at a time, and remembers what it said."""

    def __init__(self, name: str, limit: float = LIMIT) -> None:
        self.feed = Feed(name, history=1, limit=limit)
        self.gaps = Gaps()
        self._limit = limit
        self._busy = asyncio.Lock()

    async def look(self) -> Sight:
        """What is known now. Never raises; takes as long as the limit when the stack does not answer."""
        started, name = time.monotonic(), self.feed.name
        try:
            async with asyncio.timeout(self._limit):
                async with self._busy:
                    while not await self._poll() and rundir.is_running(name):
                        await asyncio.sleep(PAUSE)
        except TimeoutError:
            pass
        answered, gaps = self.feed.answered, copy.deepcopy(self.gaps)  # which another thread will read
        if answered is not None and answered >= started:
            return Sight(name, True, self.feed.view, 0.0, gaps)
        if answered is None or not rundir.is_running(name):
            return Sight(name, False)
        return Sight(name, False, self.feed.view, time.monotonic() - answered, gaps)

    async def _poll(self) -> bool:
        try:
            return await self.feed.poll()
        finally:
            self.gaps.take(self.feed.fresh)
            self.feed.fresh = []


def page(name: str) -> tuple[str, str | None]:
    """The page once, and what is wrong if the stack has not answered."""

    async def ask() -> tuple[Sight, str | None]:
        watcher = Watcher(name)
        sight = await watcher.look()
        watcher.feed.close()
        return sight, None if sight.up else watcher.feed.problem or f"stack {name} does not answer"

    sight, problem = asyncio.run(ask())
    registry = CollectorRegistry()
    registry.register(StackCollector(lambda: sight))
    return generate_latest(registry).decode(), problem


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def server_bind(self) -> None:
        """As WSGIServer, which would ask the name service for a name that nobody needs."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "localhost", self.server_address[1]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is its own affair."""


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = CLIENT_LIMIT

    def log_message(self, format: str, *arguments: Any) -> None:
        """Scrapes are too many to tell of."""


def application(registry: CollectorRegistry) -> App:
    """/ and /metrics."""
    metrics = make_wsgi_app(registry)

    def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "/")
        if path == "/metrics":
            return metrics(environ, start_response)
        status, kind, body = "404 Not Found", "text/plain", "there is only /metrics\n"
        if path == "/":
            status, kind, body = "200 OK", "text/html", INDEX
        start_response(status, [("Content-Type", f"{kind}; charset=utf-8")])
        return [body.encode()]

    return app


@contextmanager
def serving(name: str, listen: Listen, loop: asyncio.AbstractEventLoop) -> Iterator[Listen]:
    """The endpoint is there, and asks by `loop`, which another thread runs; where it really is. Raises NeatError."""
    watcher = Watcher(name)

    def look() -> Sight:
        return asyncio.run_coroutine_threadsafe(watcher.look(), loop).result()

    registry = CollectorRegistry()
    registry.register(StackCollector(look))
    kind = _Server6 if listen.address.version == 6 else _Server
    try:
        server = make_server(str(listen.address), listen.port, application(registry), kind, _Handler)
    except OSError as error:
        remedy = f"choose another address with --listen, such as {Listen(listen.address, 0)}"
        raise NeatError(f"cannot listen on {listen}: {error.strerror or error}; {remedy}") from None
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield Listen(listen.address, server.server_port)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def serve(name: str, listen: Listen, ready: Callable[[str], object]) -> None:
    """Answer scrapes until interrupted. `ready` gets the URL. Raises NeatError when it cannot listen."""

    async def run() -> None:
        with serving(name, listen, asyncio.get_running_loop()) as place:
            ready(f"http://{place}/metrics")
            await asyncio.Event().wait()

    asyncio.run(run())
