"""ICMP errors about segments of ours: RFC 792, 1122 section 4.2.3.9, 1191, 4821, 5461, 5927."""

import errno
import struct

import pytest

from tests.support.lab import PEER, PEER_MAC, STACK, STACK_MAC, Connection, Lab
from tests.support.layout import address, neat
from tests.support.packet import build_ethernet, build_ip, checksum

ROUTER = "10.0.0.77"
UNREACHABLE, QUENCH, REDIRECT, EXCEEDED, PARAMETER = 3, 4, 5, 11, 12


def error(
    lab: Lab,
    c: Connection,
    kind: int,
    code: int,
    *,
    seq: int = 0,
    mtu: int = 0,
    source: str = STACK,
    protocol: int = 6,
    fragment: int = 0x4000,
    total: int = 1500,
    cut: int = 0,
    spoil: bool = False,
) -> None:
    """A router says something about the segment with this (relative) sequence number."""
    ports = struct.pack("!HHI", c.port, c.peer_port, c.tcb["snd"]["iss"] + seq & 0xFFFFFFFF)
    quoted = build_ip(ports, source=source, destination=PEER, protocol=protocol, fragment=fragment, total_length=total)
    body = struct.pack("!BBHHH", kind, code, 0, 0, mtu) + quoted
    body = body[: len(body) - cut]
    value = checksum(body) ^ (0x1234 if spoil else 0)
    body = body[:2] + struct.pack("!H", value) + body[4:]
    packet = build_ip(body, source=ROUTER, destination=STACK, protocol=1)
    lab.inject_frame(build_ethernet(packet, source=PEER_MAC, destination=STACK_MAC))


# ---- while a connection is opened ----


@pytest.mark.parametrize(
    "kind, code, number",
    [
        (UNREACHABLE, 0, errno.ENETUNREACH),
        (UNREACHABLE, 1, errno.EHOSTUNREACH),
        (UNREACHABLE, 2, errno.ENOPROTOOPT),
        (UNREACHABLE, 3, errno.ECONNREFUSED),
        (UNREACHABLE, 13, errno.EHOSTUNREACH),
        (EXCEEDED, 0, errno.EHOSTUNREACH),
        (PARAMETER, 0, errno.EPROTO),
    ],
)
@pytest.mark.rfc(
    "9293:MUST-54",
    "9293:SHLD-26",
    "1122:unreachable-told",
    "1122:unreachable-port-tcp",
    "1122:time-exceeded",
    "1122:parameter",
)
def test_an_error_ends_a_connection_that_is_being_opened(kind, code, number):
    """RFC 5461 section 3.1: nobody has to wait for the SYN's timeouts. As Linux translates it."""
    lab = Lab()
    c = lab.connecting()
    c.expects("S")
    iss = c.tcb["snd"]["iss"]
    error(lab, c, kind, code)
    assert c.socket.state == neat.STATE_CLOSED and c.socket.error == number
    about, quoted = c.socket.story
    assert c.socket.replica.soft_story == c.socket.mine.generation
    assert (about.error, about.icmp_type, about.icmp_code, about.remote_port_be) == (number, kind, code, 80 << 8)
    assert about.remote == address(PEER) and about.local == address(ROUTER)
    assert quoted == struct.pack("!HHI", c.port, c.peer_port, iss)
    lab.wait(200)
    c.expects_nothing()


@pytest.mark.parametrize("kind, code", [(QUENCH, 0), (REDIRECT, 1), (8, 0), (200, 9)])
@pytest.mark.rfc("9293:MUST-55", "5927:6.1", "1122:icmp-unknown", "1122:quench-ignored")
def test_what_is_no_error_is_ignored(kind, code):
    """Source quench above all: RFC 6633 section 3."""
    lab = Lab()
    c = lab.connecting()
    c.expects("S")
    error(lab, c, kind, code)
    assert c.socket.state == neat.STATE_CONNECTING
    assert lab.drops("icmp") == 1


@pytest.mark.rfc("4443:5.2-validate")
@pytest.mark.parametrize(
    "lie",
    [
        {"seq": 1},
        {"seq": -1},
        {"source": PEER},
        {"protocol": 47},
        {"fragment": 0x2001},
        {"spoil": True},
        {"cut": 1},
        {"cut": 20},
    ],
    ids=str,
)
@pytest.mark.rfc("5927:4.1")
def test_what_does_not_quote_a_segment_on_its_way_is_not_believed(lie):
    """RFC 5927 section 4.1: whoever cannot see the connection must guess a sequence number."""
    lab = Lab()
    c = lab.connecting()
    c.expects("S")
    error(lab, c, UNREACHABLE, 3, **lie)
    assert c.socket.state == neat.STATE_CONNECTING
    assert lab.drops("icmp") == 1


@pytest.mark.rfc("9293:MUST-56")
@pytest.mark.parametrize("kind, code", [(UNREACHABLE, 0), (UNREACHABLE, 1), (UNREACHABLE, 5), (EXCEEDED, 0)])
def test_soft_errors_end_no_connection_that_a_peer_is_opening(kind, code):
    """Nor do they keep it from being opened: the next SYN-ACK may get through."""
    lab = Lab()
    c = lab.connection()
    c.listener = lab.listening()
    c.sends("S", options=c.syn_options)
    c.expects("SA")
    error(lab, c, kind, code)
    assert c.state == "SYN_RECEIVED"
    c.sends("A", seq=1)
    assert lab.program.accept(c.listener) is not None


# ---- established ----


@pytest.mark.rfc("9293:MUST-55", "1122:quench-ignored", "1122:redirect-ignored", "1122:redirect-sent")
@pytest.mark.parametrize("kind, code", [(QUENCH, 0), *((REDIRECT, code) for code in range(4))])
def test_neither_quench_nor_redirect_changes_a_connection(kind, code):
    """Source quench is ignored (RFC 6633 section 3); a redirect could take our packets to whom an attacker likes."""
    lab = Lab()
    c = lab.accepted()
    c.socket.send(b"x" * 20 * 1460)
    lab.run()
    sent = c.receives()
    before = c.tcb
    error(lab, c, kind, code, seq=1, mtu=0)
    assert lab.drops("icmp") == 1 and lab.left == [] and lab.other_frames == []
    assert c.tcb["cc"] == before["cc"] and c.tcb["snd"] == before["snd"] and c.state == "ESTABLISHED"
    c.sends(ack=1 + len(sent) * 1460)
    assert c.receives(), "and what goes on goes to the same hardware address: Lab looks at each frame's"


@pytest.mark.rfc("5927:5.2")
def test_a_hard_error_does_not_end_an_established_connection():
    """RFC 5927 section 5.2."""
    lab = Lab()
    c = lab.accepted()
    c.socket.send(b"x")
    lab.run()
    c.receives()
    error(lab, c, UNREACHABLE, 3, seq=1)
    assert c.state == "ESTABLISHED"
    c.sends(ack=2)
    assert c.socket.unacknowledged == 0


@pytest.mark.parametrize("answered, number", [(False, errno.EHOSTUNREACH), (True, errno.ETIMEDOUT)])
@pytest.mark.rfc("9293:MUST-47", "9293:SHLD-25")
def test_a_soft_error_says_why_a_connection_has_timed_out(answered, number):
    """RFC 1122 section 4.2.3.9. What the peer has acknowledged since makes it old."""
    lab = Lab()
    c = lab.accepted()
    c.socket.send(b"xy")
    lab.run()
    error(lab, c, UNREACHABLE, 1, seq=1)
    if answered:
        c.sends(ack=2)
    lab.wait(2000)
    assert c.state == "CLOSED" and c.socket.error == number


@pytest.mark.rfc("5927:4.1")
def test_with_nothing_on_its_way_nothing_is_believed():
    lab = Lab()
    c = lab.accepted()
    error(lab, c, UNREACHABLE, 4, seq=1, mtu=600)
    assert lab.drops("icmp") == 1
    c.socket.send(b"x" * 1460)
    lab.run()
    c.expects("A", length=1460)


# ---- path MTU ----


@pytest.mark.rfc("1191:3b", "1191:6.4", "1122:longest-sent")
def test_fragmentation_needed_makes_segments_smaller():
    """RFC 1191 section 6.5: what was dropped goes again at once, and the congestion window stays."""
    lab = Lab()
    c = lab.accepted()
    c.socket.send(b"x" * 2920)
    lab.run()
    assert sum(segment.length for segment in c.receives()) == 2920
    window = c.tcb["cc"]["cwnd"]
    start = lab.time
    error(lab, c, UNREACHABLE, 4, seq=1, mtu=1000)
    again = c.receives()
    assert sum(segment.length for segment in again) == 2920
    assert all(segment.length <= 960 for segment in again) and again[0].seq == 1
    assert lab.time == start and c.tcb["cc"]["cwnd"] == window


@pytest.mark.rfc("1191:3c", "1191:3f", "1191:6.3", "4821:5.2a")
def test_the_next_connection_to_the_same_peer_begins_with_it():
    lab = Lab()
    c = lab.accepted(80)
    c.socket.send(b"x" * 1460)
    lab.run()
    error(lab, c, UNREACHABLE, 4, seq=1, mtu=1000)
    other = lab.accepted(81)
    assert other.tcb["snd"]["mss"] == 960
    lab.wait(700)
    later = lab.accepted(82)
    assert later.tcb["snd"]["mss"] == 1460, "section 6.3: for ten minutes"


@pytest.mark.parametrize("told, mss", [(68, 512), (0, 1452), (1500, 1460), (9000, 1460)])
@pytest.mark.rfc("1191:3d", "1191:3e", "1191:5", "5927:7.2", "1191:3g")
def test_what_a_router_may_say(told, mss):
    """No crumbs, whatever is said; one that does not know of path MTUs says 0, and the next plateau is taken."""
    lab = Lab()
    c = lab.accepted()
    c.socket.send(b"x" * 1460)
    lab.run()
    error(lab, c, UNREACHABLE, 4, seq=1, mtu=told)
    assert c.tcb["snd"]["mss"] == mss


@pytest.mark.rfc("4821:7.7a", "4821:7.7c", "4821:7.2")
def test_a_black_hole_is_found_and_gone_around():
    """RFC 4821: large segments vanish and no router says so; after some timeouts smaller ones are tried."""
    lab = Lab()
    c = lab.accepted()
    c.socket.send(b"x" * 1460)
    lab.run()
    sizes = [c.expects("A").length]
    for _ in range(200):
        lab.wait(0.5)
        sizes += [segment.length for segment in c.receives()]
        if sizes[-1] < 1000:
            break
    assert sizes.count(1460) == 4 and sizes[-1] == 730
    c.sends(ack=731)
    assert all(segment.length <= 730 for segment in c.receives())
    c.sends(ack=1461)
    lab.wait(601)
    c.socket.send(b"x")
    lab.run()
    c.receives()
    c.sends(ack=1462)
    assert c.tcb["snd"]["mss"] == 1460, "large ones are tried again after ten minutes"


@pytest.mark.rfc("4821:7.7b")
def test_short_segments_that_are_lost_are_no_black_hole():
    lab = Lab()
    c = lab.accepted()
    c.socket.send(b"x")
    lab.run()
    lab.wait(60)
    assert c.tcb["snd"]["mss"] == 1460


@pytest.mark.rfc("9293:MUST-47", "9293:SHLD-25", "9293:MUST-56", "1122:unreachable-hint")
@pytest.mark.parametrize(
    "kind, code, number",
    [
        (UNREACHABLE, 0, errno.ENETUNREACH),
        (UNREACHABLE, 1, errno.EHOSTUNREACH),
        (UNREACHABLE, 5, errno.EOPNOTSUPP),
        (EXCEEDED, 0, errno.EHOSTUNREACH),
        (PARAMETER, 0, errno.EPROTO),
    ],
)
def test_soft_errors_end_no_established_connection(kind, code, number):
    lab = Lab()
    c = lab.accepted()
    c.socket.send(b"x")
    lab.run()
    c.receives()
    c.socket.program.events()
    for count in (1, 2):
        error(lab, c, kind, code, seq=1)
        soft = c.socket.replica.soft_error
        assert (soft & 0xFF, soft >> 8) == (number, count)
        assert c.socket.replica.soft_at == 0 and [event[1] for event in c.socket.program.events()] == [c.socket.number]
    assert c.state == "ESTABLISHED" and not c.socket.error
    c.sends(ack=2)
    assert c.socket.unacknowledged == 0


@pytest.mark.rfc("1191:3e")
def test_a_router_cannot_make_segments_larger_again():
    lab = Lab()
    c = lab.accepted(80)
    c.socket.send(b"x" * 1460)
    lab.run()
    for mtu in (1000, 1400):
        error(lab, c, UNREACHABLE, 4, seq=1, mtu=mtu)
        assert c.tcb["snd"]["mss"] == 960
    assert lab.accepted(81).tcb["snd"]["mss"] == 960


@pytest.mark.rfc("1191:6.4a")
def test_the_same_message_again_sends_nothing_again():
    """RFC 1191 section 6.4: every segment that was too long causes one, and their number would grow without end."""
    lab = Lab()
    c = lab.accepted()
    c.socket.send(b"x" * 5 * 1460)
    lab.run()
    c.receives()
    error(lab, c, UNREACHABLE, 4, seq=1, mtu=1000)
    assert c.receives()[0].seq == 1
    for n in range(1, 5):
        error(lab, c, UNREACHABLE, 4, seq=1 + n * 1460, mtu=1000)
        c.expects_nothing()


@pytest.mark.rfc("1191:3.1b")
def test_a_narrow_path_does_not_change_the_mss_that_we_announce():
    """RFC 1191 section 6.4: that is about the way to us."""
    lab = Lab()
    c = lab.accepted(80)
    c.socket.send(b"x" * 1460)
    lab.run()
    error(lab, c, UNREACHABLE, 4, seq=1, mtu=1000)
    again = lab.connection(81)
    lab.listening(81)
    again.sends("S", options=again.syn_options)
    assert again.expects("SA").mss == 1460
    assert again.tcb["snd"]["mss"] == 960
