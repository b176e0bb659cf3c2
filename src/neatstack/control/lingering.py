"""Channels of dead programs whose memory replicas still need: what was sent before the end is not yet acknowledged.

Their memory and doorbell are kept, under the channel's key, until each replica that has the channel has let go of it:
an incarnation that takes over must be told of it. Until then the number is not given to a new program.
"""

import functools
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from neatstack.control import messages
from neatstack.control.line import Answer, ReplicaGone, Told, refusal
from neatstack.control.replicas import Replicas
from neatstack.control.store import Entry, Store

log = logging.getLogger("neat.lingering")


@dataclass(eq=False)
class Channel:
    """What is left of a program."""

    number: int
    doorbell: int  # descriptors
    memories: dict[int, int]  # by slot: of those that have not let go
    unanswered: set[int] = field(default_factory=set)  # slots that still have to answer `drop`

    @property
    def key(self) -> str:
        return f"channel.{self.number}"

    def to_data(self) -> dict[str, Any]:
        """For the keeper."""
        slots = list(self.memories)
        return {"lingering": True, "channel": self.number, "slots": slots, "dropped": not self.unanswered}

    @property
    def descriptors(self) -> list[int]:
        return [self.doorbell, *self.memories.values()]

    def told(self, slot: int) -> Told:
        """How a new incarnation of `slot` is told of it."""
        message = {"op": "channel", "channel": self.number, "inherit": None, "gone": True}
        return Told(message, (self.memories[slot], self.doorbell))


def is_lingering(entry: Entry) -> bool:
    """Is it, among the entries of channels, one of these?"""
    return bool(entry.data.get("lingering"))


class Lingering:
    """All of them, the oldest first."""

    def __init__(self, store: Store, replicas: Replicas) -> None:
        self.store = store
        self.replicas = replicas
        self.by_number: dict[int, Channel] = {}
        replicas.on_freed = self._freed
        replicas.on_reset = self._reset

    def __contains__(self, number: int) -> bool:
        return number in self.by_number

    def contents(self, slot: int) -> Iterator[Told]:
        """What a new incarnation of `slot` has to know."""
        for channel in self.by_number.values():
            if slot in channel.memories:
                yield channel.told(slot)

    def add(self, number: int, doorbell: int, memories: Iterable[int]) -> None:
        """The program is dead: have all replicas drop the channel. The descriptors are ours from now on."""
        kept = {}
        for slot, memory in enumerate(memories):
            if slot in self.replicas.active:
                kept[slot] = memory
            else:
                messages.close([memory])
        channel = Channel(number, doorbell, kept, set(kept))
        self.by_number[number] = channel
        self._store(channel)
        self._drop(channel)

    def adopt(self, entry: Entry) -> None:
        """A restarted manager has found this one in the keeper; what the last one may not have asked is asked again."""
        doorbell, *memories = entry.descriptors
        kept = dict(zip(entry.data["slots"], memories, strict=True))
        channel = Channel(entry.data["channel"], doorbell, kept, set() if entry.data["dropped"] else set(kept))
        self.by_number[channel.number] = channel
        self._drop(channel)

    def give_up(self) -> int | None:
        """Forget the oldest that all replicas have answered for; its number. They let go when it is used again."""
        channel = next((channel for channel in self.by_number.values() if not channel.unanswered), None)
        if channel is None:
            return None
        log.warning("channel %d is given up: there is no other number left", channel.number)
        messages.close(list(channel.memories.values()))
        channel.memories.clear()
        self._store(channel)
        return channel.number

    def _drop(self, channel: Channel) -> None:
        for slot in sorted(channel.unanswered):
            answer = self.replicas.ask(self.replicas.slots[slot], Told({"op": "drop", "channel": channel.number}))
            if answer is None:  # its next incarnation is told that the program is gone
                channel.unanswered.discard(slot)
            else:
                answer.add_done_callback(functools.partial(self._dropped, channel, slot))
        if not channel.unanswered:
            self._store(channel)

    def _dropped(self, channel: Channel, slot: int, answer: Answer) -> None:
        if self.by_number.get(channel.number) is not channel or slot not in channel.unanswered:
            return
        channel.unanswered.discard(slot)
        if refused := refusal(answer):
            log.warning("channel %d: replica %d: %s", channel.number, slot, refused)  # it never had it
        needs = isinstance(answer.exception(), ReplicaGone) or (not refused and answer.result().get("in_use", False))
        if not needs:
            self._let_go(channel, slot)
        if not channel.unanswered:
            self._store(channel)

    def _freed(self, slot: int, numbers: list[Any]) -> None:
        for number in numbers:
            channel = self.by_number.get(number) if isinstance(number, int) else None
            if channel is not None:
                self._let_go(channel, slot)
                self._store(channel)

    def _reset(self, slot: int) -> None:
        """The slot has new memory: it needs none of them."""
        for channel in list(self.by_number.values()):
            if slot in channel.memories:
                channel.unanswered.discard(slot)
                self._let_go(channel, slot)
                self._store(channel)

    @staticmethod
    def _let_go(channel: Channel, slot: int) -> None:
        memory = channel.memories.pop(slot, None)
        if memory is not None:
            messages.close([memory])

    def _store(self, channel: Channel) -> None:
        """Keep what is still needed; if that is nothing, the number is free."""
        if channel.memories or channel.unanswered:
            self.store.put(channel.key, channel.to_data(), channel.descriptors)
        elif self.by_number.pop(channel.number, None) is not None:
            self.store.drop(channel.key)
            messages.close([channel.doorbell])
            log.debug("channel %d is closed", channel.number)
