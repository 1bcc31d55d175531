"""How busy the nodes are, as they tell each other: who is so much busier than the rest that it is better asked last.

Decides: which nodes count as busy.  Leaves to others: measuring and telling (`service.health`), and what follows: the
order in which replicas are asked for a read that others can answer as well.  Never whether a quorum is one.

What a request waits for at a node before anything is done for it is the lateness of that node's event loop: what was
due then waits for what runs before it.  A read needs nothing else, so the loop alone makes a node busy.  A node is
compared with the median of all, this one included: where all are equally busy, no order helps.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

BUSY_US_MIN = 5_000
"""A loop that is less late is not worth a detour: it is a few timer ticks, or one large frame."""
_TIMES_THE_MEDIAN = 3


class Load(NamedTuple):
    """What one node tells of itself; the order is that of the wire."""

    in_flight: int
    """Requests that it works on."""
    loop_us: int
    """By how much its event loop is late, smoothed over about a second."""
    commit_us: int
    """How long its disk took to make the last ceiling durable."""


def busy(loads: Sequence[Load | None]) -> int:
    """Return the nodes that are busier than the rest by far, as bits; None: nothing is known of that node."""
    known = [load.loop_us for load in loads if load is not None]
    if len(known) < 2:
        return 0
    bound_us = max(BUSY_US_MIN, _TIMES_THE_MEDIAN * median(known))
    bits = 0
    for index, load in enumerate(loads):
        if load is not None and load.loop_us > bound_us:
            bits |= 1 << index
    return bits
