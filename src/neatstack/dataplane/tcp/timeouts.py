"""What happens when a timer of a connection fires."""

import cython
from cython.cimports.libc.errno import EHOSTUNREACH, ETIMEDOUT
from cython.cimports.libc.stdint import uint16_t, uint32_t, uint64_t
from cython.cimports.neatstack.dataplane.channel.address import is_v4
from cython.cimports.neatstack.dataplane.channel.atomic import load8, load16, load32
from cython.cimports.neatstack.dataplane.channel.layout import NEAT_FLAG_KEEPALIVE
from cython.cimports.neatstack.dataplane.ip.output import outbox_full
from cython.cimports.neatstack.dataplane.stack import (
    MENDING_TIMEOUT,
    NEWS_LINES,
    NEWS_OUTPUT,
    PROBE_UNMEASURED,
    Listener,
    Stack,
    View,
)
from cython.cimports.neatstack.dataplane.tcp import congestion, rack, rtt, tlp
from cython.cimports.neatstack.dataplane.tcp.emit import emit
from cython.cimports.neatstack.dataplane.tcp.frto import timer_fires
from cython.cimports.neatstack.dataplane.tcp.listen import listener_numbered
from cython.cimports.neatstack.dataplane.tcp.rtt import RTO_MOST
from cython.cimports.neatstack.dataplane.tcp.seq import least, most
from cython.cimports.neatstack.dataplane.tcp.state import end, mark
from cython.cimports.neatstack.dataplane.tcp.tally import count_timeout
from cython.cimports.neatstack.dataplane.tcp.tcb import (
    TCB_ACK_DELAYED,
    TCB_ACK_NOW,
    TCB_DEFERRED,
    TCB_DETACHED,
    TCB_FORCE,
    TCB_LOOPBACK,
    TCB_PACED,
    TCB_PASSIVE,
    TCB_PROBE_TIMER,
    TCB_RECOVERY,
    TCB_REORDER_TIMER,
    TCB_RETRANSMIT,
    TCB_SACK,
    TIMER_DELAYED_ACK,
    TIMER_KEEPALIVE,
    TIMER_PERSIST,
    TIMER_RETRANSMIT,
    TIMER_TIME_WAIT,
    State,
    Tcb,
)
from cython.cimports.neatstack.dataplane.tcp.timeouts import (
    BLACK_HOLE,
    DATA_GIVE_UP,
    DATA_RETRIES,
    FIRST_SMALLER,
    KEEP_COUNT,
    KEEP_IDLE,
    KEEP_INTERVAL,
    ORPHAN_RETRIES,
    ROUTE_PATIENCE,
    SMALLEST,
    SYN_ACK_RETRIES,
    SYN_RETRIES,
)
from cython.cimports.neatstack.dataplane.tcp.timers import MILLISECOND, SECOND, clear_timer, set_timer
from cython.cimports.neatstack.dataplane.tcp.user import abort
from cython.cimports.neatstack.dataplane.wire.headers import DEFAULT_MSS6

LONGEST_KEEPALIVE = cython.declare(uint32_t, 32767)  # seconds, and
MOST_PROBES = cython.declare(uint32_t, 127)  # as Linux bounds them


def expire(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Act on every deadline of TCB i that has passed."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    if due(s, t, TIMER_RETRANSMIT):
        retransmission_due(s, i)
    if due(s, t, TIMER_PERSIST):
        clear_timer(s, i, TIMER_PERSIST)
        if cython.unlikely(t.flags & TCB_PACED):
            t.flags &= ~cython.cast(uint32_t, TCB_PACED)
            mark(s, i, NEWS_OUTPUT)
        else:
            persist(s, i)
    if due(s, t, TIMER_DELAYED_ACK):
        clear_timer(s, i, TIMER_DELAYED_ACK)
        if t.flags & TCB_ACK_DELAYED:
            t.flags |= TCB_ACK_NOW
            mark(s, i, NEWS_OUTPUT)
    if due(s, t, TIMER_KEEPALIVE):
        clear_timer(s, i, TIMER_KEEPALIVE)
        keepalive(s, i)
    if due(s, t, TIMER_TIME_WAIT):
        clear_timer(s, i, TIMER_TIME_WAIT)
        end(s, i, 0)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def due(s: cython.pointer[Stack], t: cython.pointer[cython.const[Tcb]], timer: cython.int) -> cython.bint:
    return t.timers[timer] != 0 and t.timers[timer] <= s.now


# ---- retransmission ----


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def retransmission_due(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """TIMER_RETRANSMIT has fired: flags say what it has waited for."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    flags: uint32_t = t.flags
    tlp.stop(s, i)
    if t.state == State.SYN_SENT or t.state == State.SYN_RECEIVED:
        retransmit_syn(s, i)
    elif flags & TCB_PROBE_TIMER:
        tlp.probe(s, i)
    elif flags & TCB_REORDER_TIMER:
        rack.detect(s, i)
    else:
        retransmit(s, i)


def retransmission_timeout(s: cython.pointer[Stack], i: uint32_t) -> uint64_t:
    """RTO << backoff, bounded (RFC 6298 section 5.5), ns; once it has passed, no longer than the user waits."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    timeout: uint64_t = cython.cast(uint64_t, t.rtt.rto) << (t.snd.backoff if t.snd.backoff < 16 else 16)
    timeout = 1000 * (timeout if timeout < RTO_MOST else RTO_MOST)
    return within_user_timeout(s, i, timeout) if cython.unlikely(t.stalled_at != 0) else timeout


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def within_user_timeout(s: cython.pointer[Stack], i: uint32_t, wait: uint64_t) -> uint64_t:
    """The user's limit is kept to the millisecond: with the next timeout alone it could be passed by as much again."""
    limit: uint64_t = user_timeout(s, i)
    at: uint64_t = s.tcbs[i].stalled_at + limit
    if not limit or s.now + wait <= at:
        return wait
    return at - s.now if at > s.now else MILLISECOND


# rfc: 9293:MUST-22, 4861:7.2.2-4
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def retransmit_syn(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """SYN or SYN-ACK was not answered, or could not leave yet because the next hop's hardware address is not known."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    if t.snd.nxt == t.snd.iss:
        if s.now - t.last_received > ROUTE_PATIENCE * SECOND:
            end(s, i, EHOSTUNREACH)
            return
    elif t.snd.backoff >= syn_retries(s, i) or overdue(s, i):
        end(s, i, ETIMEDOUT)
        return
    else:
        stalled(s, i)
        t.snd.backoff += 1
        rtt.stop_timing(t)
        if t.flags & TCB_DEFERRED and t.snd.backoff < deferred(s, i):  # the peer has our SYN-ACK, and says nothing yet
            set_timer(s, i, TIMER_RETRANSMIT, s.now + retransmission_timeout(s, i))
            return
        count_timeout(t, s.now)
        t.snd.nxt = t.snd.iss
    mark(s, i, NEWS_OUTPUT)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def syn_retries(s: cython.pointer[Stack], i: uint32_t) -> uint32_t:
    """How often a SYN or SYN-ACK is sent again: TCP_SYNCNT, or Linux's defaults."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    listener: cython.pointer[Listener]
    retries: uint32_t
    if not t.flags & TCB_PASSIVE:
        retries = load8(cython.address(s.views[i].program.syn_retries)) if s.views[i].program != cython.NULL else 0
        return chosen(retries, SYN_RETRIES, MOST_PROBES)
    listener = listener_numbered(s, t.listener)
    if listener == cython.NULL:
        return SYN_ACK_RETRIES
    retries = chosen(listener.syn_retries, SYN_ACK_RETRIES, MOST_PROBES)
    return retries if retries > listener.defer or not t.flags & TCB_DEFERRED else listener.defer


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def deferred(s: cython.pointer[Stack], i: uint32_t) -> uint32_t:
    """TCP_DEFER_ACCEPT: from how many timeouts on a bare ACK will do."""
    listener: cython.pointer[Listener] = listener_numbered(s, s.tcbs[i].listener)
    return listener.defer if listener != cython.NULL else 0


# rfc: 9293:MUST-19, 4821:7.7b, 6582:3.2-4, 6298:5.4 5.5 5.6, 2018:5-LEFT-EDGE, 8985:7.1
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def retransmit(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Nothing was acknowledged for an RTO (RFC 6298 section 5.4 to 5.6): start again from snd.una, with one segment."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    if given_up(s, i):
        end(s, i, s.views[i].soft_error if s.views[i].soft_error else ETIMEDOUT)
        return
    stalled(s, i)
    count_timeout(t, s.now)
    timer_fires(s, i)
    congestion.timed_out(t, t.snd.max - t.snd.una)
    t.snd.backoff += 1
    if t.snd.backoff >= BLACK_HOLE and t.snd.max - t.snd.una >= t.snd.mss and not t.flags & TCB_LOOPBACK:
        smaller(s, i)
    t.cc.recover = t.snd.max  # RFC 6582 section 4, RFC 6675 section 5.1
    t.cc.dupacks = 0
    t.flags &= ~cython.cast(uint32_t, TCB_RECOVERY | TCB_RETRANSMIT)
    v.probe &= PROBE_UNMEASURED
    if t.flags & TCB_SACK and t.snd.wnd:
        t.snd.nxt = t.snd.max
        rack.timed_out(s, i)
        v.mending = MENDING_TIMEOUT
        t.flags |= TCB_RETRANSMIT  # RFC 6298 (5.4), whatever is on its way
    else:  # nothing is known of what is on its way, or it must wait until the window opens
        t.snd.nxt = t.snd.una
        v.stretches = v.sacked = v.mending = v.frto = 0
    rtt.stop_timing(t)
    mark(s, i, NEWS_OUTPUT | NEWS_LINES)


# rfc: 4821:7.7a 7.2 7.7d
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def smaller(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Full segments time out again and again: perhaps a link swallows them and no router may tell (RFC 4821).

    Halve them, from 1,024 bytes of packet down to what IPv4 takes everywhere, as Linux does with tcp_mtu_probing; or
    what IPv6 does.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    smallest: uint32_t = SMALLEST if is_v4(t.remote_be) else DEFAULT_MSS6
    if t.snd.mss <= smallest:
        return
    if not v.full_mss:
        v.full_mss = t.snd.mss
    v.smaller_at = s.now
    t.snd.mss = cython.cast(uint16_t, most(smallest, least(t.snd.mss // 2, FIRST_SMALLER)))


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def stalled(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Remember since when the peer does not acknowledge: since what timed out was sent."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    if not t.stalled_at:
        t.stalled_at = s.now - retransmission_timeout(s, i)


# rfc: 9293:MUST-21, 5482:3.1
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def user_timeout(s: cython.pointer[Stack], i: uint32_t) -> uint64_t:
    """TCP_USER_TIMEOUT (RFC 5482), ns; 0: the default."""
    v: cython.pointer[View] = cython.address(s.views[i])
    if v.program == cython.NULL:
        return 0
    return load32(cython.address(v.program.user_timeout_ms)) * MILLISECOND


# rfc: 5482:4.2
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def overdue(s: cython.pointer[Stack], i: uint32_t) -> cython.bint:
    """Whether the user's own limit on waiting for an acknowledgment has passed."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    limit: uint64_t = user_timeout(s, i)
    return limit != 0 and t.stalled_at != 0 and s.now - t.stalled_at >= limit


# rfc: 9293:SHLD-11 MUST-20
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def given_up(s: cython.pointer[Stack], i: uint32_t) -> cython.bint:
    """R2 of RFC 9293 section 3.8.3: the user's limit, or Linux's number of retries and the time that these come to."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    if user_timeout(s, i):
        return overdue(s, i)
    if t.snd.backoff >= (ORPHAN_RETRIES if t.flags & TCB_DETACHED else DATA_RETRIES):
        return True
    return t.stalled_at != 0 and s.now - t.stalled_at >= DATA_GIVE_UP * SECOND


# rfc: 9293:MUST-35 SHLD-30 MUST-37 SHLD-17
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def persist(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """There is something to send, and the window, or a rule against small segments, has not let it go.

    A peer that answers is probed for ever (RFC 9293 section 3.8.6.1), unless no program has the connection any more:
    else a peer could keep the memory of as many connections as it likes.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    silent: uint64_t = s.now - t.last_received
    if not t.snd.wnd:
        if t.flags & TCB_DETACHED and t.snd.backoff >= ORPHAN_RETRIES:
            abort(s, i, ETIMEDOUT)
            return
        if overdue(s, i) or (t.snd.backoff >= DATA_RETRIES and silent >= DATA_GIVE_UP * SECOND):
            end(s, i, ETIMEDOUT)
            return
        stalled(s, i)
        if t.snd.backoff < 255:
            t.snd.backoff += 1
    t.flags |= TCB_FORCE
    mark(s, i, NEWS_OUTPUT)


# ---- keepalive ----


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def chosen(value: uint32_t, default: uint32_t, limit: uint32_t) -> uint32_t:
    if not value:
        return default
    return value if value < limit else limit


# rfc: 9293:MUST-27 MUST-28
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def keep_idle(v: cython.pointer[View]) -> uint64_t:
    """ns without a word from the peer before it is probed."""
    return chosen(load16(cython.address(v.program.keep_idle_s)), KEEP_IDLE, LONGEST_KEEPALIVE) * SECOND


# rfc: 9293:MUST-24 MUST-25 MUST-26
def keepalive_start(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Start or stop keepalive (RFC 9293 section 3.8.4), as the socket's options say."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    at: uint64_t
    if v.program == cython.NULL or not v.options & NEAT_FLAG_KEEPALIVE or not synchronized(t):
        clear_timer(s, i, TIMER_KEEPALIVE)
        return
    at = t.last_received + keep_idle(v)
    set_timer(s, i, TIMER_KEEPALIVE, at if at > s.now else s.now)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def synchronized(t: cython.pointer[cython.const[Tcb]]) -> cython.bint:
    return t.state in (
        State.ESTABLISHED,
        State.CLOSE_WAIT,
        State.FIN_WAIT_1,
        State.FIN_WAIT_2,
        State.CLOSING,
        State.LAST_ACK,
    )


# rfc: 9293:MUST-29 MAY-5 SHLD-12
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def keepalive(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Probe a silent peer with an old sequence number, or give it up. What is on its way is a probe already."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    if v.program == cython.NULL or not v.options & NEAT_FLAG_KEEPALIVE or not synchronized(t):
        return
    if t.snd.una != t.snd.max:
        set_timer(s, i, TIMER_KEEPALIVE, s.now + keep_idle(v))
        return
    if s.now - t.last_received < keep_idle(v):
        set_timer(s, i, TIMER_KEEPALIVE, t.last_received + keep_idle(v))
        return
    if unanswered(s, i):
        abort(s, i, ETIMEDOUT)
        return
    t.keep_probes += 1
    if not outbox_full(s):
        emit(s, i, t.snd.nxt - 1, 0, 0)
    interval: uint64_t = chosen(load16(cython.address(v.program.keep_interval_s)), KEEP_INTERVAL, LONGEST_KEEPALIVE)
    set_timer(s, i, TIMER_KEEPALIVE, s.now + interval * SECOND)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def unanswered(s: cython.pointer[Stack], i: uint32_t) -> cython.bint:
    """Whether a probed peer has been silent too long: by TCP_USER_TIMEOUT, from its last word on, else TCP_KEEPCNT."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    limit: uint64_t = user_timeout(s, i)
    if limit:
        return t.keep_probes != 0 and s.now - t.last_received >= limit
    return t.keep_probes >= chosen(load8(cython.address(s.views[i].program.keep_count)), KEEP_COUNT, MOST_PROBES)
