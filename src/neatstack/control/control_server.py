"""control.sock: the command line's requests, one JSON object a line each way."""

import asyncio
import json
import logging
import socket
import struct
from typing import TYPE_CHECKING, Any

from neatstack.control import autoscale, faults, messages, pages
from neatstack.control.errors import NeatError
from neatstack.control.faults import Harm
from neatstack.control.line import Told, refusal
from neatstack.control.ping import LONGEST_WAIT

if TYPE_CHECKING:
    from neatstack.control.manager import Manager

log = logging.getLogger("neat.control")

CREDENTIALS = struct.Struct("=3i")  # struct ucred
LONGEST = 1 << 16  # bytes of a request
LONGEST_DEADLINE = 10_000_000  # seconds
LINK_TIME = 1.0  # seconds more than a reply may take


class ControlServer:
    """Answers on control.sock, which only the stack's owner may open."""

    def __init__(self, listener: socket.socket, manager: "Manager") -> None:
        self.manager = manager
        listener.setblocking(False)
        self._started = asyncio.ensure_future(asyncio.start_unix_server(self._serve, sock=listener, limit=LONGEST))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.transport.set_write_buffer_limits(0)  # so that drain() waits until all is sent
            while line := await reader.readline():
                if b'"capture"' in line and await self._capture(line, writer):
                    continue
                harm = await self._answer(line)
                writer.write(json.dumps(harm.answer).encode() + b"\n")
                await writer.drain()
                if harm.afterwards is not None:
                    harm.afterwards()
        except (ConnectionError, ValueError):
            pass  # gone, or a line without end
        finally:
            writer.close()

    async def _capture(self, line: bytes, writer: asyncio.StreamWriter) -> bool:
        """Answer a request for a capture, with the memory to read; False: it is another request."""
        try:
            request = json.loads(line)
            if not isinstance(request, dict) or request.get("op") != "capture":
                return False
        except ValueError:
            return False
        with writer.get_extra_info("socket").dup() as sock:
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
            answer, memories = await self._start_capture(CREDENTIALS.unpack(credentials)[0], request.get("buffer"))
            try:
                socket.send_fds(sock, [json.dumps(answer).encode() + b"\n"], memories)
            except BlockingIOError:
                raise ConnectionError("it reads no answers") from None
            finally:
                messages.close(memories)
        return True

    async def _start_capture(self, pid: int, size: Any) -> tuple[dict[str, Any], list[int]]:
        """The answer, and descriptors that cannot be mapped to write."""
        captures = self.manager.captures
        try:
            started = await captures.start(pid, size)
        except NeatError as error:
            return {"error": str(error)}, []
        return captures.describe(started), [pages.read_only(memory) for memory in started.memories]

    async def _answer(self, line: bytes) -> Harm:
        try:
            request = json.loads(line)
        except ValueError:
            return Harm({"error": "not a JSON object"})
        try:
            if isinstance(request, dict) and request.get("op") == "kill":
                return await faults.kill(self.manager, *map(request.get, ("target", "fault", "seed")))
            return Harm(await self._change(request) or await self._tell(request))
        except NeatError as error:
            return Harm({"error": str(error)})
        except Exception as error:
            log.exception("a request of the command line failed")
            return Harm({"error": f"{type(error).__name__}: {error}"})

    async def _change(self, request: Any) -> dict[str, Any] | None:
        """The answer to a request that changes the stack, when it is done; None: it is another. Raises NeatError."""
        manager = self.manager
        match request:
            case {"op": "scale"}:
                return await self._scale(request.get("replicas"), request.get("deadline"))
            case {"op": "autoscale"}:
                return autoscale.told(manager.autoscale, request)
            case {"op": "rejuvenate", "every": every}:
                return {"ok": True, **manager.schedule.set(every, request.get("jitter"))}
            case {"op": "rejuvenate"}:
                return {"ok": True, **await manager.renewal.rejuvenate()}
            case {"op": "upgrade"}:
                return {"ok": True, **await manager.upgrade.asked(request)}
        return None

    async def _ping(self, request: dict[str, Any]) -> dict[str, Any]:
        """What link says has come of an echo request. Raises NeatError."""
        wait = request.get("timeout")
        if not (isinstance(wait, int | float) and 0 < wait <= LONGEST_WAIT):
            raise NeatError(f"{wait!r} is no time to wait for a reply; give seconds up to {LONGEST_WAIT:g}")
        answer = self.manager.link.ask(Told(request))
        if answer is None or not (await asyncio.wait([answer], timeout=wait + LINK_TIME))[0]:
            return {"outcome": "link"}
        if refused := refusal(answer):
            raise NeatError(f"link cannot send that: {refused}")
        return {"outcome": "link"} if answer.exception() is not None else answer.result()

    async def _scale(self, replicas: Any, deadline: Any) -> dict[str, Any]:
        """By hand, which ends scaling by itself."""
        if type(replicas) is not int:
            raise NeatError(f"{replicas!r} is no number of replicas; give a whole number from 1 on")
        if deadline is not None and not (type(deadline) in (int, float) and 0 <= deadline < LONGEST_DEADLINE):
            raise NeatError(f"{deadline!r} is no time to drain; give seconds, from 0 to {LONGEST_DEADLINE}")
        answer = await self.manager.scaling.scale(replicas, deadline)
        return {"ok": True, **answer, "auto_ended": self.manager.autoscale.stop()}

    async def _tell(self, request: Any) -> dict[str, Any]:
        """The answer to a request that changes nothing."""
        from neatstack.control import stats

        match request:
            case {"op": "status"}:
                return stats.status(self.manager)
            case {"op": "ss"}:
                return await stats.sockets(self.manager)
            case {"op": "events"}:
                since = request.get("since")
                return self.manager.events.since(since if type(since) is int else 0)
            case {"op": "ping"}:
                return await self._ping(request)
            case {"op": "recoveries"}:
                return {"recoveries": self.manager.recoveries()}
        return {"error": "no such request"}
