"""What every driver offers, and what goes through it."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef enum:
    FRAMES = 64              # taken from the device in one batch
    FRAME_BYTES = 512 * 1024 # after which a batch stops: more would only push out the caches
    FRAME_ROOM = 68 * 1024   # for one frame: 64 KiB of IP packet and all that stands before it
    HEADROOM = 128           # bytes for virtio-net, Ethernet, IPv4 and TCP headers
    OUTBOX = 512             # segments planned before they have to be sent

cdef struct Frame:           # one received frame; valid until the next receive
    uint8_t *data            # starts with the Ethernet header
    uint32_t length          # up to 64 KiB + headers (GSO)
    uint16_t gso_size        # payload bytes that each segment had before the device put them together; 0: it was one
    uint8_t checked          # the transport checksum is known to be good (or not needed: it never left this host)

cdef struct Kept:            # where in the memory of the inbox a frame lies
    uint32_t at
    uint32_t length
    uint32_t checked

cdef struct Inbox:           # frames that were taken from the device, in memory that outlives the process
    uint32_t count           # of the batch in hand
    uint32_t done            # those whose change is committed, and that need not be taken again
    uint32_t next            # where the driver puts the next frame; `probe` of the driver tells whether it has
    Kept frames[FRAMES]

cdef struct Outgoing:        # one segment, ready to go once the change that caused it is committed
    uint8_t header[HEADROOM] # Ethernet + IP + TCP
    uint16_t header_length
    uint16_t gso_size        # payload bytes in each segment on the wire; 0: one segment
    uint16_t checksum_start  # offset in header of the transport header, whose checksum field holds the pseudo-header's sum; the
                             # device (or the driver) completes it. 0: there is nothing to complete
    uint16_t checksum_offset # of that field in the transport header
    uint16_t transport       # where in header that of TCP, UDP or ICMP starts
    uint16_t loopback        # not for the device: back to our own input
    const uint8_t *first     # payload, in the send ring
    uint32_t first_length
    const uint8_t *second    # its continuation where the ring wraps
    uint32_t second_length

cdef struct Device:
    void *self
    int fd                   # readable when a frame waits
    bint records             # receive() itself writes the inbox, frame by frame
    int (*receive)(Device *device, Frame *frames, int most) noexcept nogil   # how many; 0 none; < 0 -errno
    int (*send)(Device *device, const Outgoing *segment) noexcept nogil      # 0; -errno (counted, never fatal)
