"""One change of the stack's shape at a time: scaling, renewal."""

import contextlib
from collections.abc import Iterator

from neatstack.control.errors import NeatError


class Change:
    """Who changes the stack now. Whoever comes meanwhile is told so at once, and does not wait."""

    def __init__(self) -> None:
        self.under_way: str | None = None
        self.barred: str | None = None  # why no bucket may move, if so

    @contextlib.contextmanager
    def begin(self, what: str, *, moves: bool = True) -> Iterator[None]:
        """Change the stack for as long as the block lasts. Raises NeatError while another change is under way.

        `moves`: buckets may be given to other replicas, for which the manager must read the flows of those that they
        have.
        """
        if self.under_way is not None:
            raise NeatError(f"{self.under_way} is under way; try again when it is done")
        if moves and self.barred is not None:
            raise NeatError(self.barred)
        self.under_way = what
        try:
            yield
        finally:
            self.under_way = None
