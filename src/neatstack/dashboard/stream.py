"""Server-sent events to one viewer."""

import asyncio

from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from neatstack.dashboard.hub import Hub, TooMany, Viewer

HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]


class Stream:
    """The ASGI application behind /events: ends when the viewer goes, or is dropped because it does not read."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with self.hub.viewer() as viewer:
                await self._serve(viewer, receive, send)
        except TooMany:
            refusal = PlainTextResponse("too many viewers", 503, {"Retry-After": "10"})
            await refusal(scope, receive, send)

    async def _serve(self, viewer: Viewer, receive: Receive, send: Send) -> None:
        """Until one of the three happens; a stalled send is given up."""
        tasks = [
            asyncio.ensure_future(send_all(viewer, send)),
            asyncio.ensure_future(disconnected(receive)),
            asyncio.ensure_future(viewer.dropped.wait()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self.hub.closed.is_set():
            await send({"type": "http.response.body", "body": b""})


async def send_all(viewer: Viewer, send: Send) -> None:
    """Everything that the viewer is told."""
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    while True:
        body = await viewer.messages.get()
        await send({"type": "http.response.body", "body": body, "more_body": True})


async def disconnected(receive: Receive) -> None:
    """Wait until the viewer goes."""
    while (await receive())["type"] != "http.disconnect":
        pass
