/* The steering program: which queue of the TAP a frame goes to, decided in the kernel before it is queued.
 *
 * Attached by TUNSETSTEERINGEBPF. It partitions: all frames of one flow come to the replica that owns the flow, and
 * nothing about one replica is special. Its decisions, in this order:
 *
 *   TCP and UDP              the flow's pin if it has one, else hash -> bucket -> indirection table
 *   fragments of UDP         hash of source, destination and identification, so that one replica sees the whole datagram;
 *                            it is delivered there, for UDP sockets are bound in every replica
 *   fragments of TCP         the first one goes with its flow, and those that follow it go with it. One that comes before the
 *                            first cannot be told whose it is: hash as above, and the segment is sent again one day
 *   ICMP errors              the flow whose packet they quote (RFC 792): one of ours, so its ends are swapped
 *   all else                 link: ARP, neighbour discovery, echo, redirects, all fragments of ICMP, and what is too short to tell
 *
 * IPv6 goes the same way, once its extension headers (a few; more are link's, which drops them) have been passed.
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

enum { ETHERTYPE_IPV4 = 0x0800, ETHERTYPE_IPV6 = 0x86dd, PROTOCOL_ICMP = 1, PROTOCOL_TCP = 6, PROTOCOL_UDP = 17 };
enum { HOP_BY_HOP = 0, ROUTING = 43, FRAGMENT = 44, PROTOCOL_ICMP6 = 58, DESTINATION = 60, MOST_HEADERS = 4, ICMP6_INFORMATIONAL = 128 };
enum { ICMP_UNREACHABLE = 3, ICMP_SOURCE_QUENCH = 4, ICMP_TIME_EXCEEDED = 11, ICMP_PARAMETER_PROBLEM = 12 };
enum { MORE_FRAGMENTS = 0x2000, FRAGMENT_OFFSET = 0x1fff };
enum { ETHERNET_SIZE = 14, IPV6_SIZE = 40, ICMP_SIZE = 8, FRAGMENT_SIZE = 8, TCP_FLAGS = 13 };
enum { TCP_SYN = 2, TCP_RST = 4, TCP_ACK = 16 };

struct ipv4 {
    uint8_t version_ihl, tos;
    uint16_t length_be, id_be, fragment_be;
    uint8_t ttl, protocol;
    uint16_t checksum;
    uint32_t source_be, destination_be;
};

struct ipv6 {
    uint32_t version_class_label_be;
    uint16_t length_be;
    uint8_t next, hop_limit;
    struct neat_address source_be, destination_be;
} __attribute__((packed));

struct extension { /* also the fragment header's beginning */
    uint8_t next, length;
    uint16_t place_be;
    uint32_t id_be;
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
    struct neat_address source_be, destination_be;
    uint32_t id_be, pad;
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
    return type == ICMP_UNREACHABLE || type == ICMP_SOURCE_QUENCH || type == ICMP_TIME_EXCEEDED ||
           type == ICMP_PARAMETER_PROBLEM;
}

static __always_inline int is_own(const struct neat_steer_config *config, struct neat_address address)
{
    for (uint32_t k = 0; k < NEAT_STEER_ADDRESSES; k++)
        if (k < config->own_count && neat_same(config->own[k], address))
            return 1;
    return 0;
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
        !has_ports(quoted.protocol) || !is_own(config, neat_map(quoted.source_be)) ||
        (quoted.fragment_be & bpf_htons(FRAGMENT_OFFSET)) ||
        bpf_skb_load_bytes(skb, at + (quoted.version_ihl & 15) * 4, &ports, sizeof(ports)))
        return config->link_queue;
    flow.source_be = neat_map(quoted.destination_be);
    flow.destination_be = neat_map(quoted.source_be);
    flow.source_port_be = ports.destination_be;
    flow.destination_port_be = ports.source_be;
    flow.protocol = quoted.protocol;
    return by_flow(config, &flow);
}

/* `start` has a fragment of TCP or UDP. */
static __always_inline uint32_t by_fragment(const struct neat_steer_config *config, struct __sk_buff *skb,
                                            const struct start *start, uint32_t header)
{
    struct neat_steer_flow flow = {.source_be = neat_map(start->ip.source_be),
                                   .destination_be = neat_map(start->ip.destination_be)};
    struct fragment fragment = {flow.source_be, flow.destination_be, start->ip.id_be, 0};
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

/* ICMPv6 at `at`: an error goes with the flow that it quotes, which has no extension headers but perhaps a fragment's. */
static __always_inline uint32_t by_quote6(const struct neat_steer_config *config, struct __sk_buff *skb, uint32_t at)
{
    uint8_t type;
    struct ipv6 quoted;
    struct extension fragment;
    struct ports ports;
    struct neat_steer_flow flow = {};

    if (bpf_skb_load_bytes(skb, at, &type, 1) || !type || type >= ICMP6_INFORMATIONAL)
        return config->link_queue;
    at += ICMP_SIZE;
    if (bpf_skb_load_bytes(skb, at, &quoted, sizeof(quoted)) || !is_own(config, quoted.source_be))
        return config->link_queue;
    at += IPV6_SIZE;
    if (quoted.next == FRAGMENT) {
        if (bpf_skb_load_bytes(skb, at, &fragment, sizeof(fragment)) || fragment.place_be & bpf_htons(0xfff8))
            return config->link_queue;
        quoted.next = fragment.next;
        at += FRAGMENT_SIZE;
    }
    if (!has_ports(quoted.next) || bpf_skb_load_bytes(skb, at, &ports, sizeof(ports)))
        return config->link_queue;
    flow.source_be = quoted.destination_be;
    flow.destination_be = quoted.source_be;
    flow.source_port_be = ports.destination_be;
    flow.destination_port_be = ports.source_be;
    flow.protocol = quoted.next;
    return by_flow(config, &flow);
}

/* A fragment over IPv6, whose header is at `at`. */
static __always_inline uint32_t by_fragment6(const struct neat_steer_config *config, struct __sk_buff *skb,
                                             struct neat_steer_flow *flow, const struct extension *header, uint32_t at)
{
    struct fragment fragment = {flow->source_be, flow->destination_be, header->id_be, 0};
    struct ports ports;
    const uint32_t *first;
    uint32_t queue;

    if (header->next == PROTOCOL_TCP && !(header->place_be & bpf_htons(0xfff8)) &&
        !bpf_skb_load_bytes(skb, at + FRAGMENT_SIZE, &ports, sizeof(ports))) {
        flow->source_port_be = ports.source_be;
        flow->destination_port_be = ports.destination_be;
        flow->protocol = PROTOCOL_TCP;
        queue = by_packet(config, skb, flow, at + FRAGMENT_SIZE);
        bpf_map_update_elem(&neat_fragments, &fragment, &queue, BPF_ANY);
        return queue;
    }
    first = header->next == PROTOCOL_TCP ? bpf_map_lookup_elem(&neat_fragments, &fragment) : 0;
    if (first)
        return *first;
    flow->source_port_be = (uint16_t)header->id_be;
    flow->destination_port_be = (uint16_t)(header->id_be >> 16);
    return by_bucket(config, flow);
}

static __always_inline uint32_t by_ipv6(const struct neat_steer_config *config, struct __sk_buff *skb)
{
    struct ipv6 ip;
    struct extension header;
    struct ports ports;
    struct neat_steer_flow flow = {};
    uint32_t at = ETHERNET_SIZE + IPV6_SIZE;

    if (bpf_skb_load_bytes(skb, ETHERNET_SIZE, &ip, sizeof(ip)))
        return config->link_queue;
    flow.source_be = ip.source_be;
    flow.destination_be = ip.destination_be;
    for (int k = 0; k < MOST_HEADERS; k++) {
        if (has_ports(ip.next)) {
            if (bpf_skb_load_bytes(skb, at, &ports, sizeof(ports)))
                return config->link_queue;
            flow.source_port_be = ports.source_be;
            flow.destination_port_be = ports.destination_be;
            flow.protocol = ip.next;
            return by_packet(config, skb, &flow, at);
        }
        if (ip.next == PROTOCOL_ICMP6)
            return by_quote6(config, skb, at);
        if (ip.next != HOP_BY_HOP && ip.next != ROUTING && ip.next != DESTINATION && ip.next != FRAGMENT)
            break;
        if (bpf_skb_load_bytes(skb, at, &header, sizeof(header)))
            return config->link_queue;
        if (ip.next == FRAGMENT && header.place_be & bpf_htons(0xfff9)) /* else it is whole (RFC 6946) */
            return header.next == PROTOCOL_ICMP6 ? config->link_queue : by_fragment6(config, skb, &flow, &header, at);
        at += ip.next == FRAGMENT ? FRAGMENT_SIZE : (header.length + 1) * 8;
        ip.next = header.next;
    }
    /* a replica answers what nobody knows (RFC 8200 section 4) */
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
    if (has_start && start.ethertype_be == bpf_htons(ETHERTYPE_IPV6))
        return by_ipv6(config, skb);
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
    flow.source_be = neat_map(start.ip.source_be);
    flow.destination_be = neat_map(start.ip.destination_be);
    flow.source_port_be = start.ports.source_be;
    flow.destination_port_be = start.ports.destination_be;
    flow.protocol = start.ip.protocol;
    return by_packet(config, skb, &flow, ETHERNET_SIZE + header);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
