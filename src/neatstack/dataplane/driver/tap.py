"""TAP: a device whose frames the kernel hands to us, one queue for each replica.

`open_queues` is for whoever makes the device (keeper, manager, tests); `tap_device` is the driver of one queue, in a
replica. Every frame has a virtio-net header (virtio 1.2 section 5.1.6) in front: either side leaves checksums to the
other, and hands over TCP segments of up to 64 KiB, which whoever puts them on a wire cuts into pieces.
"""

import os

import cython
from cython.cimports.libc.errno import EAGAIN, EINTR, ENOMEM, errno
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free, malloc
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.neatstack.dataplane.channel.atomic import barrier
from cython.cimports.neatstack.dataplane.driver.device import (
    FRAME_BYTES,
    FRAME_ROOM,
    FRAMES,
    HEADROOM,
    Device,
    Frame,
    Inbox,
    Kept,
    Outgoing,
)
from cython.cimports.neatstack.dataplane.driver.tap import (
    CLONE_NEWNET,
    IFF_MULTI_QUEUE,
    IFF_NO_PI,
    IFF_TAP,
    IFF_TUN_EXCL,
    IFF_VNET_HDR,
    SMALL,
    TUN_F_CSUM,
    TUN_F_TSO4,
    TUN_F_TSO6,
    TUN_F_TSO_ECN,
    TUNSETIFF,
    TUNSETOFFLOAD,
    TUNSETVNETHDRSZ,
    VIRTIO_NET_HDR_F_DATA_VALID,
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
    VIRTIO_NET_HDR_GSO_ECN,
    VIRTIO_NET_HDR_GSO_NONE,
    VIRTIO_NET_HDR_GSO_TCPV4,
    VIRTIO_NET_HDR_GSO_TCPV6,
    VIRTIO_NET_HDR_GSO_UDP,
    Front,
    VnetHeader,
    ifreq,
    setns,
)
from cython.cimports.neatstack.dataplane.wire.headers import CWR
from cython.cimports.posix.fcntl import O_NONBLOCK, O_RDWR, open
from cython.cimports.posix.ioctl import ioctl
from cython.cimports.posix.uio import iovec, writev
from cython.cimports.posix.unistd import close, read, write

CACHE_LINE = cython.declare(uint32_t, 64)
SHORTEST = cython.declare(uint32_t, 14)  # an Ethernet header
TCP_CHECKSUM = cython.declare(uint16_t, 16)  # offset in the TCP header

Tap = cython.struct(
    buffers=cython.pointer[uint8_t],
    inbox=cython.pointer[Inbox],
    allocated=cython.bint,
    malformed=cython.pointer[uint64_t],
)


# ---- making the device ----


def open_queues(name: str, count: int, netns: int | str | None = None) -> list[int]:
    """Make the TAP interface `name` with `count` queues; their descriptors, in the order of the queues.

    The interface lasts until the last of them is closed. Queue i is closed only together with all others, or those
    behind it would be renumbered. `netns` is the network namespace to make it in: a path or a descriptor; else ours.
    """
    if not 0 < len(os.fsencode(name)) < 16:
        raise OSError(22, f"{name!r} is no name for an interface: it has 1 to 15 bytes")
    if netns is None:
        return _open_queues(name, count)
    target = _open_netns(netns) if isinstance(netns, str) else netns
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(target)
        try:
            return _open_queues(name, count)
        finally:
            _enter(own)
    finally:
        os.close(own)
        if isinstance(netns, str):
            os.close(target)


def _open_netns(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise OSError(error.errno, f"no network namespace at {path}: {os.strerror(error.errno)}") from None


def _enter(netns: int) -> None:
    """Move the calling thread, and no other, to a network namespace."""
    if setns(netns, CLONE_NEWNET) < 0:
        raise OSError(errno, f"cannot enter the network namespace: {os.strerror(errno)}")


def _open_queues(name: str, count: int) -> list[int]:
    queues: list[int] = []
    raw = os.fsencode(name)
    try:
        for _ in range(count):
            fd = open_queue(raw, 0 if queues else IFF_TUN_EXCL)
            if fd < 0:
                raise OSError(-fd, f"cannot open TAP {name}: {_advice(-fd)}")
            queues.append(fd)
            os.set_inheritable(fd, False)
        failed = prepare(queues[0])
        if failed < 0:
            raise OSError(-failed, f"TAP {name} does not take virtio-net headers and offloads: {os.strerror(-failed)}")
    except OSError:
        for fd in queues:
            os.close(fd)
        raise
    return queues


def _advice(number: int) -> str:
    """What an errno of open("/dev/net/tun") or TUNSETIFF means here."""
    if number in (1, 13):
        return "not permitted; it takes root, or CAP_NET_ADMIN and access to /dev/net/tun"
    if number in (2, 6, 19):
        return "/dev/net/tun is missing; load the kernel module `tun`"
    if number == 16:
        return "an interface of that name exists already"
    return os.strerror(number)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def open_queue(name: cython.p_const_char, exclusive: cython.int) -> cython.int:
    """One more queue of the interface, or the first one (IFF_TUN_EXCL: there must be no such interface); or -errno."""
    fd: cython.int = open("/dev/net/tun", O_RDWR | O_NONBLOCK)
    if fd < 0:
        return -errno
    request: ifreq
    memset(cython.address(request), 0, cython.sizeof(request))
    i: cython.int = 0
    while i < 15 and name[i]:
        request.ifr_name[i] = name[i]
        i += 1
    request.ifr_flags = cython.cast(cython.short, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE | exclusive)
    if ioctl(fd, TUNSETIFF, cython.address(request)) < 0:
        failed: cython.int = -errno
        close(fd)
        return failed
    return fd


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def prepare(fd: cython.int) -> cython.int:
    """Set header size and offloads of the device of this queue; 0 or -errno."""
    size: cython.int = cython.sizeof(VnetHeader)
    if ioctl(fd, TUNSETVNETHDRSZ, cython.address(size)) < 0:
        return -errno
    offload: cython.ulong = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6
    if ioctl(fd, TUNSETOFFLOAD, offload | TUN_F_TSO_ECN) < 0 and ioctl(fd, TUNSETOFFLOAD, offload) < 0:
        return -errno
    return 0


# ---- the driver of one queue ----


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def tap_device(
    device: cython.pointer[Device],
    fd: cython.int,
    inbox: cython.pointer[Inbox],
    memory: cython.pointer[uint8_t],
    malformed: cython.pointer[uint64_t],
) -> cython.int:
    """See tap.pxd. Buffers are not touched before frames need them, the lowest first: idle, they cost no memory."""
    tap: cython.pointer[Tap] = cython.cast(cython.pointer[Tap], calloc(1, cython.sizeof(Tap)))
    if not tap:
        return -ENOMEM
    tap.allocated = not inbox
    tap.inbox = inbox
    tap.buffers = memory if inbox else cython.cast(cython.pointer[uint8_t], malloc(FRAME_BYTES + FRAME_ROOM))
    if not tap.buffers:
        free(tap)
        return -ENOMEM
    tap.malformed = malformed
    device.self = tap
    device.fd = fd
    device.records = inbox != cython.NULL
    device.receive = tap_receive
    device.send = tap_send
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def tap_close(device: cython.pointer[Device]) -> cython.void:
    """Free what `tap_device` took; the descriptor stays open."""
    tap: cython.pointer[Tap] = cython.cast(cython.pointer[Tap], device.self)
    if tap.allocated:
        free(tap.buffers)
    free(tap)
    device.self = cython.NULL


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def tap_receive(device: cython.pointer[Device], frames: cython.pointer[Frame], most: cython.int) -> cython.int:
    """Take up to `most` frames, until the queue is empty or a good deal of bytes has come.

    They are packed one after the other: a batch of small ones stays in the caches nearest to us. With an inbox, each is
    in it as soon as it is here; and when the process dies between the two, `tap_probe` finds it.
    """
    tap: cython.pointer[Tap] = cython.cast(cython.pointer[Tap], device.self)
    taken: cython.int = 0
    at: uint32_t = 0
    if most > FRAMES:
        most = FRAMES
    while taken < most and at < FRAME_BYTES:
        frame: cython.pointer[Frame] = cython.address(frames[taken])
        buffer: cython.pointer[uint8_t] = tap.buffers + at
        if tap.inbox:
            await_frame(tap.inbox, at, buffer)
        size: cython.Py_ssize_t = read(device.fd, buffer, FRAME_ROOM)
        if size < 0:
            if errno == EINTR:
                continue
            return taken if taken or errno == EAGAIN else -errno
        if not take(buffer, size, frame):
            tap.malformed[0] += 1
            continue
        if tap.inbox:
            keep(tap.inbox, frame, at + cython.cast(uint32_t, cython.sizeof(VnetHeader)))
        at += (cython.cast(uint32_t, size) + CACHE_LINE - 1) & ~(CACHE_LINE - 1)
        taken += 1
    return taken


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def take(buffer: cython.pointer[uint8_t], size: cython.Py_ssize_t, frame: cython.pointer[Frame]) -> cython.bint:
    """What was read into `buffer`, as a frame. False: it is none."""
    header: cython.pointer[VnetHeader] = cython.cast(cython.pointer[VnetHeader], buffer)
    if size < cython.cast(cython.Py_ssize_t, cython.sizeof(VnetHeader) + SHORTEST):
        return False
    frame.data = buffer + cython.sizeof(VnetHeader)
    frame.length = cython.cast(uint32_t, size) - cython.cast(uint32_t, cython.sizeof(VnetHeader))
    # Either flag: the sender is on this host and left the checksum to us, or the kernel has looked at it.
    frame.checked = (header.flags & (VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID)) != 0
    frame.gso_size = header.gso_size if header.gso_type else 0
    return sensible(header, frame.length)


# ---- frames that outlive the process ----


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def await_frame(inbox: cython.pointer[Inbox], at: uint32_t, buffer: cython.pointer[uint8_t]) -> cython.void:
    """The next frame goes here: until then no Ethernet address stands in its place."""
    memset(buffer + cython.sizeof(VnetHeader), 0, 8)
    inbox.next = at
    barrier()


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def keep(inbox: cython.pointer[Inbox], frame: cython.pointer[Frame], at: uint32_t) -> cython.void:
    kept: cython.pointer[Kept] = cython.address(inbox.frames[inbox.count])
    kept.at = at
    kept.length = frame.length
    kept.checked = frame.checked
    barrier()
    inbox.count += 1


def tap_probe(inbox: cython.pointer[Inbox], memory: cython.pointer[uint8_t]) -> cython.void:
    """A process has died, perhaps right after it had read a frame: if that is so, put the frame into the inbox.

    How long it is says its IPv4 header, which is checked like any other when the frame is handled.
    """
    at: uint32_t = inbox.next
    frame: Frame
    length: uint32_t
    if inbox.count >= FRAMES or at >= FRAME_BYTES:
        return
    if inbox.count and inbox.frames[inbox.count - 1].at >= at:
        return  # it is there already
    header: cython.pointer[uint8_t] = memory + at + cython.sizeof(VnetHeader)
    if not (header[0] | header[1] | header[2] | header[3] | header[4] | header[5]):
        return
    length = SHORTEST + (cython.cast(uint32_t, header[SHORTEST + 2]) << 8 | header[SHORTEST + 3])
    if take(memory + at, length + cython.sizeof(VnetHeader), cython.address(frame)):
        keep(inbox, cython.address(frame), at + cython.cast(uint32_t, cython.sizeof(VnetHeader)))


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def sensible(header: cython.pointer[VnetHeader], length: uint32_t) -> cython.bint:
    """Whether a virtio-net header can belong to a frame of that length (cut off frames fill their buffer)."""
    if length + cython.sizeof(VnetHeader) >= FRAME_ROOM:
        return False
    if header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM:
        if cython.cast(uint32_t, header.csum_start) + header.csum_offset + 2 > length:
            return False
    kind: uint8_t = header.gso_type & cython.cast(uint8_t, 255 - VIRTIO_NET_HDR_GSO_ECN)
    if kind == VIRTIO_NET_HDR_GSO_NONE:
        return True
    if kind in (VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_HDR_GSO_UDP):
        return header.gso_size != 0
    return False


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def tap_send(device: cython.pointer[Device], segment: cython.pointer[cython.const[Outgoing]]) -> cython.int:
    """Send one segment, its checksum left to the kernel; 0 or -errno (EAGAIN: the kernel has no room)."""
    front: Front
    front.vnet.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM if segment.checksum_start else 0
    front.vnet.gso_type = VIRTIO_NET_HDR_GSO_NONE
    if segment.gso_size:
        front.vnet.gso_type = VIRTIO_NET_HDR_GSO_TCPV4 if segment.header[14] >> 4 == 4 else VIRTIO_NET_HDR_GSO_TCPV6
        if segment.header[segment.checksum_start + 13] & CWR:  # for the first of the segments alone
            front.vnet.gso_type |= VIRTIO_NET_HDR_GSO_ECN
    front.vnet.hdr_len = segment.header_length
    front.vnet.gso_size = segment.gso_size
    front.vnet.csum_start = segment.checksum_start
    front.vnet.csum_offset = segment.checksum_offset
    memcpy(front.header, segment.header, segment.header_length)
    size: cython.size_t = cython.sizeof(VnetHeader) + segment.header_length
    if segment.first_length and segment.first_length + segment.second_length <= SMALL:
        memcpy(front.header + segment.header_length, segment.first, segment.first_length)
        size += segment.first_length
        memcpy(front.header + size - cython.sizeof(VnetHeader), segment.second, segment.second_length)
        size += segment.second_length
    elif segment.first_length:
        return send_pieces(device.fd, cython.address(front), size, segment)
    while write(device.fd, cython.address(front), size) < 0:
        if errno != EINTR:
            return -errno
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def send_pieces(
    fd: cython.int, front: cython.pointer[Front], size: cython.size_t, segment: cython.pointer[cython.const[Outgoing]]
) -> cython.int:
    """Send the `size` bytes of `front` and the payload from where it lies; 0 or -errno."""
    pieces: iovec[3]
    pieces[0].iov_base = front
    pieces[0].iov_len = size
    pieces[1].iov_base = cython.cast(cython.p_void, segment.first)
    pieces[1].iov_len = segment.first_length
    pieces[2].iov_base = cython.cast(cython.p_void, segment.second)
    pieces[2].iov_len = segment.second_length
    count: cython.int = 3 if segment.second_length else 2
    while writev(fd, pieces, count) < 0:
        if errno != EINTR:
            return -errno
    return 0


# ---- one queue from Python, for tools and tests ----


@cython.final
@cython.cclass
class Queue:
    """The driver of one queue. The descriptor stays the caller's."""

    _device: Device
    _malformed: uint64_t

    def __cinit__(self, fd: cython.int):
        failed: cython.int = tap_device(
            cython.address(self._device), fd, cython.NULL, cython.NULL, cython.address(self._malformed)
        )
        if failed < 0:
            raise MemoryError

    def __dealloc__(self):
        if self._device.self:
            tap_close(cython.address(self._device))

    @property
    def malformed(self) -> int:
        """Frames dropped because their virtio-net header made no sense."""
        return self._malformed

    def receive(self) -> list[tuple[bytes, bool]]:
        """The frames that wait, each with whether its transport checksum needs no check. OSError as read() fails."""
        frames: Frame[64]
        count: cython.int = self._device.receive(cython.address(self._device), frames, FRAMES)
        if count < 0:
            raise OSError(-count, f"cannot read from the TAP: {os.strerror(-count)}")
        return [
            (cython.cast(cython.p_char, frames[i].data)[: frames[i].length], bool(frames[i].checked))
            for i in range(count)
        ]

    def send(self, header: bytes, payload: tuple[bytes, bytes] = (b"", b""), gso_size: int = 0) -> int:
        """Send a TCP segment whose checksum field holds the pseudo-header's sum. `header` is Ethernet, IPv4 (without
        options) and TCP; the payload is in two pieces, as where a ring wraps. 0 or -errno."""
        segment: Outgoing
        if len(header) > HEADROOM:
            raise ValueError(f"headers of {len(header)} bytes")
        first, second = payload
        memset(cython.address(segment), 0, cython.sizeof(segment))
        memcpy(segment.header, cython.cast(cython.p_char, header), len(header))
        segment.header_length = len(header)
        segment.gso_size = gso_size
        segment.checksum_start = 34
        segment.checksum_offset = TCP_CHECKSUM
        segment.first = cython.cast(cython.pointer[cython.const[uint8_t]], cython.cast(cython.p_char, first))
        segment.first_length = len(first)
        segment.second = cython.cast(cython.pointer[cython.const[uint8_t]], cython.cast(cython.p_char, second))
        segment.second_length = len(second)
        return self._device.send(cython.address(self._device), cython.address(segment))
