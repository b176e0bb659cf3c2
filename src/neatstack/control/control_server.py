"""control.sock: the command line's requests, one JSON object a line each way."""

import asyncio
import json
import logging
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neatstack.control.manager import Manager

log = logging.getLogger("neat.control")

LONGEST = 1 << 16  # bytes of a request


class ControlServer:
    """Answers on control.sock, which only the stack's owner may open."""

    def __init__(self, listener: socket.socket, manager: "Manager") -> None:
        self.manager = manager
        listener.setblocking(False)
        self._started = asyncio.ensure_future(asyncio.start_unix_server(self._serve, sock=listener, limit=LONGEST))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(json.dumps(await self._answer(line)).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError):
            pass  # gone, or a line without end
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        from neatstack.control import stats

        try:
            match json.loads(line):
                case {"op": "status"}:
                    return stats.status(self.manager)
                case {"op": "ss"}:
                    return await stats.sockets(self.manager)
            return {"error": "no such request"}
        except ValueError:
            return {"error": "not a JSON object"}
        except Exception as error:
            log.exception("a request of the command line failed")
            return {"error": f"{type(error).__name__}: {error}"}
