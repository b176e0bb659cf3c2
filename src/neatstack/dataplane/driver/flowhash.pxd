"""The hash that steers (flowhash.h)."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from neatstack.dataplane.channel.address cimport Address

cdef extern from "neatstack/dataplane/driver/flowhash.h" nogil:
    uint32_t flow_hash "neat_flow_hash"(const uint64_t *key, Address source, Address destination, uint16_t source_port_be, uint16_t destination_port_be)
    uint32_t fold_address "neat_fold_address"(const uint64_t *key, Address address)
    uint32_t bucket "neat_bucket"(uint32_t hash)
