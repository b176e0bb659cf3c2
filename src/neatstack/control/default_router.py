"""Which of several default routers is used: one that answers (RFC 1122 sections 3.3.1.4, 3.3.1.5; RFC 4861 6.3.6)."""

from collections.abc import Callable, Sequence

from neatstack.control.neighbourhood import Neighbourhood

ASK_EVERY = 10.0  # seconds between two questions to the one that is used, and to those that do not answer


class DefaultRouter:
    """The first of those that answer; with `keep` the present one while it does. `changed` is called when it is another
    one."""

    def __init__(
        self,
        neighbours: Neighbourhood,
        candidates: Callable[[], Sequence[bytes]],
        changed: Callable[[], None],
        keep: bool = False,
    ) -> None:
        self.neighbours = neighbours
        self.candidates = candidates
        self.keep = keep
        self.chosen: bytes | None = next(iter(candidates()), None)
        self._changed = changed
        self._ask_at = 0.0

    # rfc: 1122:gateways dead-gateway, 4861:6.3.6-1
    def choose(self) -> None:
        """Where none answers, the present one stays."""
        candidates = self.candidates()
        answering = [router for router in candidates if self.neighbours.known(router) is not None]
        best = answering or candidates
        stays = self.chosen in best and (self.keep or not answering)
        chosen = self.chosen if stays else best[0] if best else None
        if chosen != self.chosen:
            self.chosen = chosen
            if chosen is not None:
                self.neighbours.want(chosen)
            self._changed()

    # rfc: 4861:6.3.6-2
    def run_timers(self, now: float) -> float | None:
        """Where there are several, ask the one that is used whether it is still there, and those that do not answer
        whether they are there again, all of them, so that the first that does is taken; when that is due again."""
        self.choose()
        candidates = self.candidates()
        if len(candidates) < 2:
            return None
        if self._ask_at <= now:
            self._ask_at = now + ASK_EVERY
            for router in candidates:
                if self.neighbours.known(router) is None:
                    self.neighbours.want(router)
                elif router == self.chosen:
                    self.neighbours.doubt(router)
        return self._ask_at
