"""Link's end of its conversation with the manager: what it is asked for, one message a request, as replicas are."""

import functools
import mmap
import socket
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from neatstack.control import messages
from neatstack.control.frames import VNET
from neatstack.control.ping import Done, Pings
from neatstack.dataplane.driver.capture_memory import CaptureWriter


class Captures:
    """Where link's frames are given away."""

    def __init__(self) -> None:
        self.writers: dict[int, CaptureWriter] = {}

    def add(self, number: int, descriptor: int) -> None:
        """Raises ValueError for memory that is no capture's."""
        self.writers[number] = CaptureWriter(mmap.mmap(descriptor, 0))

    def drop(self, number: int) -> None:
        self.writers.pop(number, None)

    def put(self, frame: bytes, outgoing: bool) -> None:
        """A frame as the device has it has come or left."""
        for writer in self.writers.values():
            writer.put(frame[len(VNET) :], outgoing)


class Requests:
    """Obeys."""

    def __init__(
        self,
        sock: socket.socket,
        captures: Captures,
        pings: Pings,
        set_groups: Callable[[Iterable[IPv4Address | IPv6Address]], None],
    ) -> None:
        self.sock = sock
        self.captures = captures
        self.pings = pings
        self.set_groups = set_groups

    def receive(self) -> bool:
        """Take one message, which waits; False: the stack has ended."""
        try:
            received = messages.receive(self.sock)
        except ValueError:
            return True
        except OSError:
            return False
        if received is None:
            return False
        message, descriptors = received
        done = functools.partial(self._answer, message.get("id"))
        try:
            self._obey(message, descriptors, done)
        except (KeyError, TypeError, ValueError, OSError) as error:
            self._answer(message.get("id"), {}, str(error) or type(error).__name__)
        finally:
            messages.close(descriptors)
        return True

    def _answer(self, number: Any, answer: dict[str, Any], error: str | None = None) -> None:
        """Who asked may be gone; the next manager asks again."""
        try:
            messages.send(self.sock, {"id": number, **answer, **({"ok": True} if error is None else {"error": error})})
        except OSError:
            pass

    def _obey(self, message: dict[str, Any], descriptors: list[int], done: Done) -> None:
        """`done` is called with the answer, now or later."""
        match message:
            case {"op": "capture", "capture": int(number)}:
                (memory,) = descriptors
                self.captures.add(number, memory)
                done({})
            case {"op": "uncapture", "capture": int(number)}:
                self.captures.drop(number)
                done({})
            case {"op": "groups", "groups": list(groups)}:
                self.set_groups(map(ip_address, groups))
                done({})
            case {"op": "ping"}:
                self.pings.start(message, done)
            case _:
                raise ValueError(f"unknown request {message.get('op')!r}")
