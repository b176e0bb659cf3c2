"""The manager's end of its conversation with one process of a replica: requests, answers, and what it says unasked."""

import asyncio
import itertools
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from neatstack.control import messages

log = logging.getLogger("neat.line")

Answer = asyncio.Future[dict[str, Any]]


class ReplicaGone(Exception):
    """The replica has died; its next incarnation will be told everything."""


class ReplicaError(Exception):
    """The replica refuses a request; `args[0]` says why."""


@dataclass(frozen=True)
class Told:
    """One request to a replica."""

    message: dict[str, Any]
    descriptors: tuple[int, ...] = ()


class ControlLine:
    """Requests to one process and their answers, in order, without ever blocking."""

    def __init__(self, sock: socket.socket, unasked: Callable[[dict[str, Any]], None]) -> None:
        self.sock = sock
        self.unasked = unasked  # takes what is no answer
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(time.monotonic_ns())  # so that a restarted manager repeats none
        self._unsent: deque[tuple[dict[str, Any], list[int]]] = deque()
        self._waiting: dict[int, Answer] = {}
        sock.setblocking(False)
        self._loop.add_reader(sock, self.receive)

    def request(self, told: Told) -> Answer:
        """Send; the future is done when the process has answered. Its errors are ReplicaError and ReplicaGone."""
        number = next(self._numbers)
        answer: Answer = self._loop.create_future()
        answer.add_done_callback(_retrieve)
        self._waiting[number] = answer
        message = {**told.message, "id": number}
        if self._unsent or not self._send(message, list(told.descriptors)):
            if not self._unsent:
                self._loop.add_writer(self.sock, self._flush)
            # whoever asked may close its descriptors before this message gets its turn
            self._unsent.append((message, [os.dup(descriptor) for descriptor in told.descriptors]))
        return answer

    def waits_for(self, answers: set[Answer]) -> bool:
        """Is one of `answers` owed by this process?"""
        return any(answer in answers for answer in self._waiting.values())

    def receive(self) -> None:
        """Take all that the process has said. Also called when it is dead, for its last words."""
        while self._receive_one():
            pass

    def close(self) -> None:
        """The process is gone: fail what waits for it."""
        self._loop.remove_reader(self.sock)
        self._loop.remove_writer(self.sock)
        self.sock.close()
        for _, descriptors in self._unsent:
            messages.close(descriptors)
        self._unsent.clear()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ReplicaGone())
        self._waiting.clear()

    def _send(self, message: dict[str, Any], descriptors: list[int]) -> bool:
        try:
            messages.send(self.sock, message, descriptors)
        except BlockingIOError:
            return False
        except OSError:
            return True  # it is dead, which its pidfd tells
        return True

    def _flush(self) -> None:
        while self._unsent:
            message, descriptors = self._unsent[0]
            if not self._send(message, descriptors):
                return
            messages.close(descriptors)
            self._unsent.popleft()
        self._loop.remove_writer(self.sock)

    def _receive_one(self) -> bool:
        """Take one message; False: there is none."""
        try:
            received = messages.receive(self.sock)
        except BlockingIOError:
            return False
        except ValueError as error:
            log.warning("a replica sent something strange: %s", error)
            return True
        except OSError:
            received = None
        if received is None:
            self._loop.remove_reader(self.sock)
            return False
        message, descriptors = received
        messages.close(descriptors)
        if "id" not in message:
            self.unasked(message)
            return True
        number = message["id"]
        answer = self._waiting.pop(number, None) if isinstance(number, int) else None
        if answer is not None and not answer.done():
            if message.get("ok"):
                answer.set_result(message)
            else:
                answer.set_exception(ReplicaError(str(message.get("error"))))
        return True


def refusal(answer: Answer) -> ReplicaError | None:
    """Why the request was refused, if it was."""
    error = answer.exception() if answer.done() and not answer.cancelled() else None
    return error if isinstance(error, ReplicaError) else None


def _retrieve(future: Answer) -> None:
    """Nobody needs to wait for an answer: an error that nobody asked for is not worth a warning of asyncio."""
    if not future.cancelled():
        future.exception()
