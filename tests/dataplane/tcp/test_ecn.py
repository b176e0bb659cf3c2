"""Explicit congestion notification (RFC 3168): agreed on, echoed, answered."""

import pytest

from tests.dataplane.tcp.test_cookies import timestamp, under_pressure
from tests.support.lab import PEER_MAC, STACK_MAC, Connection, Lab
from tests.support.packet import build, mss, read_options

PASSIVE, ACTIVE = 2, 1
ECT, ECT_1, CE = 2, 1, 3
MSS = 1460
DATA = bytes(range(256)) * 400


def accepted(lab: Lab | None = None, flags: str = "SEC") -> Connection:
    """A peer that asks for it has connected."""
    lab = lab or Lab(ecn=PASSIVE, rings=1 << 18)
    c = lab.connection()
    c.listener = lab.listening()
    c.sends(flags, options=c.syn_options)
    c.agreed = "E" in c.expects(seq=0).flags
    c.sends(seq=1)
    c.socket = lab.program.accept(c.listener)
    lab.run()
    return c


def sends(c: Connection, data: bytes) -> list:
    c.socket.send(data)
    c.lab.run()
    return c.receives()


def full_flight() -> Connection:
    """Ten segments are on their way."""
    c = accepted()
    c.socket.send(DATA)
    c.lab.run()
    assert [len(s.payload) for s in c.receives()] == [MSS] * 10
    return c


# ---- the handshake ----


@pytest.mark.rfc("3168:6.1.1-1", "3168:6.1.1-3", "3168:6.1.1-4", "3168:6.1.1-7", "3168:6.1.1-8")
@pytest.mark.parametrize(("ecn", "flags", "answer"), [
    (PASSIVE, "SEC", "SAE"), (ACTIVE, "SEC", "SAE"), (0, "SEC", "SA"), (PASSIVE, "S", "SA"), (PASSIVE, "SE", "SA"),
    (PASSIVE, "SC", "SA"),
])  # fmt: skip
def test_it_is_granted_to_who_asks(ecn: int, flags: str, answer: str) -> None:
    lab = Lab(ecn=ecn)
    c = lab.connection()
    lab.listening()
    c.sends(flags, options=c.syn_options)
    c.expects(answer, tos=0)


def test_a_syn_that_is_marked_itself_does_not_ask() -> None:
    lab = Lab(ecn=PASSIVE)
    c = lab.connection()
    lab.listening()
    c.sends("SEC", options=c.syn_options, tos=CE)
    c.expects("SA")


@pytest.mark.rfc("3168:6.1.1-1", "3168:6.1.1-8")
@pytest.mark.parametrize(("answer", "agreed"), [("SAE", True), ("SAEC", False), ("SA", False), ("SAC", False)])
def test_it_is_asked_for_and_the_answer_counts(answer: str, agreed: bool) -> None:
    lab = Lab(ecn=ACTIVE)
    c = lab.connecting()
    c.expects("SEC", tos=0)
    c.sends(answer, seq=0, ack=1, options=c.syn_options)
    c.expects("A", tos=0)
    (segment,) = sends(c, b"text")
    assert segment.tos == (ECT if agreed else 0)


@pytest.mark.parametrize("ecn", [0, PASSIVE])
def test_it_is_not_asked_for_unless_wanted(ecn: int) -> None:
    Lab(ecn=ecn).connecting().expects("S", tos=0)


@pytest.mark.rfc("3168:6.1.1.1-1", "3168:6.1.1-5")
def test_a_second_syn_does_not_ask() -> None:
    lab = Lab(ecn=ACTIVE)
    c = lab.connecting()
    c.expects("SEC")
    lab.wait(1.1)
    c.expects("S")
    c.sends("SAE", seq=0, ack=1, options=c.syn_options)
    c.expects("A")
    assert sends(c, b"text")[0].tos == 0


@pytest.mark.rfc("3168:6.1.1-5")
def test_a_repeated_syn_that_does_not_ask_ends_it() -> None:
    """Section 6.1.1.1: our first answer was lost, or the peer believes that its first SYN was."""
    lab = Lab(ecn=PASSIVE)
    c = lab.connection()
    c.listener = lab.listening()
    c.sends("SEC", options=c.syn_options)
    c.expects("SAE")
    c.sends("S", seq=0, options=c.syn_options)
    c.expects("SA")
    c.sends(seq=1, ack=1)
    c.socket = lab.program.accept(c.listener)
    lab.run()
    assert sends(c, b"text")[0].tos == 0


def test_both_open_at_once() -> None:
    lab = Lab(ecn=ACTIVE)
    c = lab.connecting()
    c.expects("SEC")
    c.sends("SEC", seq=0, options=c.syn_options)
    c.expects("SAE", seq=0, ack=1)
    c.sends(seq=1, ack=1)
    assert sends(c, b"text")[0].tos == ECT


@pytest.mark.parametrize("asked", [True, False])
def test_a_cookie_remembers_it(asked: bool) -> None:
    lab, listener = under_pressure(ecn=PASSIVE)
    c = lab.connection()
    c.sends("SEC" if asked else "S", options=mss(MSS) + timestamp(7))
    answer = c.expects("SAE" if asked else "SA")
    stamp = int.from_bytes(read_options(answer.options)[8][:4], "big")
    c.sends(seq=1, options=timestamp(8, stamp))
    assert lab.engine.counters()["cookies_taken"] == 1
    c.socket = lab.program.accept(listener)
    lab.run()
    assert sends(c, b"text")[0].tos == (ECT if asked else 0)


def test_a_cookie_without_timestamps_has_no_place_for_it() -> None:
    lab, _ = under_pressure(ecn=PASSIVE)
    c = lab.connection()
    c.sends("SEC", options=mss(MSS))
    c.expects("SA")


# ---- what is capable ----


@pytest.mark.rfc("3168:6.1.1-2", "3168:6.1.4-1", "3168:5-ect0", "3168:5.2-detected")
def test_only_text_is_capable() -> None:
    c = accepted()
    assert c.agreed
    c.sends(data=b"ask", tos=ECT)
    c.lab.wait(0.1)
    c.expects("A", length=0, tos=0)
    assert [s.tos for s in sends(c, DATA[: 3 * MSS])] == [ECT] * 3
    c.sends(ack=1 + 3 * MSS)
    c.socket.shutdown()
    c.lab.run()
    assert c.expects("FA", length=0).tos == 0
    plain = accepted(flags="S")
    assert [s.tos for s in sends(plain, b"text")] == [0]
    plain.sends(data=b"ask", tos=CE)
    plain.lab.wait(0.1)
    plain.expects("A", tos=0)


@pytest.mark.rfc("3168:5-tos")
def test_a_program_cannot_choose_the_bits() -> None:
    for flags, expected in (("SEC", 0xA8 | ECT), ("S", 0xA8)):
        c = accepted(flags=flags)
        c.socket.set(tos=0xAB)
        assert sends(c, b"text")[0].tos == expected


@pytest.mark.rfc("3168:6.1.5-1")
def test_what_is_sent_again_is_not() -> None:
    c = accepted()
    sends(c, b"text")
    c.lab.wait(1.5)
    again = c.receives()
    assert again and {(s.payload, s.tos) for s in again} == {(b"text", 0)}


@pytest.mark.rfc("3168:6.1.6-1")
def test_probes_of_a_closed_window_are_not() -> None:
    c = accepted()
    c.sends(window=0)
    assert sends(c, b"text") == []
    c.lab.wait(1.5)
    probes = c.receives()
    assert probes and {(len(s.payload), s.tos) for s in probes} == {(1, 0)}


# ---- the receiver ----


@pytest.mark.rfc("3168:6.1.3-1", "3168:6.1.3-2", "3168:6.1.1-6")
def test_marks_are_echoed_until_the_sender_has_reduced() -> None:
    c = accepted()
    c.sends(data=b"a", tos=CE)
    c.expects("AE", ack=2, length=0)  # at once
    c.sends(data=b"b", tos=ECT)
    c.lab.wait(0.1)
    c.expects("AE")
    assert sends(c, b"text")[0].flags.replace("P", "") == "AE"
    c.sends("AC", data=b"c", tos=ECT)
    c.lab.wait(0.1)
    c.expects("A", ack=4)
    c.sends("AC", data=b"d", tos=CE)
    c.expects("AE", ack=5)


def test_the_other_capable_codepoint_is_no_mark() -> None:
    c = accepted()
    c.sends(data=b"a", tos=ECT_1)
    c.lab.wait(0.1)
    c.expects("A", ack=2)


@pytest.mark.rfc("3168:6.1.5-2")
def test_marks_outside_of_the_window_are_ignored() -> None:
    c = accepted()
    c.sends(data=b"a", tos=ECT)
    c.lab.wait(0.1)
    c.expects("A", ack=2)
    for seq in (1, 1_000_000):
        c.sends(data=b"a", seq=seq, tos=CE)
        c.expects("A", ack=2)


def test_a_mark_on_text_out_of_order_counts() -> None:
    c = accepted()
    c.sends(data=b"b", seq=2, tos=CE)
    c.expects("AE", ack=1)


# ---- the sender ----


@pytest.mark.rfc("3168:6.1.2-1", "3168:6.1.2-2", "3168:6.1.2-3", "3168:5-response", "3168:6.1.2-4")
def test_an_echo_reduces_once_for_a_window() -> None:
    c = full_flight()
    before = c.tcb["cc"]["cwnd"]
    flight = 10 * MSS
    new = []
    for number in range(1, 11):
        c.sends("AE", ack=1 + number * MSS)
        new += c.receives()
    reduced = c.tcb["cc"]["ssthresh"]
    assert reduced == before * 7 // 10
    assert abs(c.tcb["cc"]["cwnd"] - reduced) <= MSS
    assert all(s.seq >= 1 + flight for s in new), "nothing is sent again"
    assert ["C" in s.flags for s in new] == [True] + [False] * (len(new) - 1)
    assert {s.tos for s in new} == {ECT}
    c.sends("AE", ack=1 + flight + MSS)  # of the next window: the peer has not had our CWR, or has seen another mark
    assert c.tcb["cc"]["ssthresh"] < reduced
    again = c.receives()
    assert [("C" in s.flags) for s in again][:1] in ([True], [])


def test_it_goes_down_in_proportion() -> None:
    """Not all at once: what goes follows what has arrived."""
    c = full_flight()
    sent = []
    for number in range(1, 11):
        c.sends("AE", ack=1 + number * MSS)
        sent.append(sum(len(s.payload) for s in c.receives()) // MSS)
    assert sum(sent) == 7
    assert max(sent) <= 2


@pytest.mark.rfc("3168:6.1.3-3")
def test_one_mark_counts_for_all_that_an_acknowledgment_covers() -> None:
    c = accepted()
    batch = [c.segment(data=b"x" * MSS, seq=1 + MSS * n, tos=CE if n == 1 else ECT) for n in range(4)]
    for segment in batch:
        c.lab.engine.input(build(segment, source_mac=PEER_MAC, destination_mac=STACK_MAC))
    c.lab.run()
    c.expects("AE", ack=1 + 4 * MSS)


@pytest.mark.rfc("3168:6.1.2-5")
def test_an_echo_does_not_open_the_window() -> None:
    """Neither the one that reduces it, nor those that follow for the same window."""
    c = full_flight()
    windows = []
    for number in range(1, 11):
        c.sends("AE", ack=1 + number * MSS)
        c.receives()
        windows.append(c.tcb["cc"]["cwnd"])
    assert windows == sorted(windows, reverse=True) and windows[0] <= 10 * MSS


def test_without_agreement_an_echo_says_nothing() -> None:
    c = accepted(flags="S")
    c.socket.send(DATA)
    c.lab.run()
    c.receives()
    c.sends("AE", ack=1 + MSS)
    assert c.tcb["cc"]["ssthresh"] >= 1 << 30
    assert all("C" not in s.flags and not s.tos for s in c.receives())


def test_an_echo_of_what_is_acknowledged_already_reduces_nothing() -> None:
    c = accepted()
    sends(c, b"text")
    c.sends(ack=5)
    c.sends("AE", ack=5)
    assert c.tcb["cc"]["ssthresh"] >= 1 << 30


@pytest.mark.rfc("3168:6.1.2-3", "3168:6.1.2-4")
def test_a_loss_is_told_as_well() -> None:
    c = full_flight()
    for _ in range(3):
        c.sends(ack=1)
    reduced = c.tcb["cc"]["ssthresh"]
    (again,) = (s for s in c.receives() if s.seq == 1)
    assert "C" not in again.flags and not again.tos
    c.sends("AE", ack=1 + 12 * MSS)  # two of them by limited transmit
    assert c.tcb["cc"]["ssthresh"] == reduced, "not for both"
    new = c.receives()
    assert "C" in new[0].flags and new[0].tos == ECT


@pytest.mark.rfc("3168:6.1.2-2")
def test_a_loss_in_the_window_of_a_mark_reduces_no_more_and_is_repaired() -> None:
    c = full_flight()
    c.sends("AE", ack=1 + MSS)
    reduced = c.tcb["cc"]["ssthresh"]
    for _ in range(3):
        c.sends("AE", ack=1 + MSS)
    assert c.tcb["cc"]["ssthresh"] == reduced
    assert 1 + MSS in [s.seq for s in c.receives()]
    c.sends(ack=1 + 10 * MSS)
    assert abs(c.tcb["cc"]["cwnd"] - reduced) <= MSS


def test_a_timeout_ends_it() -> None:
    c = full_flight()
    c.sends("AE", ack=1 + MSS)
    c.receives()
    c.lab.wait(2)
    assert c.tcb["cc"]["cwnd"] <= 2 * MSS
    c.sends(ack=1 + 10 * MSS)
    assert c.tcb["cc"]["cwnd"] == c.tcb["cc"]["ssthresh"]
