"""The dashboard's server: the page, its events, its actions, behind the guard."""

import asyncio
import contextlib
import functools
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from neatstack.dashboard.actions import Actions
from neatstack.dashboard.guard import Guard
from neatstack.dashboard.hub import MOST_VIEWERS, Hub
from neatstack.dashboard.picture import MEMORY
from neatstack.dashboard.stream import Stream
from neatstack.observe import client

STATIC = Path(__file__).parent / "static"
INTERVAL = 1.0  # seconds between two looks at the stack
MOST_CONNECTIONS = MOST_VIEWERS + 64  # of the viewers, and for pages and actions
HEADER_LIMIT = 16384  # bytes


def application(name: str, hub: Hub, token: str | None) -> Guard:
    """The ASGI application for stack `name`."""

    async def page(request: Request) -> FileResponse:
        return FileResponse(STATIC / "index.html")

    routes = [
        Route("/", page, methods=["GET"]),
        Route("/events", Stream(hub), methods=["GET"]),
        Route("/actions/{action}", Actions(functools.partial(client.command, name)).answer, methods=["POST"]),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    return Guard(Starlette(routes=routes), token)


class Server(uvicorn.Server):
    """Ends the viewers' streams first when it is told to end: they would never end by themselves."""

    def __init__(self, config: uvicorn.Config, hub: Hub, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.hub, self.ready = hub, ready

    def end(self) -> None:
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.hub.close()
        await super().shutdown(sockets)


async def serve(name: str, listener: socket.socket, token: str | None, ready: Callable[[], None]) -> None:
    """Serve stack `name` until a signal ends it; `ready` is called when requests are answered."""
    hub = Hub(client.Feed(name, MEMORY), INTERVAL)
    config = uvicorn.Config(
        application(name, hub, token),
        http="h11",
        ws="none",
        lifespan="off",
        log_level="critical",  # what a stranger sends is no news
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS,
        h11_max_incomplete_event_size=HEADER_LIMIT,
        timeout_graceful_shutdown=2,
    )
    server = Server(config, hub, ready)
    poller = asyncio.ensure_future(hub.run())
    poller.add_done_callback(lambda _: server.end())  # nobody is shown what was true once
    try:
        await server.serve([listener])
    finally:
        poller.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await poller
