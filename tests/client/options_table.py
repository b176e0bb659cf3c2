"""Sets and gets socket options, and prints what came of it as JSON: on the kernel, or on a stack. No test itself."""

from __future__ import annotations

import errno
import json
import socket
import struct
import sys

TCP, SOL = socket.IPPROTO_TCP, socket.SOL_SOCKET
NAMES = {
    "TCP_NODELAY": (TCP, 1), "TCP_MAXSEG": (TCP, 2), "TCP_CORK": (TCP, 3), "TCP_KEEPIDLE": (TCP, 4),
    "TCP_KEEPINTVL": (TCP, 5), "TCP_KEEPCNT": (TCP, 6), "TCP_SYNCNT": (TCP, 7), "TCP_LINGER2": (TCP, 8),
    "TCP_DEFER_ACCEPT": (TCP, 9), "TCP_WINDOW_CLAMP": (TCP, 10), "TCP_QUICKACK": (TCP, 12),
    "TCP_USER_TIMEOUT": (TCP, 18), "TCP_FASTOPEN": (TCP, 23), "TCP_NOTSENT_LOWAT": (TCP, 25),
    "TCP_FASTOPEN_CONNECT": (TCP, 30), "TCP_INQ": (TCP, 36),
    "SO_REUSEADDR": (SOL, 2), "SO_REUSEPORT": (SOL, 15), "SO_KEEPALIVE": (SOL, 9), "SO_OOBINLINE": (SOL, 10),
    "SO_RCVLOWAT": (SOL, 18), "SO_BROADCAST": (SOL, 6), "SO_DONTROUTE": (SOL, 5), "SO_PRIORITY": (SOL, 12),
    "SO_SNDBUF": (SOL, 7), "SO_RCVBUF": (SOL, 8), "SO_SNDBUFFORCE": (SOL, 32), "SO_RCVBUFFORCE": (SOL, 33),
    "SO_MAX_PACING_RATE": (SOL, 47), "IP_TOS": (0, 1), "IP_TTL": (0, 2),
    "SO_BINDTOIFINDEX": (SOL, 62), "SO_INCOMING_NAPI_ID": (SOL, 56), "SO_BSDCOMPAT": (SOL, 14), "TCP_ULP": (TCP, 31),
    "SO_PEEK_OFF": (SOL, 42), "TCP_SAVE_SYN": (TCP, 27), "TCP_SAVED_SYN": (TCP, 28), "IP_MINTTL": (0, 21),
    "IP_UNICAST_IF": (0, 50),
    "SO_DEBUG": (SOL, 1), "SO_NO_CHECK": (SOL, 11), "SO_TIMESTAMP": (SOL, 29), "SO_TIMESTAMPNS": (SOL, 35),
    "SO_SELECT_ERR_QUEUE": (SOL, 45), "SO_BUSY_POLL": (SOL, 46), "SO_PREFER_BUSY_POLL": (SOL, 69),
    "SO_INCOMING_CPU": (SOL, 49), "SO_BINDTODEVICE": (SOL, 25), "SO_PEERCRED": (SOL, 17), "SO_TYPE": (SOL, 3),
    "SO_PROTOCOL": (SOL, 38), "SO_DOMAIN": (SOL, 39), "SO_ERROR": (SOL, 4), "SO_ACCEPTCONN": (SOL, 30),
    "TCP_THIN_LINEAR_TIMEOUTS": (TCP, 16), "TCP_NONE": (TCP, 99), "LEVEL_NONE": (99, 1),
    "UDP_CORK": (17, 1), "UDP_NO_CHECK6_TX": (17, 101), "UDP_SEGMENT": (17, 103), "UDP_GRO": (17, 104),
    "IP_BIND_ADDRESS_NO_PORT": (0, 24), "IP_FREEBIND": (0, 15), "IP_MTU_DISCOVER": (0, 10), "IP_RECVERR": (0, 11),
    "IP_PKTINFO": (0, 8), "IP_RECVTTL": (0, 12), "IP_RECVTOS": (0, 13), "IP_RECVORIGDSTADDR": (0, 20),
}  # fmt: skip
OF_DATAGRAMS = {"IP_MULTICAST_TTL": (0, 33), "IP_MULTICAST_LOOP": (0, 34), "IP_MULTICAST_ALL": (0, 49)}
OF_SIX = {
    "IPV6_MULTICAST_ALL": (41, 29), "IPV6_FLOWINFO_SEND": (41, 33), "IPV6_FREEBIND": (41, 78), "IPV6_V6ONLY": (41, 26),
    "IPV6_MINHOPCOUNT": (41, 73), "IPV6_UNICAST_IF": (41, 76), "IPV6_JOIN_GROUP": (41, 20),
    "IPV6_UNICAST_HOPS": (41, 16), "IPV6_TCLASS": (41, 67), "IPV6_RECVPKTINFO": (41, 49), "IPV6_DONTFRAG": (41, 62),
}  # fmt: skip
VALUES = (0, 1, 2, 3, 5, 7, 20, 61, 88, 121, 127, 128, 255, 256, 1000, 1400, 32767, 32768, 65535, 100_000, -1, -5)
ONLY = {
    "SO_BINDTOIFINDEX": (-1, 5, 0),
    "IP_UNICAST_IF": (0, 1, 5, -1, 1 << 24),
    "IPV6_UNICAST_IF": (0, 1, 5, -1, 1 << 24),
    "SO_PRIORITY": (0, 1, 6),
    "SO_RCVLOWAT": (1, 100, 0, 60000),
    "TCP_FASTOPEN": (0, 5, 4096, -1),
}
# of an open socket's these are measured, or mean what the two ends have agreed on
NOT_OPEN = {
    "TCP_MAXSEG", "TCP_QUICKACK", "TCP_WINDOW_CLAMP", "TCP_FASTOPEN", "TCP_FASTOPEN_CONNECT", "SO_SNDBUF", "SO_RCVBUF",
    "SO_INCOMING_CPU",
}  # fmt: skip
NOT_INHERITED = NOT_OPEN - {"TCP_FASTOPEN"} | {"TCP_CORK"}


def attempt(work):
    try:
        return work()
    except OSError as error:
        return errno.errorcode[error.errno]


def one(sock: socket.socket, level: int, name: int, values) -> list:
    told = [attempt(lambda: sock.getsockopt(level, name))]
    for value in values:
        told.append((value, attempt(lambda v=value: sock.setsockopt(level, name, v)),
                     attempt(lambda: sock.getsockopt(level, name))))  # fmt: skip
    told.append(attempt(lambda: sock.setsockopt(level, name, b"\1\0")))  # too short
    if level == SOL:
        told += [attempt(lambda size=size: sock.setsockopt(level, name, None, size)) for size in (0, 4)]
    told.append(attempt(lambda: len(sock.getsockopt(level, name, 2))))
    told.append(attempt(lambda: len(sock.getsockopt(level, name, 64))))
    return told


def lingers(sock: socket.socket) -> list:
    told = []
    for value in ((0, 0), (1, 5), (0, 7), (2, 0), (1, 3)):
        told.append(attempt(lambda v=value: sock.setsockopt(SOL, 13, struct.pack("ii", *v))))
        told.append(struct.unpack("ii", sock.getsockopt(SOL, 13, 8)))
    told.append(attempt(lambda: sock.setsockopt(SOL, 13, 1)))
    sock.setsockopt(SOL, 13, struct.pack("ii", 0, 0))
    return told


INHERITED = {
    "TCP_KEEPIDLE": 77,
    "TCP_SYNCNT": 3,
    "TCP_MAXSEG": 1000,
    "TCP_NOTSENT_LOWAT": 20000,
    "IP_TOS": 0x48,
}  # else 1


def inherited(address: str, name: str, level: int, number: int):
    """What an accepted socket has of an option of its listener."""
    with socket.socket() as listener, socket.socket() as client:
        listener.bind((address, 0))
        attempt(lambda: listener.setsockopt(level, number, INHERITED.get(name, 1)))
        listener.listen()
        client.connect(listener.getsockname())
        client.send(b"x")  # TCP_DEFER_ACCEPT waits for it
        with listener.accept()[0] as accepted:
            return attempt(lambda: accepted.getsockopt(level, number))


def states(address: str):
    """A socket in each state."""
    fresh = socket.socket()
    listening = socket.socket()
    listening.bind((address, 0))
    listening.listen()
    server = socket.socket()
    server.bind((address, 0))
    server.listen()
    opened = socket.create_connection(server.getsockname())
    accepted = server.accept()[0]
    of_six = {
        f"{name} of IPv6": socket.socket(socket.AF_INET6, kind)
        for name, kind in (("stream", socket.SOCK_STREAM), ("datagram", socket.SOCK_DGRAM))
    }
    datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    return {
        "fresh": fresh,
        "listening": listening,
        "open": opened,
        "accepted": accepted,
        "datagram": datagram,
        **of_six,
    }


def main(address: str) -> None:
    told = {}
    for state, sock in states(address).items():
        names = NAMES | (OF_DATAGRAMS if state == "datagram" else {}) | (OF_SIX if "IPv6" in state else {})
        for name, (level, number) in names.items():
            if state in ("open", "accepted") and name in NOT_OPEN:
                continue
            told[f"{state} {name}"] = one(sock, level, number, ONLY.get(name, VALUES))
        told[f"{state} SO_LINGER"] = lingers(sock)
    for name in NAMES.keys() - NOT_INHERITED:
        told[f"inherited {name}"] = [inherited(address, name, *NAMES[name])]
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1])
