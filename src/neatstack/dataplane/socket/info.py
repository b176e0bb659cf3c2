"""What a connection tells of itself when its program asks.

TCP_INFO, in the fields of Linux's struct tcp_info; TCP_SAVED_SYN.
"""

import cython
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t
from cython.cimports.libc.string import memset
from cython.cimports.neatstack.dataplane.channel.atomic import load32, store_release
from cython.cimports.neatstack.dataplane.channel.layout import TcpInfo
from cython.cimports.neatstack.dataplane.ip.output import link_mtu
from cython.cimports.neatstack.dataplane.ip.path import path_mtu
from cython.cimports.neatstack.dataplane.socket.info import (
    CWR,
    DISORDER,
    LOSS,
    OPEN,
    OPTION_ECN,
    OPTION_ECN_SEEN,
    OPTION_SACK,
    OPTION_SYN_DATA,
    OPTION_TIMESTAMPS,
    OPTION_WSCALE,
    RECOVERY,
    REORDERING,
    UNLIMITED,
)
from cython.cimports.neatstack.dataplane.stack import (
    MENDING_TIMEOUT,
    STRETCH_AGAIN,
    STRETCH_LOST,
    Board,
    Stack,
    Stretch,
    View,
)
from cython.cimports.neatstack.dataplane.tcp.congestion import LARGEST
from cython.cimports.neatstack.dataplane.tcp.output import end_of_text
from cython.cimports.neatstack.dataplane.tcp.receive import ACK_DELAY
from cython.cimports.neatstack.dataplane.tcp.scoreboard import stretch
from cython.cimports.neatstack.dataplane.tcp.seq import before, least, most
from cython.cimports.neatstack.dataplane.tcp.tally import segments
from cython.cimports.neatstack.dataplane.tcp.tcb import (
    CHRONO_BUFFER,
    CHRONO_BUSY,
    CHRONO_WINDOW,
    ECN_OK,
    ECN_REDUCED,
    ECN_SEEN,
    TCB_FASTOPEN,
    TCB_FIN_RECEIVED,
    TCB_FIN_SENT,
    TCB_PASSIVE,
    TCB_RECOVERY,
    TCB_SACK,
    TCB_TIMESTAMPS,
    TCB_WINDOW_SCALING,
    TIMER_PERSIST,
    State,
    Tcb,
)
from cython.cimports.neatstack.dataplane.tcp.timestamps import full_text
from cython.cimports.neatstack.dataplane.wire.headers import DEFAULT_MSS

NONE = cython.declare(uint64_t, 0xFFFFFFFFFFFFFFFF)


def tell_info(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Answer the program that asks about the connection of TCB i."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    info: cython.pointer[TcpInfo] = cython.address(s.channels[t.channel].asides[t.socket].info)
    asked: uint32_t = load32(cython.address(v.program.info_asked))
    memset(info, 0, cython.sizeof(TcpInfo))
    tell_state(s, i, info)
    tell_sending(s, i, info)
    tell_times(s, i, info)
    tell_counts(t, info)
    if t.syn_saved:
        info.syn = s.syns[i]
    store_release(cython.address(v.replica.info_answered), asked)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def tell_state(s: cython.pointer[Stack], i: uint32_t, info: cython.pointer[TcpInfo]) -> cython.void:
    """What was agreed upon, and the receiving side."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    mtu: uint32_t = path_mtu(s, t.remote_be)
    info.tcp_state = t.state
    info.options = cython.cast(uint8_t, options_of(t))
    if t.flags & TCB_WINDOW_SCALING:
        info.wscales = cython.cast(uint8_t, t.snd.wscale & 15 | t.rcv.wscale << 4)
    info.pmtu = mtu if mtu else link_mtu(s, t.remote_be)
    info.snd_mss = t.snd.mss
    info.advmss = full_text(t)
    info.rcv_mss = most(t.tally.full_text, DEFAULT_MSS)
    info.ato = ACK_DELAY * 1000 if t.tally.texts_in else 0
    info.snd_wnd = t.snd.wnd
    info.rcv_wnd = t.rcv.adv - t.rcv.nxt
    info.rcv_ssthresh = info.rcv_space = v.rx_limit
    info.reordering = REORDERING
    info.pacing_rate = info.max_pacing_rate = v.pacing_rate if v.pacing_rate else NONE


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def options_of(t: cython.pointer[cython.const[Tcb]]) -> uint32_t:
    options: uint32_t = 0
    if t.flags & TCB_TIMESTAMPS:
        options |= OPTION_TIMESTAMPS
    if t.flags & TCB_SACK:
        options |= OPTION_SACK
    if t.flags & TCB_WINDOW_SCALING:
        options |= OPTION_WSCALE
    if t.ecn & ECN_OK:
        options |= OPTION_ECN
        if t.ecn & ECN_SEEN:
            options |= OPTION_ECN_SEEN
    if t.flags & TCB_FASTOPEN and (t.tally.syn_text or not t.flags & TCB_PASSIVE):
        options |= OPTION_SYN_DATA
    return options


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def tell_sending(s: cython.pointer[Stack], i: uint32_t, info: cython.pointer[TcpInfo]) -> cython.void:
    """The congestion window, and what is on its way."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    b: cython.pointer[Board] = cython.address(s.boards[i])
    mss: uint32_t = most(t.snd.mss, 1)
    end: uint32_t = end_of_text(v, t)
    again: uint32_t
    info.ca_state = ca_state(t, v)
    info.backoff = t.snd.backoff
    if t.snd.una == t.snd.nxt and t.timers[cython.cast(cython.int, TIMER_PERSIST)]:
        info.probes = t.snd.backoff
    else:
        info.retransmits = t.snd.backoff
    info.probes += cython.cast(uint8_t, t.keep_probes)
    info.snd_cwnd = t.cc.cwnd // mss
    info.snd_ssthresh = UNLIMITED if t.cc.ssthresh == LARGEST else t.cc.ssthresh // mss
    info.unacked = pieces(t.snd.max - t.snd.una, mss)
    if v.stretches:
        info.sacked = pieces(b.sacked, mss)
        again = again_under_way(s, i)
        info.retrans = pieces(again, mss)
        info.lost = pieces(b.lost + again if v.mending else b.lost, mss)  # as Linux, until that is acknowledged
    info.notsent_bytes = end - t.snd.max if before(t.snd.max, end) else 0
    info.app_limited = t.tally.user_limited or not t.tally.rate_ns
    if t.tally.rate_ns:
        info.delivery_rate = per_second(t.tally.rate_bytes, t.tally.rate_ns)
    info.delivered = t.tally.texts_out - least(t.tally.texts_out, t.cc.retransmits + info.unacked)
    if t.state != State.SYN_SENT and t.state != State.SYN_RECEIVED:
        info.delivered += 1  # as Linux, the SYN too


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def ca_state(t: cython.pointer[cython.const[Tcb]], v: cython.pointer[cython.const[View]]) -> uint8_t:
    if v.mending == MENDING_TIMEOUT or (t.snd.backoff and t.snd.una != t.snd.max):
        return LOSS
    if t.flags & TCB_RECOVERY:
        return RECOVERY
    if t.ecn & ECN_REDUCED:
        return CWR
    return DISORDER if v.sacked or t.cc.dupacks else OPEN


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def pieces(length: uint32_t, mss: uint32_t) -> uint32_t:
    """Segments that so many bytes make."""
    return segments(length, mss) if length else 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def again_under_way(s: cython.pointer[Stack], i: uint32_t) -> uint32_t:
    """Bytes that were sent again, and neither arrived nor are lost as far as we know."""
    b: cython.pointer[Board] = cython.address(s.boards[i])
    total: uint32_t = 0
    start: uint32_t = s.tcbs[i].snd.una
    k: uint32_t
    for k in range(s.views[i].stretches):
        x: cython.pointer[Stretch] = stretch(b, k)
        if x.flags & (STRETCH_AGAIN | STRETCH_LOST) == STRETCH_AGAIN:
            total += x.end - start
        start = x.end
    return total


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def per_second(size: uint64_t, ns: uint64_t) -> uint64_t:
    us: uint64_t = ns // 1000
    return size * 1000000 // us if us else size * 1000000000


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def tell_times(s: cython.pointer[Stack], i: uint32_t, info: cython.pointer[TcpInfo]) -> cython.void:
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    info.rto = t.rtt.rto
    info.rtt = info.rcv_rtt = t.rtt.srtt
    info.rttvar = t.rtt.rttvar
    info.min_rtt = s.views[i].min_rtt if s.views[i].min_rtt else cython.cast(uint32_t, NONE)
    info.last_data_sent_ms = ago(s, t.last_sent if t.last_sent else t.last_received)
    info.last_data_recv_ms = ago(s, t.tally.text_at if t.tally.text_at else t.last_received)
    info.last_ack_recv_ms = ago(s, t.last_received)
    info.rwnd_limited = spent(s, t, CHRONO_WINDOW)
    info.sndbuf_limited = spent(s, t, CHRONO_BUFFER)
    info.busy_time = spent(s, t, CHRONO_BUSY) + info.rwnd_limited + info.sndbuf_limited
    info.total_rto_time_ms = t.tally.timeout_spent
    if t.tally.timeout_at:
        info.total_rto_time_ms += cython.cast(uint32_t, s.now // 1000000) - t.tally.timeout_at


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def spent(s: cython.pointer[cython.const[Stack]], t: cython.pointer[cython.const[Tcb]], chrono: cython.int) -> uint64_t:
    """us that the sending side has waited for this, and does perhaps still."""
    before_now: uint64_t = t.tally.spent[chrono]
    return (before_now + s.now - t.tally.chrono_at if t.tally.chrono == chrono else before_now) // 1000


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def ago(s: cython.pointer[cython.const[Stack]], at: uint64_t) -> uint32_t:
    """ms."""
    return cython.cast(uint32_t, (s.now - at) // 1000000) if at < s.now else 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def tell_counts(t: cython.pointer[cython.const[Tcb]], info: cython.pointer[TcpInfo]) -> cython.void:
    """Since the connection began. Of the numbers that SYN and FIN take those count that Linux counts."""
    away: uint32_t = t.snd.max - t.snd.una
    info.total_retrans = t.cc.retransmits
    info.bytes_sent = t.bytes_out + t.tally.bytes_again
    info.bytes_retrans = t.tally.bytes_again
    info.bytes_acked = t.bytes_out - (away if away < t.bytes_out else t.bytes_out)
    if t.flags & TCB_FIN_SENT:  # it is the last of what is away, or was acknowledged
        info.bytes_acked += 1
    if not t.flags & TCB_PASSIVE and t.state != State.SYN_SENT:
        info.bytes_acked += 1
    info.bytes_received = t.bytes_in + (1 if t.flags & TCB_FIN_RECEIVED else 0)
    info.segs_out = t.tally.segments_out
    info.segs_in = t.tally.segments_in
    info.data_segs_out = t.tally.texts_out
    info.data_segs_in = t.tally.texts_in
    info.delivered_ce = t.tally.marked
    info.dsack_dups = t.tally.twice
    info.reord_seen = t.tally.reorderings
    info.rcv_ooopack = t.tally.early
    info.total_rto = t.tally.timeouts
    info.total_rto_recoveries = t.tally.timeout_repairs
    info.received_ce = t.tally.marks_in
    info.received_e1_bytes = t.tally.capable_in[0]
    info.received_e0_bytes = t.tally.capable_in[1]
    info.received_ce_bytes = t.tally.capable_in[2]
    info.ecn_mode = 1 if t.ecn & ECN_OK else 0  # TCPI_ECN_MODE_RFC3168: what the peer has had marked it does not count
