"""The replica's end of its conversation with the manager: JSON with descriptors attached, over SOCK_SEQPACKET.

Written with recvmsg() and send() themselves, because Python's socket module would double the memory of a replica.
"""

import json
import os

import cython
from cython.cimports.libc.errno import EAGAIN, EINTR, errno
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.neatstack.dataplane.control_messages import (
    CMSG_DATA,
    CMSG_FIRSTHDR,
    CMSG_LEN,
    CMSG_NXTHDR,
    MSG_CMSG_CLOEXEC,
    MSG_CTRUNC,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    MSG_TRUNC,
    SCM_RIGHTS,
    SOL_SOCKET,
    cmsghdr,
    iovec,
    msghdr,
    recvmsg,
    send,
)

LARGEST = 16384  # bytes of one message


class Closed(Exception):
    """The other end is gone: the stack has ended."""


def receive(fd: int) -> tuple[dict, list[int]] | None:
    """The next message and its descriptors, which are the caller's to close; None if none waits. Raises Closed."""
    text: cython.char[16384]
    ancillary: cython.char[512]
    piece: iovec
    message: msghdr
    memset(cython.address(message), 0, cython.sizeof(message))
    piece.iov_base = text
    piece.iov_len = cython.sizeof(text)
    message.msg_iov = cython.address(piece)
    message.msg_iovlen = 1
    message.msg_control = ancillary
    message.msg_controllen = cython.sizeof(ancillary)
    size: cython.Py_ssize_t = recvmsg(fd, cython.address(message), MSG_DONTWAIT | MSG_CMSG_CLOEXEC)
    if size < 0:
        if errno in (EAGAIN, EINTR):
            return None
        raise Closed(os.strerror(errno))
    if size == 0:
        raise Closed("end of file")
    fds = _descriptors(cython.address(message))
    if message.msg_flags & (MSG_TRUNC | MSG_CTRUNC):
        for received in fds:
            os.close(received)
        return {"op": "too long"}, []
    return json.loads(text[:size]), fds


@cython.cfunc
def _descriptors(message: cython.pointer[msghdr]) -> list:
    fds = []
    item: cython.pointer[cmsghdr] = CMSG_FIRSTHDR(message)
    number: cython.int = 0
    size: cython.size_t = cython.sizeof(cython.int)
    i: cython.size_t
    while item:
        if item.cmsg_level == SOL_SOCKET and item.cmsg_type == SCM_RIGHTS:
            for i in range((item.cmsg_len - CMSG_LEN(0)) // size):
                memcpy(cython.address(number), CMSG_DATA(item) + i * size, size)
                fds.append(number)
        item = CMSG_NXTHDR(message, item)
    return fds


def answer(fd: int, message: dict) -> None:
    """Send one message. When the socket is full this waits for the manager, who never waits for us."""
    raw = json.dumps(message).encode()
    data: cython.p_char = raw
    if send(fd, data, len(raw), MSG_NOSIGNAL) < 0:
        raise Closed(os.strerror(errno))
