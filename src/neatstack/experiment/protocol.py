"""What client and server say to each other: every byte follows from the connection's number and the request's.

A connection has one request under way at a time. Both sides know every byte of the next message before it comes, so
they check it by one comparison. Mostly messages are small; every 16th answer and every 32nd request has up to 32 KiB.

    request   number, sequence, length of the answer, length of the payload, CRC-32 of these (u32 each), payload
    answer    status (0, or how many bytes of requests the server found wrong), number, sequence (u32 each), payload
"""

import random
import struct
import zlib

HEADER = struct.Struct("!IIIII")
ANSWER = struct.Struct("!III")
SMALL_REQUEST, SMALL_ANSWER = 32, 20  # bytes
LARGEST = 32768  # bytes of payload
ANSWER_EVERY, REQUEST_EVERY = 16, 32
SEED = 0x4E656154
OFFSETS = 1 << 16
BAD_HEADER = 0xFFFFFFFF  # status: the first request of a connection cannot be understood

_random = random.Random(SEED)
POOL = _random.randbytes(OFFSETS + LARGEST)
SIZES = [_random.randint(1, LARGEST) for _ in range(256)]  # bytes of the large payloads


def payload(number: int, sequence: int, length: int, turn: int) -> bytes:
    """The payload of a request (turn 0) or an answer (turn 1)."""
    at = (number * 7919 + sequence * 40503 + turn * 25033) & 0xFFFF
    return POOL[at : at + length]


def lengths(number: int, sequence: int) -> tuple[int, int]:
    """Bytes of payload of a request and of its answer. Connections are out of step, so that large ones mix."""
    step = number * 5 + sequence
    if step % ANSWER_EVERY == 0:
        return SMALL_REQUEST - HEADER.size, SIZES[step // ANSWER_EVERY & 0xFF]
    if step % REQUEST_EVERY == ANSWER_EVERY // 2:
        return SIZES[step // REQUEST_EVERY & 0xFF], SMALL_ANSWER - ANSWER.size
    return SMALL_REQUEST - HEADER.size, SMALL_ANSWER - ANSWER.size


def request(number: int, sequence: int) -> bytes:
    out, back = lengths(number, sequence)
    fields = struct.pack("!IIII", number, sequence, ANSWER.size + back, out)
    return fields + struct.pack("!I", zlib.crc32(fields)) + payload(number, sequence, out, 0)


def answer(number: int, sequence: int, status: int = 0) -> bytes:
    back = lengths(number, sequence)[1]
    return ANSWER.pack(status, number, sequence) + payload(number, sequence, back, 1)


def first(data: bytes) -> tuple[int, int] | None:
    """Number and sequence of the first request of a connection; None when the header cannot be what was sent."""
    number, sequence, back, out, check = HEADER.unpack_from(data)
    if zlib.crc32(data[: HEADER.size - 4]) != check:
        return None
    expected = lengths(number, sequence)
    return (number, sequence) if (out, back - ANSWER.size) == expected else None


def differing(got: bytes, expected: bytes) -> int:
    """How many bytes are wrong in what came so far: those that differ, and those that are too many."""
    if expected.startswith(got):
        return 0
    wrong = sum(one != other for one, other in zip(got, expected, strict=False))
    return wrong + max(0, len(got) - len(expected))
