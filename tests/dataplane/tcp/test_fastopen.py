"""TCP Fast Open (RFC 7413), both sides, in virtual time."""

import ctypes
import errno

import pytest

from neatstack.dataplane.tcp.isn import siphash_bytes
from tests.support.lab import PEER, Connection, Lab
from tests.support.layout import ReplicaPage, neat
from tests.support.packet import NOP, mss, option, read_options
from tests.support.wire import Faults, Wire

SECRET = bytes(range(16))
REQUEST = NOP + NOP + option(34)


def carrying(cookie: bytes) -> bytes:
    return NOP + NOP + option(34, cookie)


def serving(**options: int) -> tuple[Lab, int, bytes]:
    """A listener, and the cookie that the peer was given."""
    lab = Lab(secret=SECRET)
    listener = lab.listening(80, **{"fastopen": 8} | options)
    c = lab.connection(80)
    c.sends("S", options=mss(1460) + REQUEST)
    cookie = read_options(c.expects("SA", ack=1).options)[34]
    assert len(cookie) == 8
    c.sends("A")
    assert lab.program.accept(listener) is not None
    c.sends("R")
    return lab, listener, cookie


# ---- server ----


@pytest.mark.rfc("7413:4.2.2b")
def test_text_on_the_syn_reaches_the_program_before_the_handshake_is_over():
    """Section 3: request on the SYN, answer behind the SYN-ACK."""
    lab, listener, cookie = serving()
    c = lab.connection(80)
    c.sends("S", data=b"GET /", options=mss(1460) + carrying(cookie))
    c.expects("SA", seq=0, ack=6)
    socket = lab.program.accept(listener)
    assert socket.recv() == b"GET /" and c.state == "SYN_RECEIVED"
    socket.send(b"answer")
    lab.run()
    assert c.expects("A", seq=1, ack=6, data=b"answer")
    c.sends("A", ack=7)
    assert c.state == "ESTABLISHED" and socket.unacknowledged == 0
    c.sends(data=b"more")
    assert socket.recv() == b"more"


@pytest.mark.parametrize("cookie", [b"\0" * 8, b"x" * 4, b"x" * 16])
@pytest.mark.rfc("7413:4.2.2a")
def test_a_wrong_cookie_is_answered_with_a_good_one(cookie):
    """Section 4.2.2: the text is not acknowledged, and comes again."""
    lab, listener, good = serving()
    c = lab.connection(80)
    c.sends("S", data=b"GET /", options=mss(1460) + carrying(cookie))
    answer = c.expects("SA", ack=1)
    assert read_options(answer.options)[34] == good
    assert lab.program.accept(listener) is None
    c.sends("A", seq=1, data=b"GET /")
    assert lab.program.accept(listener).recv() == b"GET /"


@pytest.mark.rfc("7413:2")
def test_a_listener_without_it_does_not_answer_the_option():
    lab, _, cookie = serving()
    lab.listening(81)
    for options in (REQUEST, carrying(cookie)):
        c = lab.connection(81)
        c.sends("S", data=b"early", options=mss(1460) + options)
        assert 34 not in read_options(c.expects("SA", ack=1).options)


@pytest.mark.rfc("7413:4.1.2a")
def test_the_cookie_is_the_peers_and_every_replicas():
    lab, _, cookie = serving()
    other = Lab(secret=SECRET)
    other.listening(80, fastopen=8)
    stranger = "10.0.0.9"
    other.engine.neighbour(stranger, bytes.fromhex("020000000001"))
    for address, good in ((PEER, True), (stranger, False)):
        c = Connection(other, 80, 5000, address=address)
        c.sends("S", data=b"hi", options=mss(1460) + carrying(cookie))
        c.expects("SA", ack=3 if good else 1)


@pytest.mark.rfc("7413:5.1")
def test_only_so_many_at_a_time():
    """Section 5.1: what a spoofed flood could use up is bounded; beyond, SYNs are as without Fast Open."""
    lab, listener, cookie = serving(fastopen=3)
    peers = [lab.connection(80) for _ in range(5)]
    acks = []
    for c in peers:
        c.sends("S", data=b"hi", options=mss(1460) + carrying(cookie))
        acks.append(c.expects("SA").ack)
    assert acks == [3, 3, 3, 1, 1]
    peers[0].sends("A", ack=1, seq=3)
    late = lab.connection(80)
    late.sends("S", data=b"hi", options=mss(1460) + carrying(cookie))
    late.expects("SA", ack=3)


def test_a_repeated_syn_is_answered_again_and_the_text_delivered_once():
    lab, listener, cookie = serving()
    c = lab.connection(80)
    for _ in range(2):
        c.sends("S", seq=0, data=b"once", options=mss(1460) + carrying(cookie))
        c.expects("SA", seq=0, ack=5)
    socket = lab.program.accept(listener)
    c.sends("A", seq=5)
    assert socket.recv() == b"once"


def test_a_lost_syn_ack_is_sent_again_and_the_answer_after_it():
    lab, listener, cookie = serving()
    c = lab.connection(80)
    c.sends("S", data=b"q", options=mss(1460) + carrying(cookie))
    socket = lab.program.accept(listener)
    socket.send(b"answer")
    lab.run()
    c.receives()
    lab.wait(1.2)
    assert [s.flags for s in c.receives()] == ["SA", "PA"]
    c.sends("A", ack=7, seq=2)
    assert c.state == "ESTABLISHED"


@pytest.mark.rfc("7413:4.2.2d")
def test_a_program_that_answers_and_closes_at_once():
    lab, listener, cookie = serving()
    c = lab.connection(80)
    c.sends("S", data=b"q", options=mss(1460) + carrying(cookie))
    c.expects("SA")
    socket = lab.program.accept(listener)
    assert socket.recv() == b"q"
    socket.send(b"answer")
    socket.close()
    lab.run()
    c.expects("A", data=b"answer")
    c.sends("A", ack=7)
    c.expects("FA", seq=7)
    c.sends("FA", ack=8)
    assert c.expects("A", ack=3) and c.state == "TIME_WAIT"


def test_a_reset_before_the_end_of_the_handshake_is_told():
    lab, listener, cookie = serving()
    c = lab.connection(80)
    c.sends("S", data=b"q", options=mss(1460) + carrying(cookie))
    socket = lab.program.accept(listener)
    c.sends("R", seq=2)
    assert socket.state == neat.STATE_CLOSED and socket.error == 104  # ECONNRESET
    assert lab.engine.listeners()[0]["waiting"] == 0


def test_nobody_completes_and_the_program_never_accepts():
    lab, listener, cookie = serving()
    c = lab.connection(80)
    c.sends("S", data=b"q", options=mss(1460) + carrying(cookie))
    lab.until(300)
    assert c.state == "CLOSED"
    (told,) = lab.engine.listeners()
    assert (told["waiting"], told["half_open"]) == (1, 0)
    socket = lab.program.accept(listener)
    lab.run()
    assert (socket.recv(), socket.error) == (b"q", errno.ETIMEDOUT)
    assert lab.engine.listeners()[0]["waiting"] == 0


def test_it_waits_when_no_slot_is_posted():
    lab, listener, cookie = serving()
    taken = [lab.program.withdraw(socket) for socket in lab.program.posted[listener]]
    lab.run()
    assert taken
    lab.program.posted[listener].clear()
    c = lab.connection(80)
    c.sends("S", data=b"waits", options=mss(1460) + carrying(cookie))
    c.expects("SA", ack=6)
    lab.program.post(listener)
    lab.run()
    assert lab.program.accept(listener).recv() == b"waits"


KEYS = bytes.fromhex("a1a1a1a1b2b2b2b2c3c3c3c3d4d4d4d4" + "00112233445566778899aabbccddeeff")


def cookie_of(lab: Lab, **options: str) -> bytes:
    """What a peer is given that asks for one."""
    c = Connection(lab, 80, 5000, **options)
    c.sends("S", options=mss(1460) + REQUEST)
    return read_options(c.expects("SA", ack=1).options)[34]


@pytest.mark.rfc("7413:4.1.2a")
def test_a_cookie_is_that_which_linux_makes_with_the_key():
    """SipHash-2-4 of the peer's address and ours: so stacks and kernels may stand behind one name."""
    lab = Lab(fastopen_keys=KEYS[:16])
    lab.listening(80, fastopen=8)
    of = bytes([10, 0, 0, 1, 10, 0, 0, 2])
    assert cookie_of(lab, address=PEER) == siphash_bytes(KEYS[:16], of).to_bytes(8, "little")


def test_the_second_key_proves_and_the_first_is_given():
    old, new = Lab(fastopen_keys=KEYS[16:]), Lab(fastopen_keys=KEYS)
    for lab in (old, new):
        lab.listening(80, fastopen=8)
    given, fresh = cookie_of(old, address=PEER), cookie_of(new, address=PEER)
    assert given != fresh
    c = new.connection(80)
    c.sends("S", data=b"text", options=mss(1460) + carrying(given))
    assert read_options(c.expects("SA", ack=5).options)[34] == fresh
    again = new.connection(80)
    again.sends("S", data=b"text", options=mss(1460) + carrying(fresh))
    assert 34 not in read_options(again.expects("SA", ack=5).options)


def test_a_listener_may_have_keys_of_its_own():
    """TCP_FASTOPEN_KEY, before its connections or while they come: the first key makes cookies, both prove."""
    lab = Lab(fastopen_keys=KEYS[:16])
    listener = lab.listening(80, fastopen=8)
    of_stack = cookie_of(lab, address=PEER)
    given = {}
    for name, keys in {"own": KEYS[16:], "both": KEYS[16:] + KEYS[:16], "none": b""}.items():
        lab.engine.listen(listener, "0.0.0.0", 80, 128, fastopen=8, fastopen_keys=keys)
        given[name] = cookie_of(lab, address=PEER)
        c = lab.connection(80)
        c.sends("S", data=b"text", options=mss(1460) + carrying(of_stack))
        answer = c.expects("SA", ack=1 if name == "own" else 5)
        assert read_options(answer.options).get(34) == (None if name == "none" else given[name])
    of = bytes([10, 0, 0, 1, 10, 0, 0, 2])
    assert given["own"] == given["both"] == siphash_bytes(KEYS[16:], of).to_bytes(8, "little")
    assert given["none"] == of_stack


EXPERIMENT = bytes.fromhex("f989")


@pytest.mark.rfc("7413:4.1.1a")
def test_who_asks_in_the_experimental_option_is_answered_in_it():
    """RFC 6994: as peers have it that are older than the number of the option."""
    lab, listener, cookie = serving()
    c = lab.connection(80)
    c.sends("S", options=mss(1460) + option(254, EXPERIMENT))
    options = read_options(c.expects("SA", ack=1).options)
    assert options[254] == EXPERIMENT + cookie and 34 not in options
    c = lab.connection(80)
    c.sends("S", data=b"text", options=mss(1460) + option(254, EXPERIMENT + cookie))
    assert 254 not in read_options(c.expects("SA", ack=5).options)
    c = lab.connection(80)
    c.sends("S", data=b"text", options=mss(1460) + option(254, b"\x12\x34" + cookie))
    assert 254 not in read_options(c.expects("SA", ack=1).options)


SERVER, BARE, LISTENERS = 2, 0x202, 0x402


@pytest.mark.parametrize(("fastopen", "listener", "with_cookie", "bare"), [
    (1, 8, False, False), (SERVER, 8, True, False), (SERVER, 0, False, False), (BARE, 8, True, True),
    (BARE, 0, False, False), (LISTENERS, 0, True, False), (LISTENERS | BARE, 0, True, True),
    (LISTENERS & ~2, 0, False, False),
])  # fmt: skip
def test_what_the_operator_allows(fastopen: int, listener: int, with_cookie: bool, bare: bool):
    """As with the bits of Linux's tcp_fastopen: servers at all, text without a cookie, all listeners."""
    _, _, cookie = serving()
    lab = Lab(secret=SECRET, fastopen=fastopen)
    number = lab.listening(80, fastopen=listener)
    for options, taken in ((carrying(cookie), with_cookie), (b"", bare), (carrying(b"x" * 8), bare)):
        c = lab.connection(80)
        c.sends("S", data=b"text", options=mss(1460) + options)
        c.expects("SA", ack=5 if taken else 1)
        if taken:
            assert lab.program.accept(number).recv() == b"text"


def test_a_plain_syn_has_no_part_in_it_though_no_cookie_is_wanted():
    lab = Lab(fastopen=BARE)
    number = lab.listening(80, fastopen=8)
    c = lab.connection(80)
    c.sends("S", options=mss(1460))
    c.expects("SA", ack=1)
    assert lab.program.accept(number) is None


# ---- client ----


def asking(lab: Lab, data: bytes = b"request", port: int = 80) -> Connection:
    """connect() with text in the send ring."""
    socket = lab.program.free_slot()
    at, _ = socket._ring(sending=True)
    lab.program.memory[at : at + len(data)] = data
    return lab.connecting(port, lines={"flags": neat.FLAG_FASTOPEN, "tx_head": len(data)})


def taught(cookie: bytes = b"12345678", **options: object) -> Lab:
    """A client that has a cookie."""
    lab = Lab(**options)
    c = asking(lab)
    assert read_options(c.expects("S", length=0).options)[34] == b""
    c.sends("SA", seq=0, ack=1, options=mss(1000) + carrying(cookie))
    c.expects("A", seq=1, data=b"request")
    c.sends("R", seq=1)
    return lab


@pytest.mark.parametrize("cookie", [b"1234", b"12345678", b"0123456789abcdef"])
@pytest.mark.rfc("7413:4.1.3")
def test_text_goes_with_the_next_syn(cookie):
    lab = taught(cookie)
    c = asking(lab)
    syn = c.expects("S", seq=0, data=b"request")
    assert read_options(syn.options)[34] == cookie
    c.sends("SA", seq=0, ack=8, data=b"", options=mss(1000))
    c.expects("A", seq=8, ack=1)
    assert c.socket.unacknowledged == 0
    c.sends(data=b"answer")
    assert c.socket.recv() == b"answer"


@pytest.mark.rfc("7413:4.2.2c", "7413:4.1.3b")
def test_no_more_than_the_peer_takes_in_a_segment():
    lab = taught()
    c = asking(lab, b"x" * 3000)
    syn = c.expects("S")
    assert len(syn.payload) + len(syn.options) == 1000  # what it announced
    c.sends("SA", seq=0, ack=1 + len(syn.payload), options=mss(1000))
    sent = len(syn.payload)
    while sent < 3000:
        segment = c.expects()
        sent += len(segment.payload)


@pytest.mark.rfc("7413:4.2.1b")
def test_text_that_is_not_taken_goes_again_at_once():
    lab = taught()
    c = asking(lab)
    c.expects("S", data=b"request")
    c.sends("SA", seq=0, ack=1, options=mss(1000))
    c.expects("A", seq=1, ack=1, data=b"request")
    c.sends(ack=8)
    assert c.socket.unacknowledged == 0


@pytest.mark.rfc("7413:4.2.1a", "7413:4.1.3.1")
def test_a_lost_syn_comes_again_plain_and_the_cookie_is_forgotten():
    """Section 4.1.3.1."""
    lab = taught()
    c = asking(lab)
    c.expects("S", data=b"request")
    lab.wait(1.1)
    again = c.expects("S", length=0)
    assert 34 not in read_options(again.options)
    c.sends("SA", seq=0, ack=1, options=mss(1000))
    c.expects("A", data=b"request")
    assert asking(lab).expects("S").payload == b""


def test_an_ack_of_the_first_syns_text_that_comes_late():
    lab = taught()
    c = asking(lab)
    c.expects("S", data=b"request")
    lab.wait(1.1)
    c.expects("S", length=0)
    c.sends("SA", seq=0, ack=8, options=mss(1000))
    c.expects("A", seq=8, length=0)
    assert c.socket.unacknowledged == 0


def test_refused():
    lab = taught()
    c = asking(lab)
    c.expects("S", data=b"request")
    c.sends("RA", seq=0, ack=8)
    assert c.socket.error == 111


@pytest.mark.parametrize("seed", range(4))
def test_both_sides_over_a_bad_link(seed):
    wire = Wire(Faults(loss=0.15, reorder=0.1, duplicate=0.1), seed=seed)
    listener = wire.b.program.listen(80, fastopen=8)
    wire.b.engine.run()
    for number in range(6):
        data = bytes([number]) * 2000
        program = wire.a.program
        at, _ = program.free_slot()._ring(sending=True)
        program.memory[at : at + len(data)] = data
        client = program.connect(wire.b.address, 80, flags=neat.FLAG_FASTOPEN, tx_head=len(data))
        got: list = []

        def done(got: list = got) -> bool:
            if not got and (server := wire.b.program.accept(listener)):
                got.append(server)
            return bool(got) and got[0].readable == 2000

        wire.until(done)
        assert got[0].recv() == data
        got[0].send(data)
        wire.until(lambda client=client: client.readable == 2000)
        assert client.recv() == data
        client.close()
        got[0].close()
        wire.wait(5)


@pytest.mark.rfc("7413:4.1.1b")
def test_the_option_says_nothing_behind_the_syn():
    """Section 4.1.1."""
    lab, listener, cookie = serving()
    c = lab.connection(80)
    c.sends("S", options=mss(1460))
    c.expects("SA")
    c.sends("A", data=b"text", options=carrying(cookie))
    socket = lab.program.accept(listener)
    c.sends("A", data=b"more", options=REQUEST)
    assert socket.recv() == b"textmore"
    lab.wait(1)
    assert all(34 not in read_options(s.options) for s in c.receives())


@pytest.mark.rfc("7413:4.1.3a")
def test_the_latest_cookie_counts_for_every_port_of_the_server():
    """RFC 7413 section 4.1.3: one for each server's address."""
    lab = taught()
    c = asking(lab)
    c.expects("S", data=b"request")
    newer = bytes(range(8))
    c.sends("SA", seq=0, ack=8, options=mss(1000) + carrying(newer))
    c.expects("A")
    assert read_options(asking(lab, port=8080).expects("S", data=b"request").options)[34] == newer


@pytest.mark.parametrize(("fastopen", "given"), [
    (3, option(254, EXPERIMENT + b"12345678")), (7, carrying(b"12345678")),
], ids=["in another option", "where none is wanted"])  # fmt: skip
def test_a_cookie_that_was_not_asked_for_is_not_learned(fastopen: int, given: bytes):
    page = bytearray(ctypes.sizeof(ReplicaPage))
    lab = Lab(fastopen=fastopen, replica_page=page)
    c = asking(lab)
    sent = c.expects("S")
    c.sends("SA", seq=0, ack=1 + len(sent.payload), options=mss(1000) + given)
    assert not any(ReplicaPage.from_buffer(page).fast)


@pytest.mark.rfc("7413:4.1.3")
def test_text_goes_without_a_cookie_where_the_operator_wants_none():
    lab = Lab(fastopen=5)
    c = asking(lab)
    assert 34 not in read_options(c.expects("S", data=b"request").options)
    c.sends("SA", seq=0, ack=8, options=mss(1000))
    c.expects("A", seq=8)


def test_programs_see_on_the_replicas_page_that_there_is_a_cookie():
    page = bytearray(ctypes.sizeof(ReplicaPage))
    known = ReplicaPage.from_buffer(page).fast
    lab = taught(replica_page=page)
    assert len(list(filter(None, known))) == 1
    c = asking(lab)
    c.expects("S", data=b"request")
    lab.wait(1.1)
    c.expects("S", length=0)
    c.sends("SA", seq=0, ack=1, options=mss(1000))
    assert not any(known)
