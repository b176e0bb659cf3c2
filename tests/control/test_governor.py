"""When there is to be one replica more or fewer, in virtual time."""

from neatstack.control.governor import PERIOD, Decision, Governor, Sample


class Load:
    """Feeds a governor, and does what it decides."""

    def __init__(self, governor: Governor, active: int) -> None:
        self.governor, self.active, self.now = governor, active, 100.0
        self.decisions: list[tuple[float, Decision]] = []

    def last(self, seconds: float, work: float, dropped: int = 0) -> "Load":
        """`work`: replicas that it would keep busy all the time."""
        for _ in range(round(seconds / PERIOD)):
            self.now += PERIOD
            sample = Sample(self.now, min(1.0, work / self.active), dropped)
            if decision := self.governor.decide(sample, self.active):
                self.decisions.append((self.now - 100, decision))
                self.active = decision.replicas
                self.governor.forget()
        return self


def test_it_goes_up_when_the_replicas_were_busy_for_two_seconds() -> None:
    load = Load(Governor(1, 8), 1).last(1.5, 0.9)
    assert load.active == 1
    load.last(1, 0.9)
    assert load.active == 2
    assert load.decisions[0][1].reason == "busy 90% of the last 2 s, 75% is enough"


def test_it_goes_up_by_as_many_as_the_load_asks_for_and_not_beyond_the_most() -> None:
    assert Load(Governor(1, 8), 4).last(3, 4.0).active == 7  # 4 / 0.6
    assert Load(Governor(1, 5), 4).last(3, 4.0).active == 5
    assert Load(Governor(1, 8), 1).last(60, 100.0).active == 8


def test_a_short_burst_changes_nothing() -> None:
    load = Load(Governor(1, 8), 2).last(20, 0.9)
    assert load.last(1, 2.0).last(5, 0.9).active == 2
    assert not load.decisions


def test_full_queues_count_when_there_is_work_and_not_when_idle() -> None:
    assert Load(Governor(1, 8), 1).last(2.5, 0.6, dropped=3).active == 2
    assert Load(Governor(1, 8), 1).last(2.5, 0.1, dropped=3).active == 1


def test_it_comes_down_one_at_a_time_after_ten_quiet_seconds() -> None:
    load = Load(Governor(1, 8), 4).last(9, 0.4)
    assert load.active == 4
    load.last(2, 0.4)
    assert load.active == 3
    load.last(60, 0.4)
    assert load.active == 1
    times = [at for at, _ in load.decisions]
    assert all(later - sooner >= 10 - PERIOD for sooner, later in zip(times, times[1:], strict=False))


def test_no_load_makes_it_swing() -> None:
    """Whatever the load, it comes to rest, and the number is then right."""
    for tenths in range(1, 80):
        load = Load(Governor(1, 8), 1).last(120, tenths / 10)
        before = len(load.decisions)
        load.last(300, tenths / 10)
        assert len(load.decisions) == before, tenths
        assert load.active == 8 or tenths / 10 / load.active < 0.75, tenths


def test_bounds_are_kept_at_once() -> None:
    assert Load(Governor(2, 4), 1).last(PERIOD, 0.0).active == 2
    assert Load(Governor(2, 4), 7).last(PERIOD, 7.0).active == 4
    assert Load(Governor(2, 4), 3).last(60, 0.0).active == 2
