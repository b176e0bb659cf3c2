"""Which replica gets which flow: the indirection table, in the kernel's steering program and on the stack page."""

import itertools
import random
from collections.abc import Collection
from typing import TYPE_CHECKING

from neatstack.control.errors import NeatError
from neatstack.control.pages import StackPage
from neatstack.control.store import Store

if TYPE_CHECKING:
    from neatstack.dataplane.driver.steer import Steering

KEY = "steering"


def start(store: Store, page: StackPage, queue: int) -> "Steering":
    """Load the program, set it up as `page` says, and attach it to the device of `queue`. Raises NeatError."""
    from neatstack.dataplane.driver.steer import Steering

    try:
        steering = Steering.load()
        steering.configure(page.keys, [str(own.address) for own in page.own] or [str(page.address)], page.link_queue)
        steering.set_table(page.table)
        steering.attach(queue)
    except OSError as error:
        raise NeatError(f"steering: {error.strerror or error}; `neat doctor` tells what this host lacks") from None
    names = list(steering.fds)
    store.put(KEY, {"names": names}, [steering.fds[name] for name in names])
    return steering


def again(names: list[str], descriptors: list[int]) -> "Steering":
    """The program that a former manager has loaded."""
    from neatstack.dataplane.driver.steer import Steering

    return Steering.from_fds(dict(zip(names, descriptors, strict=True)))


def rebalance(owners: list[int], active: Collection[int]) -> dict[int, int]:
    """Which buckets move, and to whom, so that each active replica has the same share: as few as possible.

    Of a replica that gives up some, they are taken from all over the table, and neighbours go to different replicas:
    so flows of consecutive ports still spread. Their order is mixed (always in the same way): the hash takes
    consecutive ports through the table in equal steps, and an owner that came at equal steps could get them all.
    """
    mixed = random.Random(len(owners))
    has = {slot: [bucket for bucket, owner in enumerate(owners) if owner == slot] for slot in active}
    share, more = divmod(len(owners), len(has))
    largest = sorted(has, key=lambda slot: (-len(has[slot]), slot))
    quota = {slot: share + (rank < more) for rank, slot in enumerate(largest)}
    free = [bucket for bucket, owner in enumerate(owners) if owner not in has]
    for slot, buckets in has.items():
        surplus = max(0, len(buckets) - quota[slot])
        edges = [i * len(buckets) // surplus for i in range(surplus)] + [len(buckets)] if surplus else []
        free += [buckets[mixed.randrange(left, right)] for left, right in itertools.pairwise(edges)]
    missing = {slot: quota[slot] - len(has[slot]) for slot in sorted(has) if len(has[slot]) < quota[slot]}
    moves = {}
    for bucket in sorted(free):
        slot = max(missing, key=lambda each: (missing[each], mixed.random()))
        moves[bucket] = slot
        missing[slot] -= 1
    return moves
