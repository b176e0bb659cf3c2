"""TIME-WAIT: RFC 9293 section 3.6.1, RFC 1122 4.2.2.13, RFC 1337 (resets), RFC 6191's idea of reuse."""

import errno
import struct

import pytest

from tests.support.lab import PEER, Connection, Lab
from tests.support.packet import NOP, option

STAMPS = NOP + NOP + option(8, struct.pack("!II", 1000, 0))


def time_wait(lab: Lab, port: int = 80, **options) -> Connection:
    c = lab.accepted(port, **options)
    c.socket.close()
    lab.run()
    c.expects("FA")
    c.sends("FA", ack=2)
    c.expects("A", seq=2, ack=2)
    assert c.state == "TIME_WAIT"
    return c


@pytest.mark.rfc("9293:MUST-13")
def test_it_lasts_60_seconds():
    """Linux's 2 MSL."""
    lab = Lab()
    c = time_wait(lab)
    lab.wait(59.5)
    assert c.state == "TIME_WAIT"
    lab.wait(1)
    assert c.state == "CLOSED"
    assert lab.engine.counters()["connections"] == 0


def test_a_repeated_fin_is_acknowledged_and_restarts_the_time():
    """3.10.7.4, first and eighth."""
    lab = Lab()
    c = time_wait(lab)
    lab.wait(40)
    c.sends("FA", seq=1, ack=2)
    c.expects("A", seq=2, ack=2)
    lab.wait(40)
    assert c.state == "TIME_WAIT"
    lab.wait(21)
    assert c.state == "CLOSED"


@pytest.mark.parametrize("seq", [2, 1, 50])
def test_a_reset_does_not_end_it(seq):
    """RFC 1337 section 3, fix F1: ignore resets in TIME-WAIT."""
    lab = Lab()
    c = time_wait(lab)
    c.sends("R", seq=seq)
    c.expects_nothing()
    assert c.state == "TIME_WAIT"


def test_old_data_is_acknowledged_not_taken():
    lab = Lab()
    c = time_wait(lab)
    c.sends(seq=1, data=b"old", ack=2)
    assert c.receives()[-1].ack == 2
    assert c.state == "TIME_WAIT"


@pytest.mark.rfc("9293:MAY-2", "6191:2e")
def test_a_later_syn_opens_anew():
    """Section 3.6.1: a SYN with a higher number may open the connection again; our ISS is above all before."""
    lab = Lab()
    c = time_wait(lab)
    again = lab.connection(80, peer_port=c.peer_port, iss=c.iss + 5000)
    again.sends("S", options=again.syn_options)
    again.expects("SA", seq=0, ack=1)
    assert (again.irs - c.irs) & 0xFFFFFFFF < 0x80000000
    assert (again.irs - c.irs) & 0xFFFFFFFF > 2
    again.sends("A")
    socket = lab.program.accept(c.listener)
    assert socket is not None
    again.sends(data=b"new")
    assert socket.recv() == b"new"


@pytest.mark.rfc("6191:2e")
def test_an_earlier_syn_is_answered_with_an_ack():
    """It may be an old duplicate: a challenge, by which a peer in SYN-SENT resets us."""
    lab = Lab()
    c = time_wait(lab)
    c.sends("S", seq=-5000)
    c.expects("A", seq=2, ack=2)
    assert c.state == "TIME_WAIT"


def test_a_later_syn_without_a_listener_does_not_open():
    lab = Lab()
    c = time_wait(lab)
    lab.engine.unlisten(c.listener)
    lab.run()
    again = lab.connection(80, peer_port=c.peer_port, iss=c.iss + 5000)
    again.sends("S")
    assert "S" not in again.receives()[-1].flags


def test_it_gives_way_when_the_table_is_full():
    """The oldest is recycled, so a server that closes first serves on."""
    lab = Lab(max_tcbs=32)
    listener = lab.listening()
    for _ in range(100):
        time_wait(lab, listener=listener)
    assert lab.engine.counters()["connections"] < 32


def test_it_holds_no_buffers():
    lab = Lab(sockets=16)
    listener = lab.listening(post=4)
    for _ in range(50):
        time_wait(lab, listener=listener)
    assert sum(s.is_free for s in lab.program.sockets) >= 11


def closed_first(lab: Lab, stamps: bytes) -> Connection:
    """The program has connected from port 5000 and closed first."""
    c = lab.connecting(80, lines={"local_port": 5000})
    c.expects("S")
    c.sends("SA", seq=0, ack=1, options=c.syn_options + stamps)
    c.expects("A", seq=1, ack=1)
    c.socket.send(b"text")
    c.socket.close()
    lab.run()
    assert "F" in c.receives()[-1].flags
    c.sends("FA", ack=6, options=stamps)
    c.expects("A", seq=6, ack=2)
    assert c.state == "TIME_WAIT"
    return c


def test_a_program_may_open_its_flow_again():
    """As on Linux from a port that it has chosen, where timestamps tell old from new; with numbers beyond the old."""
    lab = Lab()
    c = closed_first(lab, STAMPS)
    again = lab.connecting(80, lines={"local_port": 5000})
    again.expects("S")
    assert 65536 < (again.irs - c.irs) & 0xFFFFFFFF < 0x80000000
    again.sends("SA", seq=0, ack=1, options=again.syn_options + STAMPS)
    again.expects("A", seq=1, ack=1)
    lab.wait(61)
    assert again.state == "ESTABLISHED"
    assert lab.engine.counters()["connections"] == 1


def test_a_program_may_not_without_timestamps():
    lab = Lab()
    c = closed_first(lab, b"")
    again = lab.program.connect(PEER, 80, local_port=5000)
    lab.run()
    assert again.error == errno.EADDRNOTAVAIL
    assert c.state == "TIME_WAIT"


def test_a_connection_opened_anew_numbers_above_all_that_was_sent():
    """Section 3.6.1, (1), also when the old one has sent more than the clock has counted."""
    lab = Lab()
    c = lab.accepted()
    while c.heard < 3_000_000:
        c.socket.send(b"x" * 65536)
        lab.run()
        c.receives()
        c.sends(ack=c.heard)
    c.socket.close()
    lab.run()
    while c.state != "FIN_WAIT_2":
        c.receives()
        c.sends(ack=c.heard)
    c.sends("FA")
    c.receives()
    assert c.state == "TIME_WAIT"
    again = lab.connection(80, peer_port=c.peer_port, iss=c.iss + 5000)
    again.sends("S")
    again.expects("SA")
    assert 3_000_000 < (again.irs - c.irs) & 0xFFFFFFFF < 0x80000000
