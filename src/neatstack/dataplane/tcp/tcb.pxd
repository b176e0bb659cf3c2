"""The transmission control block: all that one connection is, in memory that outlives the process.

Lives in the state region (`Stack.tcbs`, found by index; index 0 means none). Written by its replica only. What can
be derived (lookup, timers' places in the wheel, addresses of buffers) is private to the incarnation and not here.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from neatstack.dataplane.channel.address cimport Address

cpdef enum State:            # RFC 9293 section 3.3.2; numbered as Linux numbers them (TCP_ESTABLISHED = 1...)
    FREE = 0
    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECEIVED = 3
    FIN_WAIT_1 = 4
    FIN_WAIT_2 = 5
    TIME_WAIT = 6
    CLOSED = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11

cdef enum:
    RECENT = 4               # ranges whose order of arrival is remembered, for selective acknowledgments
    RANGES = 8               # out-of-order ranges remembered; data beyond them is dropped and sent again by the peer
    NO_CHANNEL = 0xFFFF      # Tcb.channel: no program has been given this connection yet

cdef enum Timer:             # each a deadline in Tcb.timers, ns of Stack.now; 0: off
    TIMER_RETRANSMIT         # RFC 6298; also SYN and SYN-ACK
    TIMER_PERSIST            # zero-window probes, RFC 9293 section 3.8.6.1
    TIMER_DELAYED_ACK        # RFC 9293 section 3.8.6.3
    TIMER_KEEPALIVE          # RFC 9293 section 3.8.4
    TIMER_TIME_WAIT          # 2 MSL; also the limit on FIN-WAIT-2 of a closed socket
    TIMERS

cdef enum TcbFlag:
    TCB_ACK_NOW = 1          # an ACK is owed at once
    TCB_ACK_DELAYED = 2      # an ACK is owed within the delayed-ACK time
    TCB_FIN_QUEUED = 4       # the user has closed its sending side: a FIN follows the last byte
    TCB_FIN_SENT = 8
    TCB_FIN_RECEIVED = 16    # the peer's FIN has been reached in order
    TCB_DETACHED = 32        # no program holds the socket any more
    TCB_PASSIVE = 64         # opened by a SYN to a listener
    TCB_ACCEPTED = 128       # a program's accept() has returned it
    TCB_RECOVERY = 256       # fast recovery, RFC 6582
    TCB_RTT_TIMING = 512     # one segment is being timed (Karn: never a retransmitted one)
    TCB_LOOPBACK = 1024      # both ends are in this replica
    TCB_WINDOW_SCALING = 2048
    TCB_HELD = 4096          # its receive buffer is a hold buffer of the region, for want of a program
    TCB_READ_SHUT = 8192     # the user waits for no more data
    TCB_RETRANSMIT = 16384   # the segment at snd.una is to be sent again (fast retransmit)
    TCB_FORCE = 32768        # the persist timer has fired: send what fits, however small
    TCB_RESET_OWED = 65536   # CLOSED, and the peer is still to be told by RST
    TCB_FIN_SEEN = 131072    # the peer's FIN has come out of order: it is at rcv.fin
    TCB_HEARD = 262144       # text has come since we last sent some: more of it is the same request
    TCB_SACK = 524288        # both SYNs have said SACK-permitted
    TCB_TIMESTAMPS = 1048576 # both SYNs had timestamps
    TCB_URGENT_OUT = 2097152 # urgent data ends before snd.up, and was not acknowledged yet
    TCB_URGENT_IN = 4194304  # rcv.up is known: the peer's last urgent byte
    TCB_FASTOPEN = 16777216  # its SYN had text and a good cookie (RFC 7413); of a listener: a program has it before the handshake
                             # is over, and it counts as waiting, not as half open
    TCB_COOKIE_OWED = 33554432  # our SYN-ACK brings a cookie
    TCB_COOKIE_EXPERIMENTAL = 536870912  # in the option that asked for it: that of RFC 6994
    TCB_ANSWERS = 1073741824 # we have sent text after some had come
    TCB_PROBE_TIMER = 67108864  # what TIMER_RETRANSMIT waits for is a tail loss probe (RFC 8985 section 7.2)
    TCB_REORDER_TIMER = 134217728  # or reordered segments (section 6.2, step 5)
    TCB_PACED = 268435456    # TIMER_PERSIST waits until SO_MAX_PACING_RATE lets more go
    TCB_LEAST_TTL = 2147483648  # RFC 5082: what comes from further away is dropped
    TCB_DEFERRED = 8388608   # SYN-RECEIVED: our SYN-ACK was acknowledged, but the listener wants text, too

cdef enum EcnFlag:           # RFC 3168
    ECN_OK = 1               # both ends have agreed to it
    ECN_ASKED = 2            # SYN-SENT: our SYN asks for it
    ECN_DEMAND = 4           # a marked segment has come: ECE until the peer says CWR
    ECN_QUEUED = 8           # we have reduced cwnd: CWR on the next new text
    ECN_REDUCED = 16         # for a mark; not again until cwr_end is acknowledged
    ECN_SEEN = 32            # something has ever come that could be marked

cdef struct Range:           # sequence numbers [left, right) received out of order, sitting in the receive ring
    uint32_t left
    uint32_t right

cdef struct Snd:             # RFC 9293 section 3.3.1
    uint32_t una
    uint32_t nxt
    uint32_t max             # highest snd.nxt ever sent (after a retransmission timeout nxt steps back)
    uint32_t wnd             # bytes (already scaled)
    uint32_t max_wnd         # largest the peer has ever offered, for silly window avoidance
    uint32_t up
    uint32_t wl1
    uint32_t wl2
    uint32_t iss
    uint32_t fin             # TCB_FIN_QUEUED: the sequence number of our FIN
    uint32_t small           # end of the last segment sent that was shorter than mss (Nagle)
    uint16_t mss             # bytes of payload in the largest segment we may send
    uint8_t wscale
    uint8_t backoff          # times the retransmission (or persist) timer has fired in a row

cdef struct Rcv:
    uint32_t nxt
    uint32_t wnd             # bytes last offered
    uint32_t adv             # right edge of what was ever offered: rcv.nxt + rcv.wnd then; never moves left
    uint32_t up
    uint32_t irs
    uint32_t fin
    uint16_t mss             # what we announced
    uint8_t wscale
    uint8_t pad
    uint32_t base            # ring cursor that lies at offset 0 of the receive ring
    uint32_t ranges          # how many of Late.range[] are in use
    Range duplicate          # text that came a second time, to be told with the next ACK (RFC 2883); empty: none

cdef struct Congestion:      # RFC 5681, bytes
    uint32_t cwnd
    uint32_t ssthresh
    uint32_t recover         # RFC 6582
    uint32_t dupacks         # in a row; in recovery, those whose segment snd.una has not reached yet
    uint32_t acked           # bytes acknowledged since cwnd last grew (appropriate byte counting); CUBIC: what a division has left
    uint32_t retransmits     # segments ever retransmitted
    uint8_t algorithm        # enum neat_congestion in layout.h
    uint8_t epoch            # CUBIC: 1: an epoch of congestion avoidance is under way
    uint8_t samples          # HyStart++ (RFC 9406): round trips measured in this round, as far as they are counted
    uint8_t css_rounds       # rounds of conservative slow start, the one in hand too; 0: slow start
    uint32_t w_max           # CUBIC (RFC 9438 section 4.1.2); 0: none
    uint32_t cwnd_prior
    uint32_t w_est
    uint32_t est_rest        # of the division for w_est
    uint32_t k               # ms
    uint32_t epoch_start     # ms, and so of the others
    uint32_t grown           # when an acknowledgment was counted last
    uint32_t window_end      # HyStart++: the round ends when this is acknowledged
    uint32_t last_rtt        # ms: shortest of the last round; 0: none
    uint32_t round_rtt       # of this one
    uint32_t baseline_rtt    # when conservative slow start began
    uint32_t flight          # PRR (RFC 9937): RecoverFS
    uint32_t delivered       # prr_delivered
    uint32_t out             # prr_out

cdef struct Rtt:             # RFC 6298, microseconds
    uint32_t srtt
    uint32_t rttvar
    uint32_t rto
    uint32_t seq             # the segment being timed
    uint64_t sent_at         # ns

cdef struct Stamps:          # RFC 7323 section 4.3 and 5.4, milliseconds
    uint32_t recent          # TS.Recent: what we echo
    uint32_t offset          # of our own from the clock
    uint64_t recent_at       # ns: when `recent` was last set

cdef struct Late:            # what has come out of order; means nothing while Rcv.ranges is 0
    Range range[RANGES]      # ascending and disjoint
    uint32_t recent[RECENT]  # a sequence number in each of the ranges that came last, the latest first

cdef enum Chrono:            # what the sending side waits for
    CHRONO_IDLE              # the user: all is acknowledged
    CHRONO_BUSY              # acknowledgments
    CHRONO_WINDOW            # the peer's window
    CHRONO_BUFFER            # room in the send ring: it is full, and all of it is on its way

cdef struct Tally:           # for TCP_INFO alone, and so outside the journal: what a batch has counted that died before it was
                             # committed is counted again. Segments as the peer sent them, also where they came as one
    uint32_t segments_in
    uint32_t segments_out
    uint32_t texts_in        # segments with text
    uint32_t texts_out
    uint32_t full_text       # bytes of text in the longest that has come
    uint32_t early           # segments that came before their turn
    uint32_t twice           # segments that came twice at the peer's (RFC 2883)
    uint32_t reorderings     # times that something was acknowledged after what was sent later
    uint32_t marked          # segments acknowledged with ECE
    uint32_t marks_in        # segments that came marked (CE)
    uint32_t capable_in[3]   # bytes of text that came in segments with ECT(1), ECT(0), CE
    uint32_t timeout_at      # ms: since when what a retransmission timeout has found lost is repaired; 0: it is not
    uint32_t timeout_spent   # ms that it was before that
    uint32_t sample          # snd.una when the sample of the rate that is under way began
    uint64_t sample_at       # ns
    uint64_t rate_bytes      # the last sample, and
    uint64_t rate_ns         # how long it took; 0: none yet
    uint64_t bytes_again     # sent again
    uint64_t text_at         # ns: when text came last
    uint64_t chrono_at       # ns: since when it is `chrono`
    uint64_t spent[4]        # ns, by enum Chrono
    uint8_t chrono
    uint8_t user_limited     # the last sample says how much the user had to send, not how much could go
    uint16_t timeouts        # SYNs' too
    uint16_t timeout_repairs # that timeouts have begun: later ones of a series begin none
    uint8_t syn_text         # a passive open took the text on its SYN
    uint8_t pad

cdef struct Tcb:
    # the flow; network byte order. local_be is our side
    Address local_be
    Address remote_be
    uint16_t local_port_be
    uint16_t remote_port_be
    uint8_t state            # enum State; changed by become() alone
    uint8_t error            # errno that the program shall see
    uint16_t channel         # whose memory the socket is in, or NO_CHANNEL
    uint32_t socket          # slot in that channel; with TCB_HELD: the hold buffer
    uint32_t generation      # of that slot
    uint32_t flags           # enum TcbFlag
    uint32_t listener        # TCB_PASSIVE: the listener's number
    Snd snd
    Rcv rcv
    Congestion cc
    Rtt rtt
    Stamps stamps
    uint64_t timers[TIMERS]
    uint64_t last_received   # ns
    uint64_t last_sent       # ns, of text or FIN
    uint64_t stalled_at      # ns: since when the peer has not acknowledged what we repeat; 0: it has
    uint32_t keep_probes     # keepalive probes sent without answer
    uint32_t held            # TCB_HELD: checksum of the hold buffer
    uint8_t fin_wait_s       # TCP_LINGER2 when the last program has closed, see layout.h
    uint8_t ecn              # enum EcnFlag
    uint8_t syn_saved        # TCP_SAVE_SYN: see Stack.syns
    uint8_t least_ttl        # TCB_LEAST_TTL: of packets that are taken
    uint32_t cwr_end         # ECN_REDUCED: snd.max then
    uint64_t holders[4]      # bit n: the program with channel n holds this socket
    uint64_t bytes_in
    uint64_t bytes_out
    uint32_t checksum        # of all above, and of `late` if it means something: see journal.pxd
    uint32_t stamp           # RegionHeader.batch when it was last changed; what that batch had to tell may not have been told
    Late late                # seldom of use, and so neither copied nor checked then
    Tally tally
