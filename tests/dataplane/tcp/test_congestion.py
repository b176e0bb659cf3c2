"""CUBIC (RFC 9438), HyStart++ (RFC 9406) and PRR (RFC 9937), against the RFCs' formulas in real numbers."""

from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neatstack.dataplane.tcp.congestion import window_after
from tests.support.lab import Lab

from .test_scoreboard import MSS, acks, sending

CUBIC, RENO = 0, 1
LARGEST = 1 << 30
C, BETA = 0.4, 0.7


def avoidance(lost: int, ms: int, srtt: int) -> list:
    """Steps of a connection that lost at `lost` segments; then ten ACKs for as many segments in each round trip."""
    times = range(0, ms, srtt // 10)
    steps = [("grow", (lost - 10) * MSS, LARGEST), ("lost", lost * MSS)]
    return [*steps, *(("grow", lost * MSS // 10, LARGEST, now) for now in times)]


def by_formula(steps: list, srtt: float) -> float:
    """RFC 9438 sections 4.2 to 4.7 in segments and seconds."""
    cwnd, ssthresh, w_max, prior, w_est, epoch, k = 10.0, float(LARGEST), 0.0, 0.0, 0.0, None, 0.0
    for name, *numbers in steps:
        if name == "lost":
            w_max = cwnd * (1 + BETA) / 2 if cwnd < w_max else cwnd
            prior, epoch = cwnd, None
            cwnd = ssthresh = max(numbers[0] / MSS * BETA, 2)
            continue
        acked, _, now = (*numbers, 0)[:3]
        acked /= MSS
        if cwnd < ssthresh:
            cwnd = min(cwnd + acked, ssthresh)
            continue
        if epoch is None:
            epoch, w_est = now, cwnd
            k = max(w_max - cwnd, 0) / C
            k **= 1 / 3
            w_max = max(w_max, cwnd)
        t = (now - epoch) / 1000
        w_est += (3 * (1 - BETA) / (1 + BETA) if w_est < prior else 1) * acked / cwnd
        if C * (t - k) ** 3 + w_max < w_est:
            cwnd = max(cwnd, w_est)
            continue
        target = min(max(C * (t + srtt - k) ** 3 + w_max, cwnd), 1.5 * cwnd)
        cwnd += (target - cwnd) / cwnd * acked
    return cwnd


@pytest.mark.rfc(
    "9438:4.2-k", "9438:4.2-w-cubic", "9438:4.3-reno-friendly", "9438:4.4-target", "9438:4.6-beta", "9438:4.3-alpha"
)
@pytest.mark.parametrize("srtt", [10, 100, 300])
@pytest.mark.parametrize("lost", [20, 100, 1000])
def test_cubic_grows_as_the_formula_says(lost: int, srtt: int):
    """Both sides of K, and the Reno-friendly region (small windows, short round trips)."""
    for ms in (5 * srtt, 2000, 12000):
        steps = avoidance(lost, ms, srtt)
        got = window_after(MSS, steps, CUBIC, srtt)["cwnd"] / MSS
        assert got == pytest.approx(by_formula(steps, srtt / 1000), rel=0.01, abs=0.05)


@pytest.mark.rfc("9438:4.6-ssthresh", "9438:4.7-fast-convergence")
def test_a_loss_leaves_seven_tenths_and_one_below_the_last_gives_more_away():
    steps: list = [("grow", 90 * MSS, LARGEST), ("lost", 100 * MSS)]
    once = window_after(MSS, steps)
    assert (once["ssthresh"], once["w_max"]) == (70 * MSS, 100 * MSS)
    again = window_after(MSS, [*steps, ("lost", 70 * MSS)])
    assert (again["ssthresh"], again["w_max"]) == (49 * MSS, int(70 * 0.85 * MSS))


@pytest.mark.rfc("9438:4.8-timeout", "9438:4.8-reno")
def test_after_a_timeout_the_window_grows_from_where_it_is():
    """K is 0, and W_max the window at which congestion avoidance begins."""
    steps = [("grow", 90 * MSS, LARGEST), ("timed_out", 100 * MSS), ("grow", 69 * MSS, LARGEST), ("grow", MSS, LARGEST)]
    state = window_after(MSS, steps, srtt=100)
    assert (state["k"], state["w_max"], state["ssthresh"]) == (0, 70 * MSS, 70 * MSS)
    assert 70 * MSS <= state["w_est"] < 71 * MSS


@pytest.mark.rfc("9438:4.2-app-limited")
def test_time_in_which_the_window_was_not_used_does_not_count():
    before = [("grow", 90 * MSS, LARGEST), ("lost", 100 * MSS), ("grow", MSS, LARGEST, 0), ("grow", MSS, LARGEST, 100)]
    pause = [*before, ("grow", MSS, MSS, 50_000), ("grow", MSS, LARGEST, 60_000)]
    assert window_after(MSS, pause, srtt=100)["cwnd"] - window_after(MSS, before, srtt=100)["cwnd"] < MSS


@pytest.mark.rfc("5681:3.2-SSTHRESH")
def test_reno_is_there_for_who_asks():
    steps = [("grow", 90 * MSS, LARGEST), ("lost", 100 * MSS)]
    assert window_after(MSS, steps, RENO)["ssthresh"] == 50 * MSS
    steps += [("grow", MSS, LARGEST, now) for now in range(50)]
    assert window_after(MSS, steps, RENO)["cwnd"] == 51 * MSS


# ---- the first slow start ----


def round_of(rtt: int, at: int, count: int = 10) -> list:
    """`count` ACKs, the last of which ends the round that the ACK at `at` has begun."""
    return [("grow", MSS, 10_000 * MSS, 0, rtt, at if n < count - 1 else at + 10_000 * MSS) for n in range(count)]


def slow_start(*trips: int) -> list:
    steps, at = [("grow", MSS, 10_000 * MSS, 0, trips[0], 0)], 0
    for rtt in trips:
        steps += round_of(rtt, at)
        at += 10_000 * MSS
    return steps


@pytest.mark.rfc("9438:4.10-which")
@pytest.mark.rfc("9406:4.2-round", "9406:4.2-enter-css", "9406:4.2-css-growth", "9406:4.2-css-rounds")
def test_slow_start_ends_five_rounds_after_the_round_trip_has_grown():
    threshold = 100 + 100 // 8  # within 4 and 16 ms
    assert window_after(MSS, slow_start(100, 100, threshold - 1))["css_rounds"] == 0
    grown = window_after(MSS, slow_start(100, 100, threshold))
    assert grown["css_rounds"] == 2  # what was left of the round counts
    assert grown["baseline_rtt"] == threshold
    for n in range(1, 4):
        state = window_after(MSS, slow_start(100, 100, *[threshold] * (1 + n)))
        assert state["css_rounds"] == 2 + n
        assert state["cwnd"] - grown["cwnd"] == n * 10 * (MSS // 4)
    ended = window_after(MSS, slow_start(100, 100, *[threshold] * 5))
    assert ended["ssthresh"] <= ended["cwnd"] < LARGEST


def test_slow_start_goes_on_when_it_was_no_queue():
    assert window_after(MSS, slow_start(100, 100, 120, 110))["css_rounds"] == 0
    assert window_after(MSS, slow_start(100, 100, 120, 130))["css_rounds"] == 3


@pytest.mark.rfc("9406:4.3-initial-only")
def test_after_a_loss_slow_start_goes_to_ssthresh_whatever_the_round_trip():
    steps = [("timed_out", 1000 * MSS), *slow_start(100, 100, 120, 120)]
    state = window_after(MSS, steps)
    assert (state["ssthresh"], state["css_rounds"]) == (700 * MSS, 0)


@pytest.mark.rfc("9406:4.3-constants")
@pytest.mark.parametrize(("before", "threshold"), [(8, 4), (40, 5), (100, 12), (1000, 16)])
def test_how_much_longer_a_round_trip_must_be(before: int, threshold: int):
    """RFC 9406 section 4.3: an eighth, but from 4 to 16 ms; by eight of them, and no fewer."""
    assert window_after(MSS, slow_start(before, before, before + threshold - 1))["css_rounds"] == 0
    assert window_after(MSS, slow_start(before, before, before + threshold))["css_rounds"] == 2
    few = [*slow_start(before, before), *round_of(before + threshold, 20_000 * MSS, 7)]
    assert window_after(MSS, few)["css_rounds"] == 0


@pytest.mark.rfc("9406:4.2-loss")
def test_a_loss_ends_conservative_slow_start():
    state = window_after(MSS, [*slow_start(100, 100, 120), ("lost", 100 * MSS), *round_of(120, 30_000 * MSS)])
    assert state["ssthresh"] == 70 * MSS


@pytest.mark.rfc("9438:4.10-hystart")
def test_cubic_begins_where_slow_start_has_ended():
    """RFC 9438 section 4.10: without a loss K is 0, and W_max the window then."""
    state = window_after(MSS, slow_start(100, 100, *[120] * 7))
    assert (state["epoch"], state["k"], state["w_max"]) == (1, 0, state["ssthresh"])


# ---- whatever comes ----

NUMBER = st.one_of(
    st.integers(0, 2**32 - 1), st.integers(0, 100_000), st.sampled_from([0, 1, LARGEST, 2**31, 2**32 - 1])
)
STEP = st.one_of(
    st.tuples(st.just("grow"), NUMBER, NUMBER, st.integers(0, 2**40), NUMBER, NUMBER),
    st.tuples(st.sampled_from(["reduce", "lost", "timed_out"]), NUMBER),
    st.tuples(st.just("idle")),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEP, max_size=40), st.integers(1, 65535), st.sampled_from([CUBIC, RENO]), st.integers(0, 4_000_000))
def test_the_window_is_never_nothing_and_never_too_large(steps, mss, algorithm, srtt):
    state = window_after(mss, steps, algorithm, srtt)
    assert 0 < state["cwnd"] <= LARGEST
    assert 2 * mss <= state["ssthresh"] <= LARGEST


# ---- recovery ----


def sndcnt(delivered: int, ssthresh: int, flight: int, pipe: int, out: int, last: int) -> int:
    """RFC 9937 section 6, for an ACK that does not go on."""
    if pipe > ssthresh:
        return max(ceil(delivered * ssthresh / flight) - out, 0)
    return min(ssthresh - pipe, max(delivered - out, last))


@pytest.mark.rfc(
    "9937:6-begin",
    "9937:6-proportional",
    "5681:4.3-HALF",
    "6675:5-HALF",
    "6675:5-SEND",
    "6675:5-EACH",
    "8985:9.3-WINDOW",
    "8985:9.3-PRR",
    "9937:6-delivered",
    "9937:6-out",
)
def test_what_goes_in_recovery_is_proportional_to_what_arrives():
    """7 segments leave for 10 that have arrived or are lost, spread over the ACKs."""
    lab = Lab()
    c = sending(lab)
    acks(c, 0, (1, 2))
    acks(c, 0, (1, 3))
    again = acks(c, 0, (1, 4))
    assert again == [0]
    cc = c.tcb["cc"]
    assert cc["ssthresh"] == 7 * MSS
    out, flight = MSS, cc["flight"]
    assert flight == 10 * MSS  # with what limited transmit has sent, without what had arrived before
    for arrived in range(2, 10):  # one came with the ACK that began it
        left = acks(c, 0, (1, 3 + arrived))
        pipe = (12 - (2 + arrived)) * MSS - MSS + out  # less what is lost, and with what has gone since
        assert len(left) == sndcnt(arrived * MSS, 7 * MSS, flight, pipe, out, MSS) // MSS
        out += len(left) * MSS
    assert c.tcb["cc"]["out"] == out


@pytest.mark.rfc("9937:6-bound", "9937:6-force")
def test_after_many_losses_as_much_goes_as_arrives():
    c = sending(Lab())
    acks(c, 0, (4, 5))
    acks(c, 0, (4, 6))
    assert acks(c, 0, (4, 7)) == [0]
    assert [acks(c, 0, (4, n)) for n in (8, 9, 10)] == [[1], [2], [3]]


@pytest.mark.rfc("9937:6-safe")
def test_an_ack_that_goes_on_without_a_further_loss_lets_a_segment_more_go():
    c = sending(Lab())
    for n in (7, 8, 9, 10):
        acks(c, 0, (6, n))
    assert acks(c, 1, (6, 10)) == [2, 3]
    assert acks(c, 1, (6, 11)) == [4], "it does not go on"


@pytest.mark.rfc("9937:6-safe")
def test_an_ack_that_goes_on_and_tells_of_a_further_loss_does_not():
    c = sending(Lab())
    left = [acks(c, 0, (6, n)) for n in (7, 8, 9, 10)]
    assert left == [[10], [11], [0], [1]]
    assert acks(c, 1, (6, 10), (11, 12)) == [2, 3]  # 10 is lost, too, and as many have arrived


@pytest.mark.rfc("9937:6-begin", "9937:6-delivered")
def test_without_selective_acknowledgments_each_duplicate_is_a_segment_that_has_arrived():
    """Also the third, which begins recovery: of 12 under way 3 have arrived, of which two before."""
    c = sending(Lab(), permitted=b"")
    assert [acks(c, 0) for _ in range(3)] == [[10], [11], [0]]
    cc = c.tcb["cc"]
    assert (cc["flight"], cc["delivered"], cc["ssthresh"]) == (10 * MSS, MSS, 7 * MSS)
    # 7 of 10 that arrive: the retransmission for two, none for the third, and from then on, with less than ssthresh on
    # its way, one for each
    assert [acks(c, 0) for _ in range(6)] == [[], [], [12], [13], [14], [15]]


@pytest.mark.rfc("9937:6-delivered")
def test_an_ack_in_recovery_that_says_nothing_new_lets_nothing_go():
    c = sending(Lab())
    for n in (7, 8, 9, 10):
        acks(c, 0, (6, n))
    assert acks(c, 0, (6, 10)) == acks(c, 0) == []


@pytest.mark.rfc("9937:6-bound")
def test_one_ack_that_tells_of_many_losses_lets_them_all_go_again():
    """A receiver that merges segments says it all at once: what came with the ACK that begins recovery counts, too."""
    c = sending(Lab())
    assert acks(c, 1, (3, 4), (6, 10)) == [1, 2, 4, 5, 10, 11]  # as many as have arrived


@pytest.mark.rfc("5681:4.3-AFTER", "5681:3.2-DEFLATE")
def test_the_window_after_recovery_is_ssthresh():
    c = sending(Lab())
    for upto in (2, 3, 4):
        acks(c, 0, (1, upto))
    assert c.tcb["cc"]["cwnd"] != c.tcb["cc"]["ssthresh"]
    acks(c, 10)
    assert c.tcb["cc"]["cwnd"] == c.tcb["cc"]["ssthresh"]


@pytest.mark.rfc("9937:6-delivered")
def test_without_selective_acknowledgments_a_duplicate_stands_for_a_segment_that_has_arrived():
    c = sending(Lab(), permitted=b"")
    for _ in range(3):
        acks(c, 0)
    ssthresh, flight = c.tcb["cc"]["ssthresh"], c.tcb["cc"]["flight"]
    assert (ssthresh, flight) == (7 * MSS, 10 * MSS)
    gone = 1
    for arrived in range(1, 10):
        pipe = (12 + gone - 1) * MSS - (3 + arrived) * MSS
        wanted = sndcnt((1 + arrived) * MSS, ssthresh, flight, pipe, gone * MSS, MSS) // MSS
        assert len(acks(c, 0)) == wanted
        gone += wanted
