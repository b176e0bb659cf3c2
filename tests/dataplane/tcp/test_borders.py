"""MSG_EOR: where the program has ended a message no segment goes on, also when it is sent again."""

import ctypes

import pytest

from tests.crash.scenarios import PORT
from tests.support.crash import CrashWire
from tests.support.lab import Connection, Lab
from tests.support.layout import STRUCTURES, Aside, neat
from tests.support.packet import NOP, SACK_PERMITTED, option
from tests.support.program import Socket

MSS = 1000
Borders = STRUCTURES["neat_borders"]


def send_message(socket: Socket, length: int) -> None:
    """send(MSG_EOR)."""
    at = socket.program.header.asides_at + socket.number * ctypes.sizeof(Aside) + Aside.borders.offset
    borders = Borders.from_buffer(socket.program.memory, at)
    borders.at[borders.head % neat.BORDERS] = socket.mine.tx_head + length
    borders.head += 1
    socket.mine.flags |= neat.FLAG_BORDERS
    socket.send(bytes(length))


def opened(**options: int) -> Connection:
    c = Lab(rings=1 << 17).connection(mss=MSS, **options)
    c.syn_options += NOP + NOP + SACK_PERMITTED
    c.listener = c.lab.listening()
    c.sends("S", options=c.syn_options)
    c.lab.wait(0.01)
    c.expects("SA")
    c.sends(seq=1)
    c.socket = c.lab.program.accept(c.listener)
    c.lab.run()
    return c


def pieces(c: Connection) -> list[tuple[int, int, str]]:
    """Text that has left: where, how much, with which flags."""
    c.lab.run()
    return [(s.seq, len(s.payload), s.flags) for s in c.receives() if s.payload]


def joined(found: list[tuple[int, int, str]]) -> list[int]:
    """Where segments end that are not full."""
    return [seq + length for seq, length, _ in found if length % MSS]


def test_a_message_ends_its_segment() -> None:
    """What is before it waits for the window, the message goes with that, what follows starts anew."""
    c = opened()
    c.socket.send(bytes(10400))
    send_message(c.socket, 400)
    c.socket.send(bytes(10000))
    assert [length for _, length, _ in pieces(c)] == [MSS] * 10
    c.sends(ack=10001)
    found = pieces(c)
    assert found[0] == (10001, 800, "PA") and joined(found) == [10801]
    assert sum(length for _, length, _ in found) == 10800


def test_nagle_does_not_hold_one_with_more_behind_it() -> None:
    c = opened()
    c.socket.send(bytes(10))
    assert pieces(c) == [(1, 10, "PA")]
    for _ in range(3):
        send_message(c.socket, 100)
    c.socket.send(bytes(50))
    assert pieces(c) == [(11, 100, "PA"), (111, 100, "PA"), (211, 100, "PA")]
    c.sends(ack=311)
    assert pieces(c) == [(311, 50, "PA")]


def test_a_cork_holds_the_last_piece_alone() -> None:
    c = opened()
    c.socket.set(flags=neat.FLAG_CORK)
    send_message(c.socket, 100)
    assert pieces(c) == []
    c.socket.mine.flags |= neat.FLAG_CORK
    c.socket.send(bytes(50))
    assert pieces(c) == [(1, 100, "PA")]


def many(c: Connection) -> list[tuple[int, int, str]]:
    for _ in range(8):
        send_message(c.socket, 400)
        c.socket.send(bytes(10))  # so that none is the last
    found = pieces(c)
    assert joined(found)[:3] == [401, 811, 1221]
    return found


def test_lost_ones_are_sent_again_alone() -> None:
    """With selective acknowledgments: all but the last has been lost."""
    c = opened()
    first = many(c)
    borders = {1 + 410 * n + 400 for n in range(8)}
    left = first[-1][0]
    block = option(5, b"".join((c.irs + at & 0xFFFFFFFF).to_bytes(4, "big") for at in (left, left + first[-1][1])))
    again, acked = [], 1
    for _ in range(12):
        c.sends(ack=acked, options=NOP + NOP + block)
        c.lab.wait(0.05)
        again += pieces(c)
        acked = max([acked, *(seq + length for seq, length, _ in again)])
    ends = {seq + length for seq, length, _ in again}
    assert len(again) > 4
    assert not [at for seq, length, _ in again for at in borders if seq < at < seq + length]
    assert ends & borders


@pytest.mark.parametrize("sack", [True, False])
def test_after_a_timeout_too(sack: bool) -> None:
    c = opened()
    if not sack:
        c.syn_options = c.syn_options[:-4]
    many(c)
    c.lab.wait(3)
    again = pieces(c)
    borders = {1 + 410 * n + 400 for n in range(8)}
    assert again and not [at for seq, length, _ in again for at in borders if seq < at < seq + length]


def test_a_probe_for_the_last_segment() -> None:
    """RFC 8985 section 7: what it sends again begins where the last message does."""
    c = opened()
    send_message(c.socket, 900)
    send_message(c.socket, 300)
    assert pieces(c) == [(1, 900, "PA")]  # Nagle has the second
    c.socket.set(flags=neat.FLAG_BORDERS | neat.FLAG_NODELAY)
    assert pieces(c) == [(901, 300, "PA")]
    c.lab.wait(0.1)
    assert pieces(c)[0][:2] == (901, 300)


def test_what_a_program_writes_there_cuts_only_its_own_segments() -> None:
    c = opened()
    send_message(c.socket, 400)
    at = c.socket.program.header.asides_at + c.socket.number * ctypes.sizeof(Aside) + Aside.borders.offset
    borders = Borders.from_buffer(c.socket.program.memory, at)
    for head, value in ((0xFFFFFFFF, 0), (5, 0xFFFFFFFF), (40, 1 << 31), (0, 0)):
        borders.head = head
        borders.at[:] = [value] * neat.BORDERS
        c.socket.send(bytes(3000))
        c.lab.run()
        c.sends(ack=c.socket.mine.tx_head + 1)
    assert c.state == "ESTABLISHED" and c.socket.unacknowledged == 0


def test_a_successor_knows_them() -> None:
    crash = CrashWire()
    listener = crash.b.program.listen(PORT)
    crash.run()
    client = crash.a.program.connect(crash.b.address, PORT)
    crash.until(lambda: client.state == neat.STATE_OPEN)
    crash.wait(0.1)
    server = crash.b.program.accept(listener)
    crash.die("a", "command_taken")
    for _ in range(5):
        send_message(client, 300)
        client.send(bytes(20))
    crash.wait(1)
    server.ask()
    crash.wait(0.1)
    assert crash.deaths == 1 and len(server.recv()) == 5 * 320
    assert server.info.data_segs_in >= 6
