/* The hash that steers: one function for the steering program in the kernel, the replicas and the socket library.
 *
 * Multilinear over the flow as it stands in a packet that arrives here (source = the peer), keyed by three odd random
 * numbers of the stack page. Multiplying a counter by an odd constant and taking the top bits spreads consecutive source
 * ports evenly, so that even a few dozen connections of one client divide well; the manager draws keys until they do.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEAT_FLOWHASH_H
#define NEAT_FLOWHASH_H

/* Types come from the includer: <stdint.h>, or the kernel's for the steering program. */
static inline __attribute__((always_inline)) uint32_t neat_flow_hash(const uint64_t key[3], uint32_t source_be,
                                                                     uint32_t destination_be, uint16_t source_port_be,
                                                                     uint16_t destination_port_be)
{
    uint64_t ports = (uint64_t)__builtin_bswap16(source_port_be) + ((uint64_t)__builtin_bswap16(destination_port_be) << 16);
    uint64_t sum = key[0] * __builtin_bswap32(source_be) + key[1] * __builtin_bswap32(destination_be) + key[2] * ports;
    return (uint32_t)(sum >> 32);
}

/* Bucket of the indirection table. */
static inline __attribute__((always_inline)) uint32_t neat_bucket(uint32_t hash)
{
    return hash >> 24;
}

#endif
