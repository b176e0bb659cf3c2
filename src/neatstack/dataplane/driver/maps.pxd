"""What the steering program reads from its maps (steer.h)."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from neatstack.dataplane.channel.address cimport Address

cdef extern from "neatstack/dataplane/driver/steer.h" nogil:
    enum:
        NEAT_STEER_ADDRESSES
        NEAT_STEER_BUCKETS
        NEAT_STEER_PINS
    uint32_t steer_entry "neat_steer_entry"(uint32_t owner, uint32_t next)
    uint32_t steer_owner "neat_steer_owner"(uint32_t entry)
    bint steer_moves "neat_steer_moves"(uint32_t entry)
    uint32_t steer_next "neat_steer_next"(uint32_t entry)
    ctypedef struct SteerConfig "struct neat_steer_config":
        uint64_t hash_key[3]
        Address own[8]
        uint32_t own_count
        uint32_t link_queue
        uint32_t pinned
        uint32_t pad
    ctypedef struct SteerFlow "struct neat_steer_flow":
        Address source_be
        Address destination_be
        uint16_t source_port_be
        uint16_t destination_port_be
        uint8_t protocol
        uint8_t pad[3]
