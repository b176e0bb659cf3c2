"""What the page can ask the stack to do: from its request to the stack's, and from the stack's answer to a line."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from neatstack.control.errors import NeatError

LONGEST = 1024  # bytes of a request
AT_ONCE = 4
SLOTS = 16  # replicas of a stack at most

Command = Callable[..., Awaitable[dict[str, Any]]]


class Refused(Exception):
    """A request that makes no sense; `args` are the HTTP status and a line."""


class Actions:
    """Answers POST /actions/NAME with a JSON object. What it answers has `text`, or `error`: one line for the page."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self._under_way = 0

    async def answer(self, request: Request) -> JSONResponse:
        try:
            ask, tell = ACTIONS[request.path_params["action"]]
            wish = ask(await read(request))
            if self._under_way >= AT_ONCE:
                raise Refused(503, "other actions are under way; try again")
        except KeyError:
            return JSONResponse({"error": "no such action"}, 404)
        except Refused as refused:
            status, why = refused.args
            return JSONResponse({"error": why}, status)
        self._under_way += 1
        try:
            answer = await self.command(**wish)
        except NeatError as error:
            return JSONResponse({"error": str(error)}, 409)
        finally:
            self._under_way -= 1
        return JSONResponse({"text": tell(answer)})


async def read(request: Request) -> dict[str, Any]:
    """The JSON object of a request. Raises Refused."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LONGEST:
            raise Refused(413, "the request is too long")
    try:
        value = json.loads(body)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise Refused(400, "the request is no JSON object")
    return value


def whole(wish: dict[str, Any], name: str, least: int, most: int) -> int:
    """A whole number of a request. Raises Refused."""
    value = wish.get(name)
    if type(value) is not int or not least <= value <= most:
        raise Refused(400, f"{name} must be a whole number from {least} to {most}")
    return value


def kill(wish: dict[str, Any]) -> dict[str, Any]:
    return {"op": "kill", "target": str(whole(wish, "replica", 0, SLOTS - 1)), "fault": "kill"}


def killed(answer: dict[str, Any]) -> str:
    return f"killed replica {answer.get('target')} (pid {answer.get('pid')})"


def scale(wish: dict[str, Any]) -> dict[str, Any]:
    return {"op": "scale", "replicas": whole(wish, "replicas", 1, SLOTS), "deadline": None}


def scaled(answer: dict[str, Any]) -> str:
    """From how many to how many, and who is left with connections."""
    draining = ", ".join(map(str, answer.get("draining") or ()))
    left = f"; draining: {draining}" if draining else ""
    took = answer.get("took_ms")
    within = f" in {took:.0f} ms" if isinstance(took, int | float) else ""
    return f"scaled from {answer.get('from')} to {answer.get('to')} replicas{within}{left}"


def rejuvenate(wish: dict[str, Any]) -> dict[str, Any]:
    return {"op": "rejuvenate"}


def rejuvenated(answer: dict[str, Any]) -> str:
    """How many were replaced, the longest gap, and what was lost."""
    replaced = answer.get("replaced") or []
    gaps = [each["gap_ms"] for each in replaced if isinstance(each.get("gap_ms"), int | float)]
    longest = f"; longest gap {max(gaps):.1f} ms" if gaps else ""
    lost = sum(each.get("lost") or 0 for each in replaced)
    return f"rejuvenated {len(replaced)} replica{'s' * (len(replaced) != 1)}{longest}; connections lost: {lost}"


ACTIONS: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], Callable[[dict[str, Any]], str]]] = {
    "kill": (kill, killed),
    "scale": (scale, scaled),
    "rejuvenate": (rejuvenate, rejuvenated),
}
