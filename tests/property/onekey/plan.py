"""What one schedule does: which faults and operations occur, and how often.

Swarm testing: each schedule leaves out most faults, for one that does everything at once rarely does the same thing
twice.
"""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass
class Plan:
    """How often things happen in one schedule.  Weights are relative; the others are probabilities."""

    steps: int = 160
    clients: int = 3
    deliver: float = 30.0
    sync: float = 10.0
    start: float = 5.0
    submit: float = 2.0
    retry_attempt: float = 0.3
    abandon_client: float = 0.1
    timeout: float = 0.3
    lose: float = 0.1
    crash: float = 0.1
    flush: float = 0.1
    commit: float = 1.0
    write: float = 0.5
    tick: float = 0.3
    give_up: float = 0.1
    drop: float = 0.05
    duplicate: float = 0.05
    link_down: float = 0.0
    cut: float = 0.0
    """How often a coordinator stops with its accept on the way to one replica."""
    reads: float = 0.3
    fast_read: float = 0.7
    newest_first: float = 0.0
    spread_ms: int = 0
    max_offset_ms: int = 500
    timeout_ms: int = 5000
    ttl: float = 0.0
    window: int = 1024
    primary: float = 0.7
    """How often a request goes to the same node; the other nodes make duels."""
    slow: int = -1
    """Messages to this node wait while there are others (a node that is always behind)."""
    focus: float = 0.0
    """How often one node's messages are preferred for a while, so that rounds complete between delays."""


def draw_plan(rng: random.Random) -> Plan:
    """Return a plan in which a random subset of the faults occurs."""

    def some(*values: float) -> float:
        return rng.choice((0.0, *values))

    return Plan(
        steps=rng.choice((120, 200, 300)),
        clients=rng.choice((1, 2, 3, 4)),
        sync=rng.choice((3.0, 10.0, 30.0)),
        retry_attempt=some(0.2, 1.0),
        abandon_client=some(0.1, 0.3),
        timeout=some(0.2, 0.6),
        lose=some(0.2),
        crash=some(0.1, 0.4),
        flush=some(0.2),
        commit=rng.choice((0.1, 1.0, 3.0)),
        write=some(0.3, 1.0),
        tick=some(0.3, 1.0),
        give_up=some(0.2),
        drop=some(0.05, 0.3),
        duplicate=some(0.1),
        link_down=some(0.1, 0.3),
        cut=some(0.2, 0.5),
        reads=rng.choice((0.1, 0.3, 0.7)),
        fast_read=rng.choice((0.2, 0.9)),
        newest_first=some(0.3, 0.6),
        spread_ms=(spread := rng.choice((0, 10, 3000, 200_000))),
        max_offset_ms=1_000_000 if spread > 500 and rng.random() < 0.8 else 500,
        primary=rng.choice((0.2, 0.7, 0.95)),
        timeout_ms=rng.choice((300, 5000, 3_600_000)),
        ttl=some(0.2),
        window=rng.choice((1024, 1024, 2)),
        slow=rng.choice((-1, 0, 1)),
        focus=some(0.5),
    )
