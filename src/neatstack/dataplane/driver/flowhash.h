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

#include "../channel/address.h"

/* An address as one number: that of IPv4 itself; that of IPv6 mixed with the key, so that nobody can aim at equal ones. */
NEAT_INLINE uint32_t neat_fold_address(const uint64_t key[3], struct neat_address a)
{
    uint64_t mixed;
    if (neat_is_v4(a))
        return __builtin_bswap32(neat_v4(a));
    mixed = (a.hi ^ key[1]) * key[0];
    mixed = ((mixed ^ mixed >> 32) + a.lo) * key[2];
    mixed = (mixed ^ mixed >> 32) * key[1];
    return (uint32_t)(mixed >> 32);
}

NEAT_INLINE uint32_t neat_flow_hash(const uint64_t key[3], struct neat_address source, struct neat_address destination,
                                    uint16_t source_port_be, uint16_t destination_port_be)
{
    uint64_t ports = (uint64_t)__builtin_bswap16(source_port_be) + ((uint64_t)__builtin_bswap16(destination_port_be) << 16);
    uint64_t sum = key[0] * neat_fold_address(key, source) + key[1] * neat_fold_address(key, destination) +
                   key[2] * ports;
    return (uint32_t)(sum >> 32);
}

/* Bucket of the indirection table. */
static inline __attribute__((always_inline)) uint32_t neat_bucket(uint32_t hash)
{
    return hash >> 24;
}

#endif
