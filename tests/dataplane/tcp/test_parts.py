"""The small parts of TCP by themselves: options, sequence numbers' secret, round trip, congestion window."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neatstack.dataplane.tcp.congestion import window_after
from neatstack.dataplane.tcp.isn import siphash_bytes
from neatstack.dataplane.tcp.options import parse_bytes, syn_bytes
from neatstack.dataplane.tcp.rtt import after_measurements

NOTHING = {"mss": 0, "wscale": 0, "has_wscale": 0, "sack_permitted": 0, "has_timestamp": 0,
           "tsval": 0, "tsecr": 0, "sack_at": 0, "sack_blocks": 0,
           "has_fastopen": 0, "experimental": 0, "cookie_at": 0, "cookie_length": 0}  # fmt: skip
MSS = b"\x02\x04\x05\xb4"
WSCALE = b"\x03\x03\x07"


# ---- options ----


@pytest.mark.rfc("9293:MUST-4")
def test_options_of_a_linux_syn():
    assert parse_bytes(MSS + b"\x04\x02" + b"\x08\x0a" + bytes(range(8)) + b"\x01" + WSCALE) == NOTHING | {
        "mss": 1460,
        "wscale": 7,
        "has_wscale": 1,
        "sack_permitted": 1,
        "has_timestamp": 1,
        "tsval": 0x00010203,
        "tsecr": 0x04050607,
        "sack_at": 0,
        "sack_blocks": 0,
    }


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00" + MSS, b"\x02", b"\x02\x00\x05\xb4", b"\x02\x01\x05\xb4", b"\x02\x04\x05", b"\x02\x05\x05\xb4\x00",
     b"\xff\xff" + MSS, b"\x02\x01" + MSS, b"\x05\x02", b"\x05\x06abcd", b"\x05\x09abcdefg",
     b"\x01" * 40, b"\x02\x02" * 20],
)  # fmt: skip
def test_options_that_say_nothing(data):
    assert parse_bytes(data) == NOTHING


@pytest.mark.rfc("9293:MUST-6")
def test_unknown_options_are_passed_over():
    assert parse_bytes(b"\xfd\x04\x12\x34" + MSS)["mss"] == 1460


@given(st.binary(max_size=40))
def test_any_bytes_are_survived(data):
    options = parse_bytes(data)
    assert options["wscale"] <= 14


@given(st.integers(1, 65535), st.booleans(), st.integers(0, 14))
def test_what_is_written_can_be_read(mss, scaling, wscale):
    data = syn_bytes(mss, scaling, wscale)
    assert len(data) % 4 == 0
    options = parse_bytes(data)
    assert (options["mss"], options["has_wscale"], options["wscale"]) == (mss, scaling, wscale if scaling else 0)


# ---- SipHash-2-4 ----


@pytest.mark.parametrize(
    "length,digest",
    [(0, 0x726FDB47DD0E0E31), (1, 0x74F839C593DC67FD), (8, 0x93F5F5799A932462), (12, 0x751E8FBC860EE5FB),
     (15, 0xA129CA6149BE45E5)],
)  # fmt: skip
@pytest.mark.rfc("6528:3b")
def test_the_vectors_of_the_siphash_paper(length, digest):
    """Appendix A (length 15) and the authors' reference implementation."""
    assert siphash_bytes(bytes(range(16)), bytes(range(length))) == digest


# ---- RFC 6298 ----


@pytest.mark.rfc("6298:2.1", "6298:2.2")
def test_before_and_after_the_first_measurement():
    assert after_measurements([])["rto"] == 1_000_000
    assert after_measurements([100_000]) == {"srtt": 100_000, "rttvar": 50_000, "rto": 300_000}


@pytest.mark.rfc("6298:2.5", "6298:4-G")
@given(st.lists(st.integers(0, 2**32 - 1), max_size=50))
def test_the_timeout_is_bounded(round_trips):
    state = after_measurements(round_trips)
    assert 200_000 <= state["rto"] <= 120_000_000
    assert state["rto"] >= min(state["srtt"], 120_000_000)


@pytest.mark.rfc("6298:2.3", "6298:2.3-SHOULD")
def test_a_further_measurement():
    """(2.3): RTTVAR by the SRTT from before, a quarter of the difference; then SRTT, an eighth of it; then the RTO."""
    assert after_measurements([800_000, 400_000]) == {"srtt": 750_000, "rttvar": 400_000, "rto": 2_350_000}
    assert after_measurements([800_000] * 60)["rto"] == pytest.approx(1_000_000, rel=0.001)


def test_the_estimate_follows():
    assert after_measurements([10_000] * 100)["srtt"] == pytest.approx(10_000, rel=0.01)
    assert after_measurements([10_000] * 100 + [50_000] * 40)["srtt"] == pytest.approx(50_000, rel=0.02)


# ---- RFC 5681 ----


def test_the_initial_window():
    """RFC 6928 section 2."""
    assert window_after(1460, [])["cwnd"] == 14600
    assert window_after(536, [])["cwnd"] == 5360
    assert window_after(8960, [])["cwnd"] == 17920


@pytest.mark.rfc(
    "9293:MUST-19",
    "5681:3.1-AVOIDANCE",
    "5681:3.1-SSTHRESH",
    "5681:3.1-BY-BYTES",
    "5681:3.1-AVOIDANCE-GROWS",
    "9438:4.10-slow-start",
)
def test_slow_start_doubles_and_avoidance_adds_a_segment():
    assert window_after(1000, [("grow", 10_000, 10_000)])["cwnd"] == 20_000
    reno = 1
    start = [("timed_out", 40_000)] + [("grow", 1000, n) for n in range(1000, 20_000, 1000)]
    at_threshold = window_after(1000, start, reno)
    assert (at_threshold["cwnd"], at_threshold["ssthresh"]) == (20_000, 20_000)
    window = [("grow", 1000, 20_000)] * 20
    assert window_after(1000, start + window, reno)["cwnd"] == 21_000


@pytest.mark.rfc("9438:5.8-unused")
def test_an_unused_window_does_not_grow():
    assert window_after(1000, [("grow", 1000, 1000)] * 100)["cwnd"] == 10_000


@pytest.mark.rfc("5681:3.1-LOSS-WINDOW", "5681:3.1-SSTHRESH", "5681:3.1-REDUCED")
def test_reduction_never_goes_below_two_segments():
    assert window_after(1000, [("reduce", 1000)])["ssthresh"] == 2000
    state = window_after(1000, [("timed_out", 1000)])
    assert (state["cwnd"], state["ssthresh"]) == (1000, 2000)


@given(st.lists(st.tuples(st.just("grow"), st.integers(1, 65535), st.integers(1, 2**31)), max_size=200))
def test_growth_is_monotonic(steps):
    windows = [window_after(1460, steps[:n])["cwnd"] for n in range(0, len(steps), 20)]
    assert all(a <= b for a, b in itertools.pairwise(windows))


@pytest.mark.parametrize("length", range(19))
@pytest.mark.rfc("7413:4.1.1a")
def test_cookies_have_4_to_16_bytes_an_even_number(length):
    """RFC 7413 section 4.1.1; none at all is a request."""
    options = parse_bytes(bytes([34, 2 + length]) + b"c" * length)
    good = length == 0 or (4 <= length <= 16 and length % 2 == 0)
    assert (options["has_fastopen"], options["cookie_length"]) == ((1, length) if good else (0, 0))


@pytest.mark.rfc("5482:3.2")
def test_a_user_timeout_of_the_peer_is_passed_over():
    """RFC 5482 section 3.2."""
    assert parse_bytes(b"\x1c\x04\x80\x3c" + MSS) == NOTHING | {"mss": 1460}
