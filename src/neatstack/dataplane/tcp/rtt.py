"""The round trip and the retransmission timeout (RFC 6298), in microseconds."""

import cython
from cython.cimports.libc.stdint import int32_t, uint32_t
from cython.cimports.neatstack.dataplane.tcp.rtt import RTO_INITIAL, RTO_LEAST, RTO_MOST
from cython.cimports.neatstack.dataplane.tcp.tcb import Tcb


# rfc: 6298:2.1
def start(t: cython.pointer[Tcb]) -> cython.void:
    """Nothing has been measured yet (2.1)."""
    t.rtt.srtt = 0
    t.rtt.rttvar = 0
    t.rtt.rto = RTO_INITIAL


# rfc: 6298:2.2 2.3 2.3-SHOULD 2.5 4-G
def measured(t: cython.pointer[Tcb], round_trip: uint32_t) -> cython.void:
    """A round trip of so many microseconds has been measured."""
    error: int32_t
    spread: uint32_t
    if not round_trip:
        round_trip = 1  # srtt 0 means: none yet
    if round_trip > RTO_MOST:
        round_trip = RTO_MOST
    if not t.rtt.srtt:  # (2.2)
        t.rtt.srtt = round_trip
        t.rtt.rttvar = round_trip // 2
    else:  # (2.3), RTTVAR first; alpha = 1/8, beta = 1/4
        error = round_trip - t.rtt.srtt
        t.rtt.rttvar = t.rtt.rttvar - (t.rtt.rttvar >> 2) + (cython.cast(uint32_t, error if error > 0 else -error) >> 2)
        t.rtt.srtt = t.rtt.srtt - (t.rtt.srtt >> 3) + (round_trip >> 3)
        if not t.rtt.srtt:
            t.rtt.srtt = 1
    # The least stands for G in max(G, 4 * RTTVAR), as in Linux, not for a floor under the sum: on a path whose
    # round trip is long and even, an RTO hardly above it would fire at every delayed ACK.
    spread = 4 * t.rtt.rttvar
    t.rtt.rto = t.rtt.srtt + (spread if spread > RTO_LEAST else RTO_LEAST)
    if t.rtt.rto > RTO_MOST:
        t.rtt.rto = RTO_MOST


def after_measurements(round_trips: list) -> dict:
    """Probe: srtt, rttvar and rto after these round trips."""
    t: Tcb
    start(cython.address(t))
    for round_trip in round_trips:
        measured(cython.address(t), round_trip)
    return {"srtt": t.rtt.srtt, "rttvar": t.rtt.rttvar, "rto": t.rtt.rto}
