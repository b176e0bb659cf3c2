"""What every driver offers, and what goes through it."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef enum:
    HEADROOM = 128           # bytes for virtio-net, Ethernet, IPv4 and TCP headers
    OUTBOX = 512             # segments planned before they have to be sent

cdef struct Frame:           # one received frame; valid until the next receive
    uint8_t *data            # starts with the Ethernet header
    uint32_t length          # up to 64 KiB + headers (GSO)
    uint8_t checked          # the transport checksum is known to be good (or not needed: it never left this host)

cdef struct Outgoing:        # one segment, ready to go once the change that caused it is committed
    uint8_t header[HEADROOM] # Ethernet + IPv4 + TCP
    uint16_t header_length
    uint16_t gso_size        # payload bytes in each segment on the wire; 0: one segment
    uint16_t checksum_start  # offset in header of the TCP header, whose checksum field holds the pseudo-header's sum; the
                             # device (or the driver) completes it
    uint16_t loopback        # not for the device: back to our own input
    const uint8_t *first     # payload, in the send ring
    uint32_t first_length
    const uint8_t *second    # its continuation where the ring wraps
    uint32_t second_length

cdef struct Device:
    void *self
    int fd                   # readable when a frame waits
    int (*receive)(Device *device, Frame *frames, int most) noexcept nogil   # how many; 0 none; < 0 -errno
    int (*send)(Device *device, const Outgoing *segment) noexcept nogil      # 0; -errno (counted, never fatal)
