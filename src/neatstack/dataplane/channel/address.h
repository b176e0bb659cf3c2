/* An address of either family: the 16 bytes as they stand on the wire. Those of IPv4 are mapped (RFC 4291 section 2.5.5.2).
 *
 * SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 */
#ifndef NEAT_ADDRESS_H
#define NEAT_ADDRESS_H

/* Types come from the includer: <stdint.h>, or the kernel's for the steering program. */

#define NEAT_INLINE static inline __attribute__((always_inline))

struct neat_address {
    uint64_t hi, lo; /* the first and the last 8 bytes */
};

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define NEAT_MAPPED 0xffff0000u
#define NEAT_LAST_SHIFT 32
#define NEAT_PREFIX_SHIFT 0
#define NEAT_LOOPBACK6 (1ull << 56)
#define NEAT_WIRE64(v) __builtin_bswap64(v)
#define NEAT_WIRE32(v) __builtin_bswap32(v)
#else
#define NEAT_MAPPED 0x0000ffffu
#define NEAT_LAST_SHIFT 0
#define NEAT_PREFIX_SHIFT 32
#define NEAT_LOOPBACK6 1ull
#define NEAT_WIRE64(v) (v)
#define NEAT_WIRE32(v) (v)
#endif

/* The last four bytes as they stand: an IPv4 address in network byte order, if it is one. */
NEAT_INLINE uint32_t neat_v4(struct neat_address a)
{
    return (uint32_t)(a.lo >> NEAT_LAST_SHIFT);
}

NEAT_INLINE struct neat_address neat_map(uint32_t address_be)
{
    struct neat_address a = {0, (uint64_t)address_be << NEAT_LAST_SHIFT | (uint64_t)NEAT_MAPPED << NEAT_PREFIX_SHIFT};
    return a;
}

NEAT_INLINE int neat_is_v4(struct neat_address a)
{
    return !a.hi && (uint32_t)(a.lo >> NEAT_PREFIX_SHIFT) == NEAT_MAPPED;
}

NEAT_INLINE int neat_same(struct neat_address a, struct neat_address b)
{
    return !((a.hi ^ b.hi) | (a.lo ^ b.lo));
}

/* ::1, or in 127.0.0.0/8. */
NEAT_INLINE int neat_is_loopback(struct neat_address a)
{
    return !a.hi && (a.lo == NEAT_LOOPBACK6 || (neat_is_v4(a) && NEAT_WIRE32(neat_v4(a)) >> 24 == 127));
}

/* A group of hosts: ff00::/8, or 224.0.0.0/4. */
NEAT_INLINE int neat_is_multicast(struct neat_address a)
{
    return neat_is_v4(a) ? NEAT_WIRE32(neat_v4(a)) >> 28 == 14 : NEAT_WIRE64(a.hi) >> 56 == 0xff;
}

/* All nodes of the interface, or of the link: ff01::1 and ff02::1 (RFC 4291 section 2.7.1). */
NEAT_INLINE int neat_is_all_nodes(struct neat_address a)
{
    return a.lo == NEAT_LOOPBACK6 && (NEAT_WIRE64(a.hi) == 0xff01ull << 48 || NEAT_WIRE64(a.hi) == 0xff02ull << 48);
}

/* fe80::/10 */
NEAT_INLINE int neat_is_link_local(struct neat_address a)
{
    return NEAT_WIRE64(a.hi) >> 54 == 0xfe80 >> 6;
}

/* Whether the first bits of both, so many as `prefix` says, are the same. */
NEAT_INLINE int neat_matches(struct neat_address a, struct neat_address b, uint32_t prefix)
{
    uint64_t hi = NEAT_WIRE64(a.hi ^ b.hi), lo = NEAT_WIRE64(a.lo ^ b.lo);
    if (prefix <= 64)
        return !prefix || !(hi >> (64 - prefix));
    return !hi && (prefix >= 128 ? !lo : !(lo >> (128 - prefix)));
}

/* How many first bits of both are the same. */
NEAT_INLINE uint32_t neat_common(struct neat_address a, struct neat_address b)
{
    uint64_t hi = NEAT_WIRE64(a.hi ^ b.hi), lo = NEAT_WIRE64(a.lo ^ b.lo);
    return hi ? (uint32_t)__builtin_clzll(hi) : lo ? 64u + (uint32_t)__builtin_clzll(lo) : 128u;
}

/* No address: :: or 0.0.0.0. */
NEAT_INLINE int neat_is_any(struct neat_address a)
{
    return !(a.hi | neat_v4(a)) && (!a.lo || neat_is_v4(a));
}

#endif
