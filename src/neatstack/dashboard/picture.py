"""What the page is told of a stack, as JSON-ready values."""

import time
from dataclasses import asdict
from typing import Any

from neatstack.observe.client import Feed
from neatstack.observe.rates import Rates, ReplicaView, StackView

MEMORY = 300  # samples, one a second: what the charts show
TOLD = (
    *("name", "address", "device", "version", "uptime", "active", "draining", "max_replicas", "auto", "under_way"),
    *("rejuvenation", "spares_ready", "spares", "connections", "pins", "table", "wrong_replica", "queue_drops"),
    *("programs", "manager_restarts"),
)
TOLD_OF_REPLICA = (
    *("id", "pid", "incarnation", "state", "takes_new", "version", "connections", "busy", "buckets", "pins"),
    *("recoveries", "resident", "drops"),
)


def picture(feed: Feed) -> dict[str, Any]:
    """All that changes: the stack as it is now, and what has happened to it in the last round.

    While the stack does not answer, `problem` says why and the rest is what was known last.
    """
    view = feed.view
    return {
        "time": time.time(),
        "problem": feed.problem,
        "silent": round(feed.silent_for, 1),
        "stack": stack(view) if view else None,
        "events": [asdict(event) for event in feed.fresh],
    }


def stack(view: StackView) -> dict[str, Any]:
    """The stack and its replicas."""
    told = {name: getattr(view, name) for name in TOLD}
    return told | {"rates": rates(view.rates), "replicas": [replica(each) for each in view.replicas]}


def replica(view: ReplicaView) -> dict[str, Any]:
    """One replica."""
    last = view.last_recovery
    told = {name: getattr(view, name) for name in TOLD_OF_REPLICA}
    return told | {"rates": rates(view.rates), "gap_ms": last.gap_ms if last else None}


def rates(told: Rates) -> dict[str, float]:
    """Rates to the tenth: nobody sees more."""
    return {name: round(value, 1) for name, value in asdict(told).items()}


def sample(view: StackView, at: float) -> dict[str, Any]:
    """One point of the charts."""
    points = {
        each.id: (round(each.rates.requests, 1), round(each.rates.bytes), round(each.busy or 0.0, 3))
        for each in view.replicas
    }
    return {"time": at, "replicas": points}
