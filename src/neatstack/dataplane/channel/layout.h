/* The memory that processes share, byte by byte: the contract between replicas, programs and the manager.
 *
 * Included by the socket library (C) and declared to the data plane by layout.pxd. Every structure names its one
 * writer; everybody else maps it to read. All integers are in the host's byte order; addresses and ports are in
 * network byte order where the name ends in `_be`. Whoever reads what a less trusted process wrote copies it once,
 * checks the copy and uses the copy.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEAT_LAYOUT_H
#define NEAT_LAYOUT_H

#include <stdint.h>

#include "address.h"

#define NEAT_MAGIC 0x5441454eu /* "NEAT" */
#define NEAT_LAYOUT_VERSION 15u
#define NEAT_MAX_REPLICAS 16
#define NEAT_MAX_CHANNELS 256 /* programs at one time, and one; a program has the same channel number in every replica */
#define NEAT_IN_FLIGHT 255 /* no program's channel: it holds the sockets that are on their way from program to program */
#define NEAT_MAX_ADDRESSES 8  /* of the stack */
#define NEAT_MAX_ROUTES 64
#define NEAT_NO_FIN_WAIT 255
#define NEAT_BUCKETS 256      /* of the indirection table */

/* Entries of the stack page's table. A plain number: that replica has the bucket. While the bucket moves to another, nobody
 * opens connections in it (so that who looks for its own number finds none), and of the SYNs that come in */
#define NEAT_TABLE_MOVING 0x40u /* whoever is steered one takes it, */
#define NEAT_TABLE_MOVED 0x80u  /* with the next owner in the lower bits: only that one takes it */

#define NEAT_SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), "size of " #type)

/* ---- stack page: one for the stack. Writer: the manager. Mapped read-only by replicas and programs. ---- */

NEAT_SIZE(struct neat_address, 16);

enum neat_own_flag {
    NEAT_OWN_DEPRECATED = 1, /* RFC 4862 section 5.5.4: no source of what is new, if there is another */
    NEAT_OWN_TENTATIVE = 2,  /* somebody else may have it: not used at all */
};

struct neat_own { /* an address of the stack */
    struct neat_address address;
    uint32_t prefix; /* bits that the hosts on the link share, of 128 */
    uint32_t flags;  /* enum neat_own_flag */
};

struct neat_route {
    struct neat_address destination;
    struct neat_address gateway; /* all zero: its hosts are on the link */
    uint32_t prefix;             /* bits of destination, of 128 */
    uint32_t pad;
};

enum neat_without {
    NEAT_WITHOUT_TIMESTAMPS = 1, /* RFC 7323 */
    NEAT_WITHOUT_SACK = 2,       /* RFC 2018 */
    NEAT_WITHOUT_SCALING = 4,    /* of windows, RFC 7323 */
    NEAT_WITHOUT_RESTART = 8,    /* of slow start after a pause, RFC 5681 section 4.1 */
};

enum neat_fastopen { /* RFC 7413; numbered as Linux's tcp_fastopen */
    NEAT_FASTOPEN_CLIENT = 1,
    NEAT_FASTOPEN_SERVER = 2,
    NEAT_FASTOPEN_CLIENT_BARE = 4,      /* text goes with a SYN without a cookie */
    NEAT_FASTOPEN_SERVER_BARE = 0x200,  /* and is taken without one */
    NEAT_FASTOPEN_LISTENERS = 0x400,    /* all listeners have it, not only those with TCP_FASTOPEN */
};

struct neat_stack_page {
    uint32_t magic, version;
    uint32_t generation;  /* bumped after every change of the fields below */
    uint32_t address_be;  /* the first IPv4 address of the stack */
    uint32_t netmask_be;
    uint32_t gateway_be;  /* 0: none */
    uint32_t mtu;         /* of the device, bytes of IP packet */
    uint32_t mtu6;        /* of the link for IPv6; 0: there is no IPv6 */
    uint8_t ttl;          /* of IPv4 packets, where a program says nothing */
    uint8_t hop_limit;    /* of IPv6 packets */
    uint16_t icmp_errors; /* that a replica sends in a second at most */
    uint32_t replicas;    /* the maximum: slots 0..replicas-1 exist */
    uint32_t active;      /* bit i: replica i takes new connections */
    uint8_t mac[6];
    uint8_t ecn;          /* RFC 3168: 0: no; 1: ask for it; 2: only grant it */
    uint8_t receive_shift; /* RFC 7323 section 2: of windows that replicas offer, up to 14; 0: 7 */
    uint32_t link_queue;  /* the device queue of link */
    uint32_t tcp_backlog_max;
    uint16_t without;     /* enum neat_without: what TCP of this stack goes without */
    uint16_t fastopen;    /* enum neat_fastopen */
    uint64_t hash_key[3]; /* of neat_flow_hash(): random, odd */
    struct neat_address gateway6; /* IPv6; all zero: none */
    uint32_t own_count, route_count;
    uint32_t unsent_most; /* bytes, TCP_NOTSENT_LOWAT of sockets that are told none; 0: no limit */
    uint32_t pad;
    struct neat_own own[NEAT_MAX_ADDRESSES]; /* all addresses, of both families */
    struct neat_route routes[NEAT_MAX_ROUTES];
    uint8_t table[NEAT_BUCKETS]; /* indirection table: bucket -> replica, or in motion, see NEAT_TABLE_MOVING */
};

/* ---- replica page: one for each replica. Writer: the replica. Mapped read-only by programs and the manager. ---- */

#define NEAT_PATHS 118 /* as many as fill the page */
#define NEAT_FAST 64   /* a power of two */

struct neat_path { /* what the path to a host can carry, when it is less than the device (RFC 1191) */
    struct neat_address remote_be;
    uint64_t until_ns; /* CLOCK_MONOTONIC: known no longer */
    uint32_t mtu;      /* bytes; 0: nothing is known, or it is just being written */
    uint32_t narrow;   /* it can carry less than that */
};
NEAT_SIZE(struct neat_path, 32);

struct neat_replica_page {
    uint32_t magic, version;
    uint32_t incarnation;
    uint32_t sleep_seq;   /* odd: the replica sleeps (or is about to); ring its doorbell */
    uint64_t progress_ns; /* CLOCK_MONOTONIC when it last finished a batch */
    uint64_t slept_ns;    /* ever, by all incarnations; a sleep counts when it is over */
    uint8_t pad[32];
    uint32_t fast[NEAT_FAST]; /* neat_fast_tag() of hosts whose cookie is known (RFC 7413), each in its place; 0: none */
    struct neat_path paths[NEAT_PATHS]; /* each in its neat_path_place() */
};
NEAT_SIZE(struct neat_replica_page, 4096);

/* What stands in `fast` for a host, at the tag % NEAT_FAST. Two hosts with one tag are taken for one, and do no harm. */
NEAT_INLINE uint32_t neat_fast_tag(struct neat_address remote)
{
    uint64_t word = (remote.hi ^ remote.lo) * UINT64_C(0x9e3779b97f4a7c15);
    return (uint32_t)(word >> 32) ? (uint32_t)(word >> 32) : 1;
}

/* Where in `paths` a host's is remembered: one that falls on the same place is forgotten for it. */
NEAT_INLINE uint32_t neat_path_place(struct neat_address remote)
{
    uint64_t word = remote.hi ^ remote.lo;
    uint32_t last = (uint32_t)(word ^ word >> 32);
    return ((last ^ last >> 8 ^ last >> 16) >> 8 & 0xff) % NEAT_PATHS;
}

/* ---- channel: what one program and one replica share; one memfd. ----
 *
 *   0                 header       writer: the manager, once, before anybody else has it. Its readers copy it when they
 *                                  map the channel and never look again: a program could change it later.
 *   128               program      writer: the program
 *   256               replica      writer: the replica
 *   commands_at       entries      writer: the program   (ring: program -> replica)
 *   events_at         entries      writer: the replica   (ring: replica -> program)
 *   sockets_at        sockets      each socket: two lines by the program, two by the replica
 *   asides_at         neat_aside   [sockets] (what is seldom of use; writers: see there)
 *   buffers_at        byte rings   socket i: receive ring of rx_size bytes (writer: the replica), then
 *                                  send ring of tx_size bytes (writer: the program)
 */

struct neat_channel_header {
    uint32_t magic, version;
    uint32_t replica, channel;
    uint64_t size;
    uint32_t sockets; /* slots, a power of two */
    uint32_t entries; /* of each ring, a power of two, at least `sockets` */
    uint32_t rx_size, tx_size; /* powers of two, at least 4096 */
    uint64_t commands_at, events_at, sockets_at, buffers_at, asides_at; /* byte offsets, page aligned */
    uint8_t pad[48];
};
NEAT_SIZE(struct neat_channel_header, 128);

struct neat_channel_program {
    uint32_t commands_head; /* entries ever put into the command ring */
    uint32_t events_tail;   /* entries ever taken from the event ring; published before the sockets are looked at */
    uint32_t sleep_seq;     /* odd: a thread of the program sleeps (or is about to); ring the program's doorbell */
    uint32_t slots_used;    /* no slot from here on was ever used; grows before such a slot is */
    uint8_t pad[112];
};
NEAT_SIZE(struct neat_channel_program, 128);

struct neat_channel_replica {
    uint32_t commands_tail; /* entries ever taken from the command ring: NEAT_OP_LOOK before the socket is looked at,
                               NEAT_OP_DETACH after the change is committed */
    uint32_t events_head;
    uint32_t rescan;        /* bumped when the event ring was full: the program looks at all its sockets */
    uint8_t pad[116];
};
NEAT_SIZE(struct neat_channel_replica, 128);

/* An entry says which socket to look at: what is wanted or has happened stands in the socket itself, so that an entry
 * may be repeated without harm. */
enum neat_op {
    NEAT_OP_LOOK = 0,   /* commands and events: the other side's lines of this socket have changed */
    NEAT_OP_DETACH = 1, /* command: this program has closed its last descriptor of the socket; when no program holds it
                           any more, the connection is closed as close() would */
};

struct neat_entry {
    uint16_t channel; /* whose memory the socket lives in: after fork() a program also serves its parent's sockets */
    uint16_t op;
    uint32_t socket;
};
NEAT_SIZE(struct neat_entry, 8);

/* ---- socket ----
 *
 * A slot is free when both `role` is NEAT_ROLE_FREE and the replica's state is NEAT_STATE_FREE. Only the program
 * whose channel it is takes free slots: it writes its lines, then bumps `generation`, then sends NEAT_OP_LOOK.
 *
 * Cursors count bytes since the connection opened, modulo 2^32; a byte with cursor c lies in its ring at
 * (c - base) & (size - 1). A side that fills a ring may move that ring's base, only while the ring is empty and (receive
 * ring) nothing out of order waits in it, and before it publishes the new head: so small requests touch one page only.
 */

enum neat_role {
    NEAT_ROLE_FREE = 0,
    NEAT_ROLE_CONNECT = 1,  /* open a connection from local (0: choose) to remote */
    NEAT_ROLE_ACCEPT = 2,   /* posted: may be given a connection of `listener` */
    NEAT_ROLE_WITHDRAW = 3, /* a posted slot is asked back. Not given out yet: the replica sets NEAT_STATE_FREE. Given out and
                               not yet NEAT_FLAG_TAKEN: the replica moves the connection to another program that waits
                               for one, or holds it, and sets NEAT_STATE_FREE */
    NEAT_ROLE_DATAGRAM = 4, /* the part of a UDP socket that this replica has, see below */
};

enum neat_shut {
    NEAT_SHUT_READ = 1,
    NEAT_SHUT_WRITE = 2,
    NEAT_SHUT_ABORT = 4, /* reset at once (SO_LINGER 0); UDP: receive nothing more, the socket is closed */
    NEAT_SHUT_HEARS = 8, /* the library's own: `soft_error` keeps from sending and receiving, until it was told (IP_RECVERR) */
};

enum neat_congestion { NEAT_CUBIC = 0, NEAT_RENO = 1 };

enum neat_flag {
    NEAT_FLAG_NODELAY = 1,
    NEAT_FLAG_CORK = 2,
    NEAT_FLAG_KEEPALIVE = 4,
    NEAT_FLAG_QUICKACK = 8,
    NEAT_FLAG_TAKEN = 16, /* accept() has returned this connection */
    NEAT_FLAG_ERRORS = 32, /* UDP: every error is put into the receive ring (IP_RECVERR) */
    NEAT_FLAG_FASTOPEN = 64, /* NEAT_ROLE_CONNECT: what is in the send ring may go with the SYN (RFC 7413) */
    NEAT_FLAG_UNSENT_MOST = 128, /* see unsent_most */
    NEAT_FLAG_URGENT = 256, /* urgent data was sent: see tx_urgent */
    NEAT_FLAG_SEND_BUFFER = 512, /* see send_buffer */
    NEAT_FLAG_LEAST_TTL = 1024, /* see least_ttl */
    NEAT_FLAG_BORDERS = 2048, /* MSG_EOR was used: see neat_borders */
    NEAT_FLAG_TIMES = 4096, /* see struct neat_times, and rx_time_ns */
};

enum neat_state {
    NEAT_STATE_FREE = 0,
    NEAT_STATE_POSTED = 1,     /* NEAT_ROLE_ACCEPT seen, no connection yet */
    NEAT_STATE_CONNECTING = 2,
    NEAT_STATE_OPEN = 3,       /* established, also half closed */
    NEAT_STATE_CLOSED = 4,     /* nothing more will come or go; `error` says why. Free after NEAT_OP_DETACH. Also a slot
                                  posted for a listener that was not granted: then remote_port_be is 0 */
};

enum neat_seen {
    NEAT_SEEN_EOF = 1,   /* the peer's FIN follows the last byte before rx_head */
    NEAT_SEEN_RESET = 2, /* the connection was reset or failed: see `error` */
    NEAT_SEEN_FIN_ACKED = 4, /* our FIN was acknowledged */
    NEAT_SEEN_DETACHED = 8,  /* no program holds it; NEAT_STATE_FREE follows when the send ring is not needed any more */
    NEAT_SEEN_URGENT = 16,   /* the peer has sent urgent data that was not read yet: see rx_urgent, which may lie ahead of rx_head */
};

/* ---- UDP ----
 *
 * A UDP socket has a slot in the channel with every replica, for what is sent to it may come to any of them. The program takes
 * the slots, with a cookie of its choice in `listener`, and then binds the cookie (NEAT_REQUEST_BIND): the manager's word
 * is what makes the replicas use the slots, until the binding is closed. To connect, the program writes the remote address into all
 * of them and bumps their generations; the answer is the replica's generation.
 *
 * The rings hold datagrams: records that start at multiples of NEAT_DATAGRAM_ALIGN of the cursor, each a struct neat_datagram
 * and then the payload. The receive ring is read without telling. A datagram for which there is no room is dropped. The
 * send ring's tail moves when the datagrams before it have left, so that one may go twice if the replica dies, but none is forgotten.
 */

#define NEAT_DATAGRAM_ALIGN 64
#define NEAT_DATAGRAM_LARGEST 65507 /* bytes of payload, over IPv4 */
#define NEAT_DATAGRAM_LARGEST6 65527 /* over IPv6 */
#define NEAT_DATAGRAM_SEGMENTS 128  /* of one send with `segment` */

enum neat_datagram_flag {
    NEAT_DATAGRAM_LOOP = 1,  /* sent to a group: a copy to our own members (IP_MULTICAST_LOOP) */
    NEAT_DATAGRAM_DONT_FRAGMENT = 2, /* refuse it instead */
    NEAT_DATAGRAM_ERROR = 4, /* received: no datagram but news of one that was sent; the payload is what ICMP has quoted of it */
    NEAT_DATAGRAM_NO_DF = 16,     /* sent: routers may cut it (IP_PMTUDISC_DONT) */
    NEAT_DATAGRAM_TIME = 64,     /* sent: tell when it has left; received, beside NEAT_DATAGRAM_ERROR: that is it */
    NEAT_DATAGRAM_DEVICE = 32,    /* sent: as long as the device's MTU allows, whatever is known of the path */
    NEAT_DATAGRAM_TAKEN = 8, /* the library's own mark in its receive ring: that error was read before its turn */
};

struct neat_datagram {
    uint32_t length;   /* bytes of payload */
    uint16_t flags;    /* enum neat_datagram_flag */
    uint16_t segment;  /* sent: cut into datagrams of so many bytes of payload (UDP_SEGMENT); 0: one datagram */
    struct neat_address remote;
    struct neat_address local; /* received: the destination. Sent: the source, all zero: choose. Error: who has reported it */
    uint16_t remote_port_be, local_port_be;
    uint8_t tos, ttl;  /* sent: ttl 0 is the default */
    uint16_t error;    /* errno value */
    uint8_t icmp_type, icmp_code;
    uint16_t pad;
    uint32_t mtu;      /* of the next hop (RFC 1191) */
    uint64_t time_ns;  /* CLOCK_MONOTONIC, of arrival */
};
NEAT_SIZE(struct neat_datagram, 64);

struct neat_socket_program { /* writer: the program (processes that share a socket after fork() take turns by `lock`) */
    uint32_t lock;       /* 0: free; else the thread id of the holder; a futex. Means nothing to the replica */
    uint32_t generation;
    uint8_t role, shut;
    uint16_t flags;
    uint32_t tx_head;    /* bytes ever put into the send ring */
    uint32_t tx_base;
    uint32_t rx_tail;    /* bytes ever taken from the receive ring */
    uint32_t listener;   /* NEAT_ROLE_ACCEPT; NEAT_ROLE_DATAGRAM: the cookie */
    uint32_t send_buffer; /* NEAT_FLAG_SEND_BUFFER: bytes, SO_SNDBUF; the program keeps to it, and is told of room by it */
    uint32_t pacing_rate; /* bytes a second at most, SO_MAX_PACING_RATE; 0: any */
    uint8_t least_ttl;   /* NEAT_FLAG_LEAST_TTL: of packets that are taken (RFC 5082), IP_MINTTL or IPV6_MINHOPCOUNT */
    uint8_t soft_told;   /* the library's own: so many of soft_error were told, modulo 256 */
    uint8_t pad0[2];
    uint32_t scratch[5]; /* the library's own, shared by the processes that share the socket */
    uint32_t info_asked; /* changes when the socket's neat_tcp_info shall be written: see there */
    /* second line: seldom changed */
    struct neat_address local_be, remote_be;
    uint16_t local_port_be, remote_port_be;
    uint32_t user_timeout_ms; /* 0: default */
    uint32_t receive_buffer;  /* bytes, SO_RCVBUF; 0: all of the ring */
    uint32_t unsent_most;     /* NEAT_FLAG_UNSENT_MOST: bytes, TCP_NOTSENT_LOWAT */
    uint32_t tx_urgent;       /* NEAT_FLAG_URGENT: bytes put into the send ring up to the last urgent one */
    uint16_t keep_idle_s, keep_interval_s; /* 0: default */
    uint16_t mss;             /* TCP_MAXSEG; 0: default */
    uint8_t keep_count;       /* 0: default */
    uint8_t tos, ttl;         /* or traffic class and hop limit; ttl 0: default */
    uint8_t syn_retries;      /* TCP_SYNCNT; 0: default */
    uint8_t fin_wait_s;       /* TCP_LINGER2, seconds; 0: default; NEAT_NO_FIN_WAIT: a reset at once */
    uint8_t congestion;       /* TCP_CONGESTION, enum neat_congestion */
};
NEAT_SIZE(struct neat_socket_program, 128);

struct neat_socket_replica { /* writer: the replica */
    uint32_t generation; /* the program's generation that this answers */
    uint8_t state, seen;
    uint8_t tcp_state;   /* enum State in tcb.pxd; numbered as Linux's TCP_ESTABLISHED... */
    uint8_t pad0;
    uint32_t error;      /* errno value; 0: none */
    uint32_t rx_head;    /* bytes ever received in order */
    uint32_t rx_base;
    uint32_t tx_tail;    /* bytes acknowledged by the peer: their room in the send ring is free */
    uint32_t listener;   /* UDP: errors ever, of which `error` is the last */
    uint32_t tx_sent;    /* bytes sent for the first time */
    uint32_t rx_urgent;  /* NEAT_SEEN_URGENT: bytes received before the last urgent one */
    uint32_t rx_limit;    /* bytes of the receive ring that are offered: it grows to all of it if the program reads as fast */
    uint32_t send_most;   /* bytes that the program may have in the send ring unless NEAT_FLAG_SEND_BUFFER says it: follows cwnd,
                             never falls; 0: all of it */
    uint32_t info_answered; /* the info_asked that neat_tcp_info answers */
    uint32_t peer_window, cwnd; /* bytes */
    uint32_t soft_error;  /* errno value of the last ICMP error about the connection, and how many there were << 8; 0: none.
                             NEAT_STATE_CLOSED while it was being opened, and `soft_story`: the receive ring begins with a
                             struct neat_datagram that says who has told what, and with what was quoted from the TCP header on */
    uint32_t soft_at;     /* tx_tail then: when the peer acknowledges more, it is over */
    /* second line: for getsockname, getpeername and TCP_MAXSEG */
    struct neat_address local_be, remote_be;
    uint16_t local_port_be, remote_port_be;
    uint32_t mss;
    uint64_t rx_time_ns;  /* NEAT_FLAG_TIMES: CLOCK_MONOTONIC when the last byte before rx_head came; 0: not known */
    uint32_t soft_story;  /* there is one: see soft_error */
    uint32_t pad2[3];
};
NEAT_SIZE(struct neat_socket_replica, 128);

struct neat_socket {
    struct neat_socket_program program;
    struct neat_socket_replica replica;
};
NEAT_SIZE(struct neat_socket, 256);

/* ---- TCP_INFO ----
 *
 * What a replica tells of a connection when it is asked: the program changes info_asked and sends NEAT_OP_LOOK, and the
 * replica writes this, then info_answered. It is laid out as Linux's struct tcp_info (include/uapi/linux/tcp.h): times are
 * microseconds but where a name says ms, rates bytes a second, cwnd and ssthresh segments.
 */
struct neat_syn { /* TCP_SAVED_SYN: the headers of the SYN that has opened a connection */
    uint16_t length; /* bytes; 0: it was not saved */
    uint8_t headers[158]; /* Ethernet's, if it was wanted; IP's, TCP's. Longer ones, of many extension headers, are not saved */
};
NEAT_SIZE(struct neat_syn, 160);

struct neat_tcp_info {
    uint8_t tcp_state, ca_state, retransmits, probes, backoff, options, wscales, app_limited;
    uint32_t rto, ato, snd_mss, rcv_mss;
    uint32_t unacked, sacked, lost, retrans, fackets; /* segments */
    uint32_t last_data_sent_ms, last_ack_sent_ms, last_data_recv_ms, last_ack_recv_ms; /* ago */
    uint32_t pmtu, rcv_ssthresh, rtt, rttvar, snd_ssthresh, snd_cwnd, advmss, reordering;
    uint32_t rcv_rtt, rcv_space, total_retrans;
    uint64_t pacing_rate, max_pacing_rate; /* all ones: any */
    uint64_t bytes_acked, bytes_received;
    uint32_t segs_out, segs_in, notsent_bytes, min_rtt, data_segs_in, data_segs_out;
    uint64_t delivery_rate, busy_time, rwnd_limited, sndbuf_limited;
    uint32_t delivered, delivered_ce; /* segments */
    uint64_t bytes_sent, bytes_retrans;
    uint32_t dsack_dups, reord_seen, rcv_ooopack, snd_wnd, rcv_wnd, rehash;
    uint16_t total_rto, total_rto_recoveries;
    uint32_t total_rto_time_ms;
    uint32_t received_ce; /* segments */
    uint32_t delivered_e1_bytes, delivered_e0_bytes, delivered_ce_bytes;
    uint32_t received_e1_bytes, received_e0_bytes, received_ce_bytes, ecn_mode;
    struct neat_syn syn; /* here Linux's structure has ended */
    uint64_t pad1;
};
NEAT_SIZE(struct neat_tcp_info, 448);

/* ---- MSG_EOR ----
 *
 * Where the program has ended messages: cursors of the send ring, after the last byte of each. No segment has text from both sides
 * of one, also when it is sent again. The last NEAT_BORDERS are known; one is overwritten when its byte was acknowledged, and as
 * long as none was, no other is put down: that message may then share a segment with the next.
 */
#define NEAT_BORDERS 32

struct neat_borders { /* writer: the program; means nothing without NEAT_FLAG_BORDERS */
    uint32_t head; /* ever put; number n is in at[n % NEAT_BORDERS] */
    uint32_t at[NEAT_BORDERS];
    uint32_t pad[15];
};
NEAT_SIZE(struct neat_borders, 192);

/* ---- when bytes have left, and when they have arrived: SO_TIMESTAMPING of streams ----
 *
 * With NEAT_FLAG_TIMES the program puts a key for the end of a send before it moves tx_head, and the replica says when what is
 * before it had left, and when the peer has acknowledged it, each in the order of the keys. Either side begins anew, with 0,
 * when the generation is another one.
 */
#define NEAT_TIMES 32 /* keys under way at one time: a power of two */

struct neat_time_key {
    uint32_t at;   /* tx_head after the send */
    uint32_t what; /* the library's own: what shall be told */
};

struct neat_time {
    uint64_t sent_ns, acked_ns; /* CLOCK_MONOTONIC */
};

struct neat_times {
    uint32_t generation; /* this line and the keys: writer: the program */
    uint32_t head;       /* keys ever put */
    uint32_t told_sent;  /* the library's own: so many halves of keys were told as sent: of each, that it was planned, and that it left */
    uint32_t told_acked; /* and so many keys as acknowledged */
    uint32_t pad0[12];
    struct neat_time_key keys[NEAT_TIMES];
    uint32_t generation_seen; /* from here on: writer: the replica */
    uint32_t sent, acked;     /* so many keys are */
    uint32_t pad1[13];
    struct neat_time times[NEAT_TIMES];
};
NEAT_SIZE(struct neat_times, 896);

struct neat_aside {
    struct neat_tcp_info info; /* writer: the replica */
    struct neat_borders borders;
    struct neat_times times;
};
NEAT_SIZE(struct neat_aside, 1536);

/* ---- requests of programs to the manager: SOCK_SEQPACKET on <stack directory>/manager.sock, one reply each ---- */

enum neat_request_op {
    NEAT_REQUEST_HELLO = 1,  /* a new program. Reply: channel, token; descriptors: stack page, the program's doorbell,
                                then for each replica slot: channel memfd, replica page, the replica's doorbell */
    NEAT_REQUEST_FORK = 2,   /* before fork(): a channel for the child, which will also hold every socket and listener
                                that this program holds. Reply: as HELLO, without stack page and replica pages:
                                doorbell, then for each slot the channel memfd */
    NEAT_REQUEST_CLAIM = 3,  /* the child of a fork, or the new image after exec, on a connection of its own: I am
                                (channel, token) from now on; the manager watches the caller's process */
    NEAT_REQUEST_ABANDON = 4, /* fork() failed: forget (channel, token) */
    NEAT_REQUEST_BIND = 5,   /* address (any: ::, or ::ffff:0.0.0.0 of IPv4), port (0: choose), flags; of a UDP socket its
                                cookie as binding. Reply: binding, port */
    NEAT_REQUEST_LISTEN = 6, /* binding, backlog: from now on every replica accepts on it. Reply: listener number = binding */
    NEAT_REQUEST_CLOSE = 7,  /* binding: this program no longer holds it */
    NEAT_REQUEST_JOIN = 8,   /* binding of a UDP socket, address of a group: it receives what is sent there */
    NEAT_REQUEST_LEAVE = 9,  /* the same: no longer */
    NEAT_REQUEST_PASS = 10,  /* before sendmsg(): a socket is on its way, and is held until every copy of the second descriptor
                                is closed. binding (0: none); of a connection memory, replica, socket. Reply: number as
                                binding, token; descriptors: both ends of a SOCK_SEQPACKET pair, the second for the receiver */
    NEAT_REQUEST_RECEIVE = 11, /* (number as binding, token) of such a reply: this program holds that socket too. Reply:
                                the channel that it lives in; descriptors: that channel's memfd with the replica; of UDP
                                with every one, in order; of neither none */
};

enum neat_bind_flag { NEAT_BIND_REUSEADDR = 1, NEAT_BIND_REUSEPORT = 2, NEAT_BIND_DATAGRAM = 4, NEAT_BIND_V6ONLY = 8 };

struct neat_request {
    uint32_t magic, op;
    uint32_t channel;
    uint32_t binding;
    uint64_t token;
    struct neat_address address_be;
    uint16_t port_be;
    uint16_t flags;
    uint32_t backlog;
    uint16_t mss;         /* LISTEN: TCP_MAXSEG; 0: default */
    uint8_t defer;        /* TCP_DEFER_ACCEPT, in SYN-ACKs sent again; 0: not */
    uint8_t syn_retries;  /* TCP_SYNCNT; 0: default */
    uint32_t fastopen;    /* TCP_FASTOPEN: most connections at one time that have brought text and are half open; 0: none */
    uint8_t congestion;   /* TCP_CONGESTION */
    uint8_t replica;      /* PASS: where the connection is; NEAT_MAX_REPLICAS: there is none */
    uint16_t memory;      /* the channel whose memory it lives in */
    uint32_t socket;      /* its slot there */
    uint8_t fastopen_keys[32]; /* TCP_FASTOPEN_KEY: two of 16 bytes; the second only proves */
    uint8_t fastopen_key_count; /* so many of them; 0: those of the stack */
    uint8_t save_syn;     /* TCP_SAVE_SYN: 0: no; 1: from the IP header on; 2: from that of Ethernet on */
    uint8_t least_ttl, least_hops; /* IP_MINTTL, IPV6_MINHOPCOUNT */
    uint32_t pad;
};
NEAT_SIZE(struct neat_request, 104);

struct neat_reply {
    uint32_t magic;
    uint32_t error;   /* errno value; 0: done */
    uint32_t channel;
    uint32_t binding;
    uint64_t token;
    struct neat_address address_be;
    uint16_t port_be;
    uint16_t pad0;
    uint32_t replicas; /* how many slots the descriptors are for */
    uint32_t pad[4];
};
NEAT_SIZE(struct neat_reply, 64);

#endif
