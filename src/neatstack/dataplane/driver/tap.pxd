"""The TAP driver, as the layers above build it; and what it takes from the kernel's headers."""

from libc.stdint cimport uint8_t, uint16_t, uint64_t

from neatstack.dataplane.driver.device cimport HEADROOM, Device, Inbox

cdef extern from "<linux/if.h>" nogil:
    enum:
        IFNAMSIZ
    ctypedef struct ifreq "struct ifreq":
        char ifr_name[16]
        short ifr_flags

cdef extern from "<linux/if_tun.h>" nogil:
    enum:
        IFF_TAP
        IFF_NO_PI
        IFF_VNET_HDR
        IFF_MULTI_QUEUE
        IFF_TUN_EXCL
        TUNSETIFF
        TUNSETVNETHDRSZ
        TUNSETOFFLOAD
        TUN_F_CSUM
        TUN_F_TSO4
        TUN_F_TSO6
        TUN_F_TSO_ECN

cdef extern from "<linux/virtio_net.h>" nogil:
    enum:
        VIRTIO_NET_HDR_F_NEEDS_CSUM
        VIRTIO_NET_HDR_F_DATA_VALID
        VIRTIO_NET_HDR_GSO_NONE
        VIRTIO_NET_HDR_GSO_TCPV4
        VIRTIO_NET_HDR_GSO_UDP
        VIRTIO_NET_HDR_GSO_TCPV6
        VIRTIO_NET_HDR_GSO_ECN
    ctypedef struct VnetHeader "struct virtio_net_hdr":
        uint8_t flags
        uint8_t gso_type
        uint16_t hdr_len
        uint16_t gso_size
        uint16_t csum_start
        uint16_t csum_offset

cdef enum:
    SMALL = 512              # bytes of payload up to which a copy is cheaper than another piece for the kernel
    FRONT = HEADROOM + SMALL

cdef struct Front:           # what one write() takes; without padding: a virtio_net_hdr has 10 bytes
    VnetHeader vnet
    uint8_t header[FRONT]    # the headers, and the payload if it is small

cdef extern from "<sched.h>" nogil:
    enum:
        CLONE_NEWNET
    int setns(int fd, int kind)

# Make `device` the driver of one queue. `malformed` counts the frames whose virtio-net header makes no sense.
# With an inbox, which lies with `memory` for the frames (FRAME_BYTES + FRAME_ROOM) in the state region, frames outlive the
# process; without (both NULL) they do not. 0, or -ENOMEM.
cdef int tap_device(Device *device, int fd, Inbox *inbox, uint8_t *memory, uint64_t *malformed) noexcept nogil
cdef void tap_probe(Inbox *inbox, uint8_t *memory) noexcept nogil
cdef void tap_close(Device *device) noexcept nogil
