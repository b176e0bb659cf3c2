/* The steering program: which queue of the TAP a frame goes to, decided in the kernel before it is queued.
 *
 * Attached by TUNSETSTEERINGEBPF. It partitions: all frames of one flow come to the replica that owns the flow, and
 * nothing about one replica is special. Its decisions, in this order:
 *
 *   TCP and UDP over IPv4    the flow's pin if it has one, else hash -> bucket -> indirection table
 *   fragments of UDP         hash of source, destination and identification, so that one replica sees the whole datagram;
 *                            it is delivered there, for UDP sockets are bound in every replica
 *   fragments of TCP         the first one goes with its flow, and those that follow it go with it. One that comes before the
 *                            first cannot be told whose it is: hash as above, and the segment is sent again one day
 *   ICMP errors              the flow whose packet they quote (RFC 792): one of ours, so its ends are swapped
 *   all else                 link: ARP, ICMP echo, all fragments of ICMP, IPv6, and what is too short to tell
 *
 * While a bucket moves, a SYN opens a flow of its next owner, which the program pins there at once, so that all packets that
 * follow go the same way; what has no pin and is no SYN belongs to the owner that the bucket still has.
 *
 * The maps are written by the manager, and outlive it: the keeper holds them. Queue i belongs to replica i.
 *
 * SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

typedef __u8 uint8_t;
typedef __u16 uint16_t;
typedef __u32 uint32_t;
typedef __u64 uint64_t;

#include "flowhash.h"
#include "steer.h"

enum { ETHERTYPE_IPV4 = 0x0800, PROTOCOL_ICMP = 1, PROTOCOL_TCP = 6, PROTOCOL_UDP = 17 };
enum { ICMP_UNREACHABLE = 3, ICMP_SOURCE_QUENCH = 4, ICMP_REDIRECT = 5, ICMP_TIME_EXCEEDED = 11, ICMP_PARAMETER_PROBLEM = 12 };
enum { MORE_FRAGMENTS = 0x2000, FRAGMENT_OFFSET = 0x1fff };
enum { ETHERNET_SIZE = 14, ICMP_SIZE = 8, TCP_FLAGS = 13 };
enum { TCP_SYN = 2, TCP_RST = 4, TCP_ACK = 16 };

struct ipv4 {
    uint8_t version_ihl, tos;
    uint16_t length_be, id_be, fragment_be;
    uint8_t ttl, protocol;
    uint16_t checksum;
    uint32_t source_be, destination_be;
};

struct ports {
    uint16_t source_be, destination_be;
};

struct start { /* of nearly every frame: one load, not three. Ethernet's 14 bytes leave the IPv4 header unaligned */
    uint8_t ethernet[12];
    uint16_t ethertype_be;
    struct ipv4 ip;
    struct ports ports; /* if the header has no options */
} __attribute__((packed));

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, uint32_t);
    __type(value, struct neat_steer_config);
} neat_config SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, NEAT_STEER_BUCKETS);
    __type(key, uint32_t);
    __type(value, uint32_t);
} neat_table SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, NEAT_STEER_PINS);
    __type(key, struct neat_steer_flow);
    __type(value, uint32_t);
} neat_pins SEC(".maps");

/* Where the first fragments of TCP segments went, for those that follow. Written here only; what is in the way of others goes. */
struct fragment {
    uint32_t source_be, destination_be, id_be;
};

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 4096);
    __type(key, struct fragment);
    __type(value, uint32_t);
} neat_fragments SEC(".maps");

/* What the table says about a flow's bucket. */
static __always_inline uint32_t entry_of(const struct neat_steer_config *config, const struct neat_steer_flow *flow)
{
    uint32_t bucket = neat_bucket(neat_flow_hash(config->hash_key, flow->source_be, flow->destination_be,
                                                 flow->source_port_be, flow->destination_port_be));
    const uint32_t *entry = bpf_map_lookup_elem(&neat_table, &bucket);
    return entry ? *entry : config->link_queue;
}

static __always_inline uint32_t by_bucket(const struct neat_steer_config *config, const struct neat_steer_flow *flow)
{
    return neat_steer_owner(entry_of(config, flow));
}

static __always_inline const uint32_t *pin_of(const struct neat_steer_config *config, const struct neat_steer_flow *flow)
{
    return config->pinned ? bpf_map_lookup_elem(&neat_pins, flow) : 0;
}

static __always_inline uint32_t by_flow(const struct neat_steer_config *config, const struct neat_steer_flow *flow)
{
    const uint32_t *pin = pin_of(config, flow);
    return pin ? *pin : by_bucket(config, flow);
}

/* A flow without a pin whose bucket moves; its TCP header is at `at`. A pin that somebody has made meanwhile counts. When
 * there is no room for one more, the flow is left to the owner. */
static __always_inline uint32_t while_moving(struct __sk_buff *skb, const struct neat_steer_flow *flow, uint32_t at,
                                             uint32_t entry)
{
    uint32_t next = neat_steer_next(entry);
    const uint32_t *pin;
    uint8_t flags;

    if (flow->protocol != PROTOCOL_TCP || bpf_skb_load_bytes(skb, at + TCP_FLAGS, &flags, 1) ||
        (flags & (TCP_SYN | TCP_ACK | TCP_RST)) != TCP_SYN)
        return neat_steer_owner(entry);
    if (!bpf_map_update_elem(&neat_pins, flow, &next, BPF_NOEXIST))
        return next;
    pin = bpf_map_lookup_elem(&neat_pins, flow);
    return pin ? *pin : neat_steer_owner(entry);
}

/* The flow of a TCP or UDP packet, whose header after IPv4's is at `at`. */
static __always_inline uint32_t by_packet(const struct neat_steer_config *config, struct __sk_buff *skb,
                                          const struct neat_steer_flow *flow, uint32_t at)
{
    const uint32_t *pin = pin_of(config, flow);
    if (pin)
        return *pin;
    uint32_t entry = entry_of(config, flow);
    return neat_steer_moves(entry) ? while_moving(skb, flow, at, entry) : entry;
}

static __always_inline int has_ports(uint8_t protocol)
{
    return protocol == PROTOCOL_TCP || protocol == PROTOCOL_UDP;
}

static __always_inline int is_error(uint8_t type)
{
    return type == ICMP_UNREACHABLE || type == ICMP_SOURCE_QUENCH || type == ICMP_REDIRECT ||
           type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETER_PROBLEM;
}

/* The error's ICMP header is at `at`; after it comes the header of the packet of ours that caused it. */
static __always_inline uint32_t by_quote(const struct neat_steer_config *config, struct __sk_buff *skb, uint32_t at)
{
    uint8_t type;
    struct ipv4 quoted;
    struct ports ports;
    struct neat_steer_flow flow = {};

    if (bpf_skb_load_bytes(skb, at, &type, 1) || !is_error(type))
        return config->link_queue;
    at += ICMP_SIZE;
    if (bpf_skb_load_bytes(skb, at, &quoted, sizeof(quoted)) || quoted.version_ihl >> 4 != 4 ||
        !has_ports(quoted.protocol) || quoted.source_be != config->address_be ||
        (quoted.fragment_be & bpf_htons(FRAGMENT_OFFSET)) ||
        bpf_skb_load_bytes(skb, at + (quoted.version_ihl & 15) * 4, &ports, sizeof(ports)))
        return config->link_queue;
    flow.source_be = quoted.destination_be;
    flow.destination_be = quoted.source_be;
    flow.source_port_be = ports.destination_be;
    flow.destination_port_be = ports.source_be;
    flow.protocol = quoted.protocol;
    return by_flow(config, &flow);
}

/* `start` has a fragment of TCP or UDP. */
static __always_inline uint32_t by_fragment(const struct neat_steer_config *config, struct __sk_buff *skb,
                                            const struct start *start, uint32_t header)
{
    struct neat_steer_flow flow = {.source_be = start->ip.source_be, .destination_be = start->ip.destination_be};
    struct fragment fragment = {start->ip.source_be, start->ip.destination_be, start->ip.id_be};
    struct ports ports;
    const uint32_t *first;
    uint32_t queue;

    if (start->ip.protocol == PROTOCOL_TCP && !(start->ip.fragment_be & bpf_htons(FRAGMENT_OFFSET)) &&
        !bpf_skb_load_bytes(skb, ETHERNET_SIZE + header, &ports, sizeof(ports))) {
        flow.source_port_be = ports.source_be;
        flow.destination_port_be = ports.destination_be;
        flow.protocol = PROTOCOL_TCP;
        queue = by_packet(config, skb, &flow, ETHERNET_SIZE + header);
        bpf_map_update_elem(&neat_fragments, &fragment, &queue, BPF_ANY);
        return queue;
    }
    first = start->ip.protocol == PROTOCOL_TCP ? bpf_map_lookup_elem(&neat_fragments, &fragment) : 0;
    if (first)
        return *first;
    flow.source_port_be = start->ip.id_be;
    return by_bucket(config, &flow);
}

SEC("socket")
int neat_steer(struct __sk_buff *skb)
{
    uint32_t zero = 0;
    struct start start;
    struct neat_steer_flow flow = {};
    uint32_t header, has_start;

    const struct neat_steer_config *config = bpf_map_lookup_elem(&neat_config, &zero);
    if (!config)
        return 0;
    /* a last fragment may be shorter than ports */
    has_start = !bpf_skb_load_bytes(skb, 0, &start, sizeof(start));
    if ((!has_start && bpf_skb_load_bytes(skb, 0, &start, sizeof(start) - sizeof(start.ports))) ||
        start.ethertype_be != bpf_htons(ETHERTYPE_IPV4))
        return config->link_queue;
    header = (start.ip.version_ihl & 15) * 4;
    if (start.ip.version_ihl >> 4 != 4 || header < sizeof(struct ipv4))
        return config->link_queue;
    if (start.ip.fragment_be & bpf_htons(MORE_FRAGMENTS | FRAGMENT_OFFSET))
        return has_ports(start.ip.protocol) ? by_fragment(config, skb, &start, header) : config->link_queue;
    if (!has_ports(start.ip.protocol))
        return start.ip.protocol == PROTOCOL_ICMP ? by_quote(config, skb, ETHERNET_SIZE + header) : config->link_queue;
    if (!has_start || (header > sizeof(struct ipv4) &&
                       bpf_skb_load_bytes(skb, ETHERNET_SIZE + header, &start.ports, sizeof(start.ports))))
        return config->link_queue;
    flow.source_be = start.ip.source_be;
    flow.destination_be = start.ip.destination_be;
    flow.source_port_be = start.ports.source_be;
    flow.destination_port_be = start.ports.destination_be;
    flow.protocol = start.ip.protocol;
    return by_packet(config, skb, &flow, ETHERNET_SIZE + header);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
