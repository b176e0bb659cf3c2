"""One replica's stack, as every layer sees it: a C struct that each function of the data plane gets first.

Built by engine.py. Pointers marked R lead into the state region, those marked C into channels, the rest is private to
the incarnation and rebuilt by the next one.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from neatstack.dataplane.channel.address cimport Address
from neatstack.dataplane.channel.layout cimport (Aside, ChannelHeader, ChannelProgram, ChannelReplica, Datagram, Entry, ReplicaPage, Socket,
                                                 SocketProgram, SocketReplica, StackPage, Syn)
from neatstack.dataplane.driver.device cimport OUTBOX, Device, Inbox, Outgoing
from neatstack.dataplane.driver.maps cimport SteerFlow
from neatstack.dataplane.tcp.tcb cimport Range, Tcb

cdef enum:
    MAX_CHANNELS = 256
    MAX_LISTENERS = 1024
    HOLD_SIZE = 16384        # bytes of receive buffer of a connection that no program has been given yet: a peer's first ten
                             # segments, all that it may send before it hears from us (RFC 6928)
    HOLD_BUFFERS = 4096
    WHEEL_LEVELS = 4
    WHEEL_SLOTS = 256
    WHEEL_WORDS = 16         # 64-bit words that hold a bit for each slot
    NEIGHBOURS = 1024
    WANTED = 16              # next hops to ask for at one time
    LISTENER_SLOTS = 2048    # of the lookup tables of listeners; a power of two, twice MAX_LISTENERS
    RELEASE_AHEAD = 8        # TIME-WAIT connections looked at for one to recycle
    RETIRED = 4              # slots that one change may leave
    UNDO = 0x4f444e55        # "UNDO"
    POINTS = 32              # room for enum Point
    STRETCHES = 128          # of what is on its way, by when it was sent; a power of two, at most 128
    STRAYS = 64              # flows remembered; a power of two
    FAST_PEERS = 64          # places for cookies of TCP Fast Open; a power of two
    CAPTURES = 4             # that can be under way at one time
    MAX_ENDPOINTS = 16384    # UDP sockets and one
    ENDPOINT_HEADS = 8192    # of each of the lookup tables of UDP sockets; a power of two
    GROUPS = 256             # of hosts, that are joined at one time
    PARKED = 64              # datagrams that wait for the next hop's hardware address
    PARTIALS = 512           # datagrams that can be put together at one time
    CHUNK = 2048             # bytes in which their memory is given out; a multiple of 8
    CHUNKS = 2048            # of which there are so many: 4 MiB, as Linux's ipfrag_high_thresh
    PARTIAL_CHUNKS = 32      # that one datagram can need
    FRAGMENT_WORDS = 128     # 64-bit words that hold a bit for each 8 bytes of the longest datagram
    FRAGMENT_HEADER = 128    # bytes before the part of a datagram that is cut into fragments
    HOLDINGS = 256           # a power of two

cdef enum Drop:              # reasons for counting a frame and forgetting it
    DROP_SHORT
    DROP_ETHERTYPE
    DROP_NOT_OURS            # Ethernet or IP address
    DROP_IP_HEADER
    DROP_IP_CHECKSUM
    DROP_FRAGMENT            # that cannot be one
    DROP_PROTOCOL
    DROP_TCP_HEADER
    DROP_TCP_CHECKSUM
    DROP_MARTIAN             # source address that cannot be
    DROP_NO_PORT             # answered with RST
    DROP_SYN_QUEUE
    DROP_ACCEPT_QUEUE
    DROP_NO_MEMORY           # no free TCB, hold buffer or slot
    DROP_SEQUENCE            # outside the window
    DROP_OLD_ACK
    DROP_BLIND_ATTACK        # RFC 5961 challenge
    DROP_RANGES              # out of order, and no room to remember it
    DROP_MOVED               # its bucket is, or will soon be, another replica's
    DROP_NEIGHBOUR           # next hop unknown
    DROP_DEVICE              # the device did not take what we sent
    DROP_COMMAND             # a program's channel said something impossible
    DROP_OFFLOAD             # virtio-net header that makes no sense
    DROP_UDP_HEADER
    DROP_UDP_CHECKSUM
    DROP_UDP_PORT            # no socket for a datagram
    DROP_UDP_FULL            # no room in a socket's receive ring
    DROP_ICMP                # no error that can concern us
    DROP_UDP_SEND            # a program's datagram that cannot be sent: no way there, or too long
    DROP_OVERLAP             # fragments that overlap, or contradict others: their datagram is given up
    DROP_FRAGMENT_AGAIN      # the same bytes once more
    DROP_REASSEMBLY_TIME     # datagrams of which some fragment has not come in time
    DROP_REASSEMBLY_ROOM     # datagrams given up for room
    DROP_TTL                 # fewer hops left than the socket asks for (RFC 5082)
    DROPS

cdef struct Counters:        # R; in the order in which inspect.py names them
    uint64_t packets_in
    uint64_t packets_out
    uint64_t bytes_in        # of frames
    uint64_t bytes_out
    uint64_t connections_opened
    uint64_t connections_accepted
    uint64_t connections_closed
    uint64_t connections_reset
    uint64_t retransmits
    uint64_t batches
    uint64_t sleeps
    uint64_t commands
    uint64_t events
    uint64_t doorbells
    uint64_t connections     # now
    uint64_t requests        # turns of a connection from sending to receiving
    uint64_t cookies_sent    # SYNs answered without keeping anything (RFC 4987)
    uint64_t cookies_taken   # connections that came of it
    uint64_t cookies_refused # ACKs that should have had one
    uint64_t datagrams_in    # given to sockets
    uint64_t datagrams_out
    uint64_t reassembled     # IP datagrams put together from fragments
    uint64_t drops[DROPS]

cdef struct FastKeys:        # of cookies (RFC 7413): one of two words, or two, the second of which only proves
    uint64_t key[4]
    uint32_t count

cdef struct Listener:        # R
    uint32_t number          # the manager's binding number; 0: unused entry
    Address address_be      # 0: any
    uint16_t port_be
    uint16_t mss             # TCP_MAXSEG; 0: not set
    uint32_t backlog
    uint8_t defer            # TCP_DEFER_ACCEPT: SYN-ACKs sent again before a bare ACK counts; 0: it does at once
    uint8_t syn_retries      # TCP_SYNCNT; 0: default
    uint8_t v6only           # IPV6_V6ONLY, of ::
    uint8_t congestion       # enum neat_congestion
    uint8_t save_syn         # TCP_SAVE_SYN; 0: not set
    uint8_t least_ttl        # IP_MINTTL; 0: any
    uint8_t least_hops       # IPV6_MINHOPCOUNT
    FastKeys fast_keys       # TCP_FASTOPEN_KEY; none: those of the stack
    uint32_t fastopen        # TCP_FASTOPEN: most of fast_pending; 0: not allowed
    uint32_t fast_pending    # connections in SYN-RECEIVED that have brought text (TCB_FASTOPEN)
    uint32_t half_open       # connections in SYN-RECEIVED
    uint32_t waiting         # established, not yet accept()ed
    uint64_t channels[4]     # bit n: the program with channel n may accept
    uint64_t overflows

cdef struct Retired:         # a slot that its connection has left
    uint16_t channel
    uint16_t pad
    uint32_t socket
    uint32_t generation
    uint64_t bytes_in        # that went through its rings
    uint64_t bytes_out

cdef struct Strays:          # flows of segments that belong to no connection here, and are no SYNs
    uint64_t total           # ever; the last of them are in flow[]
    SteerFlow flow[STRAYS]

cdef struct FastPeer:        # R; a peer whose cookie for TCP Fast Open we know (RFC 7413 section 4.1.3)
    Address remote_be
    uint16_t mss             # that it announced
    uint8_t length           # of its cookie; 0: none
    uint8_t pad
    uint8_t cookie[16]

cdef struct RegionHeader:    # R, at offset 0
    uint32_t magic
    uint32_t version
    uint32_t replica
    uint32_t incarnation
    uint64_t size
    uint32_t max_tcbs
    uint32_t tcbs_used       # entries at and beyond this have never been used
    uint32_t tcbs_used_again # the same once more: neither copy alone is believed
    uint32_t undo_index
    uint32_t undo_valid      # UNDO ^ undo_index: `undo` is the state before a change that was not committed
    uint32_t batch           # number of the batch in hand
    uint32_t retired_count
    uint32_t pad
    Retired retired[RETIRED] # to be free as soon as the change that leaves them is committed
    uint64_t counters_at
    uint64_t listeners_at
    uint64_t tcbs_at
    uint64_t syns_at
    uint64_t holds_at
    uint64_t frames_at
    uint64_t isn_key[2]      # RFC 6528: outlives the incarnation, so that sequence numbers go on; 0 0: not drawn yet
    uint64_t pressure_at     # ns: when a SYN was last answered with a cookie; 0: never
    FastPeer fast_peers[FAST_PEERS]
    Tcb undo
    Inbox inbox              # the frames of the batch in hand; their bytes lie at frames_at
    Strays strays            # for the manager, who can see whether another replica has such a connection

cdef struct Neighbour:       # page written by link, mapped read-only here
    Address address_be
    uint8_t mac[6]
    uint8_t state            # 0: unused, 1: asked for, 2: reachable, 3: failed
    uint8_t pad

cdef enum StretchFlag:
    STRETCH_SACKED = 1       # the peer has it, beyond snd.una (RFC 2018)
    STRETCH_LOST = 2         # it is deemed lost, and was not sent again since
    STRETCH_AGAIN = 4        # it was sent more than once; sent_at is the last time

cdef struct Stretch:         # sequence numbers that have the same story, from the end of the stretch before, or snd.una
    uint64_t sent_at         # ns
    uint32_t end
    uint32_t flags           # enum StretchFlag

cdef struct Board:           # private; what is on its way (RFC 6675, RFC 8985), in order: View.stretches are in use.
                             # What was sent last, from the end of the last one to snd.max at Tcb.last_sent, need not be here
    uint64_t xmit_ts         # RACK.xmit_ts, RACK.end_seq: what was sent last of what has arrived
    uint32_t end_seq
    uint32_t rtt             # RACK.rtt, us
    uint32_t fack            # RACK.fack: the highest that has arrived
    uint32_t sacked          # bytes that are STRETCH_SACKED
    uint32_t lost            # bytes that are STRETCH_LOST
    uint32_t dsack_round     # RACK.dsack_round, if dsack_in_round
    uint32_t probe_end       # TLP.end_seq, if View.probe
    uint8_t first            # where in stretch[] the first one is
    uint8_t dsack_in_round
    uint8_t reo_wnd_mult     # RACK.reo_wnd_mult, less one
    uint8_t reo_wnd_persist
    uint8_t reordering_seen
    uint8_t original         # something was acknowledged that was sent once, before the timeout (F-RTO)
    uint8_t dsack            # the ACK in hand tells of something that came twice
    uint8_t found_lost       # it says that something is lost
    Range duplicate          # namely this
    uint32_t undo_cwnd       # before the timeout, if View.frto
    uint32_t undo_ssthresh
    uint32_t undo_w_max      # of CUBIC
    uint32_t undo_cwnd_prior
    Stretch stretch[STRETCHES]

cdef enum Mending:           # View.mending: what is lost is sent again by the board, until cc.recover is acknowledged
    MENDING_FAST = 1         # fast recovery: TCB_RECOVERY
    MENDING_TIMEOUT = 2      # after a timeout, or an adoption

cdef enum Frto:              # View.frto: was the timeout needed (RFC 5682)?
    FRTO_SENT_AGAIN = 1      # the first segment has been sent again
    FRTO_NEW = 2             # that was answered, and now new text goes

cdef enum Probe:             # View.probe: tail loss probes (RFC 8985 section 7)
    PROBE_OUT = 1            # one is on its way
    PROBE_AGAIN = 2          # TLP.is_retrans
    PROBE_UNMEASURED = 4     # no round trip was measured since the last one

cdef struct View:            # where a TCB's socket and rings are, and the last checked copy of what the program wrote
    SocketProgram *program   # C; NULL: no socket
    SocketReplica *replica   # C
    uint8_t *rx
    uint8_t *tx
    uint32_t rx_size         # 0: no receive buffer
    uint32_t tx_size
    uint32_t rx_limit        # bytes of the receive ring that may be used: by SO_RCVBUF, or tuned (window.py)
    uint32_t tx_head         # checked copies
    uint32_t tx_base
    uint32_t rx_tail
    uint16_t options         # enum neat_flag
    uint8_t tos              # checked copies; ttl 0: default
    uint8_t ttl
    uint32_t checksum        # of all above, see journal.pxd; what follows is not covered
    uint32_t tx_told         # send cursor acknowledged, as the program was last told
    uint32_t tx_enough       # bytes in the send ring up to which it was room enough for a waiting program, then
    uint32_t event_at        # where in each holder's event ring the last entry was put (one holder: exact; more: 0)
    uint8_t dirty            # in Stack.dirty
    uint8_t news             # enum News: what publish() shall tell
    uint8_t waiting          # in the accept waiting list of its listener
    uint8_t untaken          # in a program's slot, and not yet accept()ed
    uint8_t racked           # this connection has begun its board
    uint8_t stretches        # in use on it
    uint8_t sacked           # there is something on it that the peer has acknowledged selectively
    uint8_t mending          # enum Mending
    uint8_t probe            # enum Probe
    uint8_t frto             # enum Frto
    uint8_t reset_sent       # 1: in this batch; 2: in an earlier one
    uint8_t soft_error       # errno of the last ICMP error since the peer has acknowledged something
    uint16_t full_mss        # snd.mss before the path was thought to swallow large segments; 0: it is not
    uint16_t keep_idle_s     # the program's, when keepalive was last thought about
    uint32_t min_rtt         # us: RACK.min_RTT; 0: not measured yet
    uint32_t min_rtt_at      # s: when it was
    uint32_t used            # bytes: most that was on its way of what ends before used_end, if that was more than half of cwnd
    uint64_t rto_at          # ns: when the retransmission timer expires, also while a shorter wait has its place
    uint64_t smaller_at      # ns: since when it is
    uint64_t paced_until     # ns: what has been sent takes so long at pacing_rate
    uint32_t pacing_rate     # bytes a second, checked copy; 0: any
    uint32_t used_end        # see `used`
    uint64_t challenged_at   # ns: the last challenge ACK; 0: none yet
    uint64_t tuned_at        # ns: when rx_limit was last thought about, and
    uint32_t tuned_tail      # rx_tail then
    uint32_t next_in_list    # accept waiting list, or free list
    uint32_t prev_in_list    # accept waiting list
    uint32_t wheel_next      # timer wheel list; index of a TCB; 0 end
    uint32_t wheel_prev
    uint32_t wheel_slot      # 0: not in the wheel; else slot + 1
    uint64_t wheel_at        # ns: when the wheel will look at it
    uint32_t wait_next       # list of TIME-WAIT, oldest first; 0 end
    uint32_t wait_prev

cdef enum News:
    NEWS_LINES = 1           # the socket's lines are out of date
    NEWS_EVENT = 2           # and the program should look
    NEWS_ACCEPT = 4          # just established by a listener: to be given to a program
    NEWS_GONE = 8            # CLOSED: give back slot and TCB after publishing
    NEWS_OUTPUT = 16         # tcp output has to look at it

cdef struct Post:            # private; a posted slot's place in the list of its listener
    uint32_t next            # slot + 1; 0 end
    uint32_t prev
    uint16_t listener        # index in Stack.listeners + 1; 0: not posted
    uint16_t unbound         # of a UDP socket whose binding was not told yet: on the channel's list
    uint32_t generation      # of the program's lines, when they were last acted on

cdef struct AcceptQueue:     # private; what one listener has to give and to whom
    uint32_t first           # connections that wait for a slot, oldest first: index of a TCB; 0 none
    uint32_t last
    uint64_t ready[4]        # bit n: channel n has posted slots
    uint32_t turn            # channel that was served last
    uint32_t posted[MAX_CHANNELS]   # slot + 1 of the one posted last; 0 none

cdef struct Channel:         # private; what is known of one program's channel. Up to `guard` nothing changes
    uint8_t *memory          # NULL: none
    ChannelHeader header     # the checked copy
    ChannelProgram *program  # C
    ChannelReplica *replica  # C
    Entry *commands          # C
    Entry *events            # C
    Socket *sockets          # C
    Aside *asides            # C
    uint8_t *buffers         # C
    uint32_t *tcb_of         # socket -> TCB index, 0 none
    Post *posts              # by socket
    uint32_t *endpoint_of    # socket -> index in Datagrams.ends, 0 none
    uint64_t guard           # checksum of all that
    uint32_t bound           # sockets that have a TCB, or are UDP and bound
    uint32_t unbound         # slot + 1 of the first UDP socket that waits for its binding; 0 none
    uint32_t untaken         # connections given to the program and not yet accept()ed
    uint64_t inherited[4]    # bit n: it may hold sockets of channel n (see fork)
    uint32_t place           # in Stack.active
    uint32_t commands_tail
    uint32_t events_head
    uint32_t rung            # program.sleep_seq for which the doorbell was rung last
    int doorbell             # eventfd of the program
    uint8_t ring             # events were put in this batch
    uint8_t gone             # the program has died; memory stays while TCBs use it

cdef struct CaptureHeader:   # memory that whoever captures maps read-only, see driver/capture.pxd
    uint32_t magic
    uint32_t version
    uint64_t size            # of the ring, bytes; a power of two
    uint64_t head            # bytes ever written; a record is there once this has passed it
    uint64_t tail            # before this records may be overwritten
    uint64_t written         # records, also those that were too long

cdef struct Capture:         # private; header NULL: unused
    CaptureHeader *header
    uint8_t *ring
    uint64_t size            # checked copy
    uint64_t next            # where the record in hand begins
    uint32_t number          # the manager's

cdef struct Endpoint:        # private; a UDP socket, told by the manager. What is in its slot outlives us
    uint32_t number          # the manager's binding number; 0: unused
    uint32_t cookie          # by which the program's slot is found
    uint32_t socket          # the slot, once it is attached
    uint32_t generation      # of the program's lines, when they were last acted on
    uint16_t channel         # whose memory
    uint8_t flags            # NEAT_BIND_...
    uint8_t attached
    uint8_t connected
    uint8_t closing          # unbound: only what was sent before is still to go
    uint8_t deaf             # not found by port any more: closing, or its program will have it so
    uint8_t sending          # on that list
    uint8_t news             # enum EndpointNews; not 0: on that list
    Address address_be      # bound to; 0 any
    Address local_be        # of a connected one
    Address remote_be
    uint16_t port_be
    uint16_t remote_port_be
    uint64_t holders[4]      # bit n: the program with channel n
    uint32_t rx_head         # as published
    uint32_t rx_base
    uint32_t tx_tail         # as published
    uint32_t tx_next         # up to here datagrams have been planned
    uint32_t tx_base
    uint32_t event_at        # position after the last entry put into the event ring
    uint64_t bytes_in        # that went through its rings
    uint64_t bytes_out
    uint32_t next_of_port    # lists: index of the next one, 0 end
    uint32_t next_of_peer
    uint32_t next_of_number
    uint32_t next_of_cookie
    uint32_t next_sending
    uint32_t next_told

cdef struct Parked:          # a datagram that waits for the next hop's hardware address
    uint8_t state            # 0: unused, 1: waits, 2: planned, and not yet sent
    uint32_t number          # in the order in which they came
    uint64_t until           # ns; then it is given up
    uint8_t *payload
    Datagram datagram
    Endpoint endpoint        # as it was

cdef struct Datagrams:       # private; all that UDP has
    Endpoint *ends           # MAX_ENDPOINTS; ends[0] is never used
    uint32_t *by_port        # 65536 list heads, by port in network order
    uint32_t by_peer[ENDPOINT_HEADS]    # the connected ones
    uint32_t by_number[ENDPOINT_HEADS]
    uint32_t by_cookie[ENDPOINT_HEADS]
    uint32_t used            # ends at and beyond this have never been used
    uint32_t free            # list by next_of_number
    uint32_t sending         # list of those whose send rings are to be looked at
    uint32_t last_sending
    uint32_t told            # list of those that have news
    Address groups[GROUPS]  # those that sockets have joined
    uint32_t members[GROUPS] # how many have
    uint32_t group_count
    Parked parked[PARKED]
    uint32_t parked_count
    uint32_t parked_bytes
    uint32_t parked_first    # number of the oldest that waits
    uint32_t parked_next
    uint64_t parked_at       # ns; when to try again, 0: never

cdef struct Partial:         # private; a datagram of which some fragments have come. Lists by place + 1, 0 end
    uint8_t ends[32]         # source and destination, of 16 bytes each
    uint32_t number          # identification
    uint8_t protocol
    uint8_t version          # 4 or 6; 0: unused
    uint8_t refused          # what still comes of it is dropped
    uint8_t congestion       # bit n: a fragment had ECN codepoint n
    uint16_t holder          # in Reassembly.holdings
    uint16_t chained         # list of those with the same hash
    uint16_t older
    uint16_t newer           # or the list of unused ones
    uint16_t chunks          # that it has
    uint16_t header_length   # 0: the first fragment is not there
    uint32_t first_length    # bytes of data in that one
    uint32_t end             # bytes of data in all; 0: the last fragment is not there
    uint32_t highest         # end of the furthest fragment
    uint32_t blocks          # that are there
    uint32_t begun           # Reassembly.begun of its holder when its last fragment came
    uint64_t since           # ns
    uint8_t header[FRAGMENT_HEADER]
    uint16_t chunk[PARTIAL_CHUNKS]              # place + 1
    uint64_t there[FRAGMENT_WORDS]              # a bit for each block

cdef struct Reassembly:      # private; all datagrams that are being put together
    Partial *partials
    uint8_t *memory          # CHUNKS of CHUNK
    uint8_t *whole           # the last one that was completed
    uint32_t whole_length
    Counters *counters
    uint64_t key[2]          # of the hash, so that nobody can choose who shares a place
    uint16_t heads[PARTIALS]
    uint16_t free            # list by Partial.newer
    uint16_t used            # at and beyond this none was ever used
    uint16_t oldest          # list by age
    uint16_t newest
    uint16_t free_chunks[CHUNKS]
    uint16_t free_chunk_count
    uint16_t chunks_used     # the same for chunks
    uint32_t holdings[HOLDINGS]     # datagrams and chunks of the sources that fall there
    uint32_t begun[HOLDINGS]        # datagrams of theirs, ever

cdef struct Stack:
    uint64_t now             # ns, CLOCK_MONOTONIC; tests set it
    uint32_t hand            # the TCB whose change is not committed; 0: none
    uint32_t trap            # a fault is to be injected; see journal.pxd
    # from here to `guard` nothing changes once the stack serves: see audit.py
    RegionHeader *region     # R
    Counters *counters       # R
    Listener *listeners      # R, MAX_LISTENERS
    Tcb *tcbs                # R; tcbs[0] is never used
    Syn *syns                # R, max_tcbs; headers of the SYNs that have opened them, where Tcb.syn_saved says so
    uint8_t *holds           # R, HOLD_BUFFERS of HOLD_SIZE
    uint8_t *frames          # R, FRAME_BYTES + FRAME_ROOM
    View *views              # max_tcbs
    Board *boards            # max_tcbs
    uint32_t *dirty          # max_tcbs indexes
    uint32_t *free_holds
    uint64_t *flows          # lookup: open addressing, hash << 32 | TCB index; made and freed by tcp/table.py
    uint64_t flows_key[4]
    AcceptQueue *queues      # beside listeners
    Datagrams *udp
    Reassembly *reassembly
    const StackPage *page    # read-only
    const Neighbour *neighbours
    ReplicaPage *replica_page
    uint64_t isn_key[2]      # RFC 6528; from the region, so that it outlives the incarnation
    uint64_t secret[2]       # of the stack, the same for all replicas; of a replica that was told none: its isn_key
    FastKeys fast_keys       # of listeners that have none of their own
    uint8_t *loop            # loopback: frames to ourselves, copied
    uint32_t loop_size
    uint32_t replica         # our number
    uint32_t max_tcbs
    uint32_t flows_mask
    uint64_t guard           # checksum of all that; 0: not drawn yet
    uint64_t listeners_guard # of the listeners and their lookup tables; 0: they have been changed on purpose
    uint64_t audit_at        # ns: when all is looked at again
    uint32_t audited         # TCBs below this were looked at in this turn
    uint32_t tcbs_used       # as in the region
    uint32_t free_tcbs       # head of the list through View.next_in_list
    uint32_t free_holds_count
    uint32_t holds_used      # hold buffers at and beyond this have never been used
    uint32_t flows_used      # live entries
    uint32_t half_open       # connections in SYN-RECEIVED, of all listeners
    uint32_t page_generation # of the stack page when it was last looked at for changes, and
    uint64_t page_changed_at # ns: when there was one
    uint16_t listeners_by_port[LISTENER_SLOTS]      # index in listeners + 1
    uint16_t listeners_by_number[LISTENER_SLOTS]
    # timers
    uint32_t wheel[WHEEL_LEVELS * WHEEL_SLOTS]
    uint64_t wheel_map[WHEEL_WORDS]   # bit: that slot is not empty
    uint32_t wait_first      # TIME-WAIT, oldest first
    uint32_t wait_last
    uint64_t wheel_tick      # ticks done
    uint32_t wheel_count
    # work of this batch
    uint32_t dirty_count
    Outgoing outbox[OUTBOX]
    uint32_t outbox_count
    Device device
    # programs
    Channel channels[MAX_CHANNELS]
    uint16_t active[MAX_CHANNELS]   # channels of live programs
    uint32_t active_count
    uint64_t live[4]         # the same as bits
    uint32_t unused          # channels whose program is gone and whose memory nothing uses any more
    # random numbers and limits
    uint64_t random_key[2]
    uint64_t random_drawn    # numbers ever drawn with it
    uint32_t challenge_second
    uint32_t challenges      # sent in that second
    uint32_t errors_second   # of ICMP errors, the same
    uint32_t errors_sent
    uint16_t ip_id
    uint8_t narrow_paths     # there was one
    uint16_t fragments_id    # identification of datagrams that leave in fragments
    # next hops whose hardware address is not known: replica.py asks link for them and empties the list
    Address wanted[WANTED]
    uint32_t wanted_count
    # faults on demand
    uint32_t trap_point      # enum Point; 0: only count
    uint32_t trap_after      # so many times later
    void *trap_jump          # in tests: where the "death" of this incarnation leads
    uint32_t hits[POINTS]    # how often each point was passed while `trap` was set
    Capture captures[CAPTURES]
    uint32_t capture_count   # 0: nobody looks
    uint32_t loop_head
    uint32_t loop_tail
