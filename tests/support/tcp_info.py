"""struct tcp_info of Linux (include/uapi/linux/tcp.h), of the kernel's sockets and of the stack's alike."""

from __future__ import annotations

import socket
import struct
from types import SimpleNamespace
from typing import Any

NAMES = (
    "state ca_state retransmits probes backoff options wscales app_limited rto ato snd_mss rcv_mss unacked sacked lost "
    "retrans fackets last_data_sent last_ack_sent last_data_recv last_ack_recv pmtu rcv_ssthresh rtt rttvar "
    "snd_ssthresh snd_cwnd advmss reordering rcv_rtt rcv_space total_retrans pacing_rate max_pacing_rate bytes_acked "
    "bytes_received segs_out segs_in notsent_bytes min_rtt data_segs_in data_segs_out delivery_rate busy_time "
    "rwnd_limited sndbuf_limited delivered delivered_ce bytes_sent bytes_retrans dsack_dups reord_seen rcv_ooopack "
    "snd_wnd"
).split()
FIELDS = struct.Struct("=8B24I4Q6I4Q2I2Q4I")


def tcp_info(sock: Any) -> SimpleNamespace:
    """What `sock` (a socket, or a puppet's) tells of itself."""
    told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, FIELDS.size)
    return SimpleNamespace(**dict(zip(NAMES, FIELDS.unpack(told), strict=True)))
