"""layout.h, declared to the data plane. Comments and sizes are there."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from neatstack.dataplane.channel.address cimport Address

cdef extern from "neatstack/dataplane/channel/layout.h" nogil:
    enum:
        NEAT_MAGIC
        NEAT_LAYOUT_VERSION
        NEAT_MAX_REPLICAS
        NEAT_MAX_CHANNELS
        NEAT_IN_FLIGHT
        NEAT_BUCKETS
        NEAT_NO_FIN_WAIT
        NEAT_PATHS
        NEAT_FAST
        NEAT_MAX_ADDRESSES
        NEAT_MAX_ROUTES
        NEAT_OWN_DEPRECATED
        NEAT_OWN_TENTATIVE
        NEAT_TABLE_MOVING
        NEAT_TABLE_MOVED
        NEAT_DATAGRAM_ALIGN
        NEAT_DATAGRAM_LARGEST
        NEAT_DATAGRAM_LARGEST6
        NEAT_DATAGRAM_SEGMENTS
        NEAT_TIMES
    enum:
        NEAT_OP_LOOK
        NEAT_OP_DETACH
    enum:
        NEAT_ROLE_FREE
        NEAT_ROLE_CONNECT
        NEAT_ROLE_ACCEPT
        NEAT_ROLE_WITHDRAW
        NEAT_ROLE_DATAGRAM
    enum:
        NEAT_DATAGRAM_LOOP
        NEAT_DATAGRAM_DONT_FRAGMENT
        NEAT_DATAGRAM_NO_DF
        NEAT_DATAGRAM_DEVICE
        NEAT_DATAGRAM_ERROR
        NEAT_DATAGRAM_TIME
    enum:
        NEAT_BIND_REUSEADDR
        NEAT_BIND_REUSEPORT
        NEAT_BIND_V6ONLY
    enum:
        NEAT_SHUT_READ
        NEAT_SHUT_WRITE
        NEAT_SHUT_ABORT
    enum:
        NEAT_FLAG_NODELAY
        NEAT_FLAG_CORK
        NEAT_FLAG_KEEPALIVE
        NEAT_FLAG_QUICKACK
        NEAT_FLAG_TAKEN
        NEAT_FLAG_ERRORS
        NEAT_FLAG_URGENT
        NEAT_FLAG_UNSENT_MOST
        NEAT_FLAG_FASTOPEN
        NEAT_FLAG_SEND_BUFFER
        NEAT_FLAG_LEAST_TTL
        NEAT_FLAG_BORDERS
        NEAT_BORDERS
        NEAT_FLAG_TIMES
    enum:
        NEAT_WITHOUT_TIMESTAMPS
        NEAT_WITHOUT_SACK
        NEAT_WITHOUT_SCALING
        NEAT_WITHOUT_RESTART
        NEAT_FASTOPEN_CLIENT
        NEAT_FASTOPEN_SERVER
        NEAT_FASTOPEN_CLIENT_BARE
        NEAT_FASTOPEN_SERVER_BARE
        NEAT_FASTOPEN_LISTENERS
    enum:
        NEAT_STATE_FREE
        NEAT_STATE_POSTED
        NEAT_STATE_CONNECTING
        NEAT_STATE_OPEN
        NEAT_STATE_CLOSED
    enum:
        NEAT_SEEN_EOF
        NEAT_SEEN_RESET
        NEAT_SEEN_FIN_ACKED
        NEAT_SEEN_DETACHED
        NEAT_SEEN_URGENT

    enum:
        NEAT_CUBIC, NEAT_RENO

    ctypedef struct Own "struct neat_own":
        Address address
        uint32_t prefix, flags

    ctypedef struct Route "struct neat_route":
        Address destination, gateway
        uint32_t prefix

    ctypedef struct StackPage "struct neat_stack_page":
        uint32_t magic, version, generation
        uint32_t address_be, netmask_be, gateway_be
        uint32_t mtu, mtu6
        uint8_t ttl, hop_limit
        uint16_t icmp_errors
        uint32_t replicas, active
        uint8_t mac[6]
        uint8_t ecn, receive_shift
        uint32_t link_queue, tcp_backlog_max
        uint16_t without, fastopen
        uint64_t hash_key[3]
        Address gateway6
        uint32_t own_count, route_count
        Own own[8]
        Route routes[64]
        uint8_t table[256]

    ctypedef struct Path "struct neat_path":
        Address remote_be
        uint64_t until_ns
        uint32_t mtu, narrow

    uint32_t path_place "neat_path_place"(Address remote)
    uint32_t fast_tag "neat_fast_tag"(Address remote)

    ctypedef struct ReplicaPage "struct neat_replica_page":
        uint32_t magic, version, incarnation, sleep_seq
        uint64_t progress_ns
        uint64_t slept_ns
        uint32_t fast[64]
        Path paths[118]

    ctypedef struct ChannelHeader "struct neat_channel_header":
        uint32_t magic, version, replica, channel
        uint64_t size
        uint32_t sockets, entries, rx_size, tx_size
        uint64_t commands_at, events_at, sockets_at, buffers_at, asides_at

    ctypedef struct ChannelProgram "struct neat_channel_program":
        uint32_t commands_head, events_tail, sleep_seq, slots_used

    ctypedef struct ChannelReplica "struct neat_channel_replica":
        uint32_t commands_tail, events_head, rescan

    ctypedef struct Entry "struct neat_entry":
        uint16_t channel, op
        uint32_t socket

    ctypedef struct Datagram "struct neat_datagram":
        uint32_t length
        uint16_t flags, segment
        Address remote
        Address local
        uint16_t remote_port_be, local_port_be
        uint8_t tos, ttl
        uint16_t error
        uint8_t icmp_type, icmp_code
        uint32_t mtu
        uint64_t time_ns

    ctypedef struct SocketProgram "struct neat_socket_program":
        uint32_t lock, generation
        uint8_t role, shut
        uint16_t flags
        uint32_t tx_head, tx_base, rx_tail, listener, send_buffer, pacing_rate, info_asked
        Address local_be, remote_be
        uint16_t local_port_be, remote_port_be
        uint32_t user_timeout_ms, receive_buffer
        uint16_t keep_idle_s, keep_interval_s, mss
        uint8_t keep_count
        uint8_t tos, ttl, syn_retries, fin_wait_s, congestion, least_ttl
        uint32_t unsent_most, tx_urgent

    ctypedef struct SocketReplica "struct neat_socket_replica":
        uint32_t generation
        uint8_t state, seen, tcp_state
        uint32_t error, rx_head, rx_base, tx_tail, listener, tx_sent, rx_urgent
        Address local_be, remote_be
        uint16_t local_port_be, remote_port_be
        uint32_t mss, rx_limit, send_most, info_answered, peer_window, cwnd, soft_error, soft_at, soft_story
        uint64_t rx_time_ns

    ctypedef struct Socket "struct neat_socket":
        SocketProgram program
        SocketReplica replica

    ctypedef struct TimeKey "struct neat_time_key":
        uint32_t at

    ctypedef struct Time "struct neat_time":
        uint64_t sent_ns, acked_ns

    ctypedef struct Times "struct neat_times":
        uint32_t generation, head
        TimeKey keys[32]
        uint32_t generation_seen, sent, acked
        Time times[32]

    ctypedef struct Syn "struct neat_syn":
        uint16_t length
        uint8_t headers[158]

    ctypedef struct TcpInfo "struct neat_tcp_info":
        uint8_t tcp_state, ca_state, retransmits, probes, backoff, options, wscales, app_limited
        uint32_t rto, ato, snd_mss, rcv_mss, unacked, sacked, lost, retrans, fackets
        uint32_t last_data_sent_ms, last_ack_sent_ms, last_data_recv_ms, last_ack_recv_ms
        uint32_t pmtu, rcv_ssthresh, rtt, rttvar, snd_ssthresh, snd_cwnd, advmss, reordering
        uint32_t rcv_rtt, rcv_space, total_retrans
        uint64_t pacing_rate, max_pacing_rate, bytes_acked, bytes_received
        uint32_t segs_out, segs_in, notsent_bytes, min_rtt, data_segs_in, data_segs_out
        uint64_t delivery_rate, busy_time, rwnd_limited, sndbuf_limited
        uint32_t delivered, delivered_ce
        uint64_t bytes_sent, bytes_retrans
        uint32_t dsack_dups, reord_seen, rcv_ooopack, snd_wnd, rcv_wnd, rehash
        uint16_t total_rto, total_rto_recoveries
        uint32_t total_rto_time_ms, received_ce
        uint32_t received_e1_bytes, received_e0_bytes, received_ce_bytes, ecn_mode
        Syn syn

    ctypedef struct Borders "struct neat_borders":
        uint32_t head
        uint32_t at[32]

    ctypedef struct Aside "struct neat_aside":
        TcpInfo info
        Borders borders
        Times times
