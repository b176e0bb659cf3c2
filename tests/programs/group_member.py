"""Joins the groups that are its arguments, says so, and waits to be ended."""

import socket
import struct
import sys
import threading

if __name__ == "__main__":
    sockets = []
    for group in sys.argv[1:]:
        if ":" in group:
            s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            s.bind(("", 0))
            octets = socket.inet_pton(socket.AF_INET6, group)
            s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, octets + struct.pack("@I", 0))
        else:
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            s.bind(("", 0))
            s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + bytes(4))
        sockets.append(s)
    print("joined", flush=True)
    threading.Event().wait()
