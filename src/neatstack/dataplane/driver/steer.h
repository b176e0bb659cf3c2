/* What the steering program reads from its maps; written by the manager through steer.py.
 *
 * SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 */
#ifndef NEAT_STEER_H
#define NEAT_STEER_H

/* Types come from the includer: <stdint.h>, or the kernel's for the steering program. */

#include "../channel/address.h"

enum {
    NEAT_STEER_ADDRESSES = 8,  /* NEAT_MAX_ADDRESSES */
    NEAT_STEER_BUCKETS = 256,  /* NEAT_BUCKETS: entries of the indirection table */
    NEAT_STEER_PINS = 1 << 20, /* flows that can be pinned at one time; memory is taken as they are */
};

/* An entry of the indirection table: the replica that owns the bucket, and while the bucket moves also the next one.
 * One number, so that both change in one step. */
static inline __attribute__((always_inline)) uint32_t neat_steer_entry(uint32_t owner, uint32_t next)
{
    return owner | (next + 1) << 8;
}

static inline __attribute__((always_inline)) uint32_t neat_steer_owner(uint32_t entry)
{
    return entry & 0xff;
}

static inline __attribute__((always_inline)) uint32_t neat_steer_moves(uint32_t entry)
{
    return entry >> 8; /* 0: the bucket does not move */
}

static inline __attribute__((always_inline)) uint32_t neat_steer_next(uint32_t entry)
{
    return (entry >> 8) - 1;
}

struct neat_steer_config {
    uint64_t hash_key[3];
    struct neat_address own[NEAT_STEER_ADDRESSES]; /* an ICMP error that quotes another's packet is none of a replica's business */
    uint32_t own_count;
    uint32_t link_queue;
    uint32_t pinned; /* 0: there are no pins and no bucket moves, do not look for pins */
    uint32_t pad;
};

struct neat_steer_flow { /* as it stands in a packet that arrives here: source = the peer */
    struct neat_address source_be, destination_be;
    uint16_t source_port_be, destination_port_be;
    uint8_t protocol, pad[3];
};

#endif
