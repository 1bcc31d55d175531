"""Which nodes are probably down: a suspicion that grows with silence, by what is usual for each of them.

Decides: how long a silence makes a node suspected.  Leaves to others: sending heartbeats (`kvnode.net.peers`), links
that have ended, and what a suspicion changes: the order in which replicas are asked, and hints.  Never safety: a node
that is suspected wrongly costs a little work, one that is not suspected in time a little waiting.

The suspicion is phi of Hayashibara et al., "The phi accrual failure detector" (2004): minus the decimal logarithm of
the probability that an answer comes even later than now, if intervals between answers are normally distributed as the
last ones were.  At phi = 8 one suspicion in a hundred million is wrong, if that is what they are.  They are not quite:
processes pause and garbage is collected.  So the deviation is never taken for less than a quarter of an interval.
"""

from __future__ import annotations

import math
from collections import deque

THRESHOLD = 8.0
_SAMPLES = 64
"""Intervals remembered of a node: a minute of heartbeats by default."""
_DEVIATION_MIN = 0.25
"""Of the nominal interval."""
_ERFC_SIGMAS_MAX = 25.0
"""Beyond it the error function is too close to 0 for its logarithm; an asymptote takes over."""


def phi_of(sigmas: float) -> float:
    """Return the suspicion of a silence that is so many standard deviations longer than the mean interval."""
    if sigmas < _ERFC_SIGMAS_MAX:
        return max(0.0, -math.log10(0.5 * math.erfc(sigmas / math.sqrt(2.0))))
    return sigmas * sigmas / 2.0 / math.log(10.0) + math.log10(sigmas * math.sqrt(2.0 * math.pi))


def sigmas_of(phi: float) -> float:
    """Return how many standard deviations beyond the mean a silence must be for this suspicion."""
    low, high = -10.0, 1000.0
    for _ in range(60):
        middle = (low + high) / 2.0
        if phi_of(middle) < phi:
            low = middle
        else:
            high = middle
    return high


class _Heard:
    """When one node was heard."""

    __slots__ = ("deviation_s", "intervals_s", "last_s", "mean_s")

    def __init__(self, interval_s: float) -> None:
        self.intervals_s: deque[float] = deque(maxlen=_SAMPLES)
        self.last_s: float | None = None
        self.mean_s = interval_s
        self.deviation_s = interval_s * _DEVIATION_MIN


class Detector:
    """The suspicions of one node against the others, by node index.  `now_s` is monotonic time."""

    def __init__(self, nodes: int, interval_s: float, threshold: float = THRESHOLD) -> None:
        self._interval_s = interval_s
        self._sigmas = sigmas_of(threshold)
        self._heard = [_Heard(interval_s) for _ in range(nodes)]

    def heard(self, index: int, now_s: float) -> None:
        """Take an answer to a heartbeat."""
        node = self._heard[index]
        last_s, node.last_s = node.last_s, now_s
        if last_s is None or now_s < last_s:
            return
        intervals_s = node.intervals_s
        intervals_s.append(now_s - last_s)
        count = len(intervals_s)
        node.mean_s = mean_s = sum(intervals_s) / count
        variance = sum((interval_s - mean_s) ** 2 for interval_s in intervals_s) / count
        node.deviation_s = max(math.sqrt(variance), self._interval_s * _DEVIATION_MIN)

    def lost(self, index: int) -> None:
        """Expect nothing of a node whose link has ended; the outage is no sample of its rhythm."""
        self._heard[index].last_s = None

    def forgive(self, pause_s: float) -> None:
        """Leave out of every silence a time in which this node itself stood still and could not hear."""
        for node in self._heard:
            if node.last_s is not None:
                node.last_s += pause_s

    def phi(self, index: int, now_s: float) -> float:
        """Return the suspicion against a node: 0 if nothing is expected of it."""
        node = self._heard[index]
        if node.last_s is None:
            return 0.0
        return phi_of((now_s - node.last_s - node.mean_s) / node.deviation_s)

    def suspects(self, now_s: float) -> int:
        """Return the nodes under suspicion, as bits."""
        suspected = 0
        for index, node in enumerate(self._heard):
            last_s = node.last_s
            if last_s is not None and now_s - last_s - node.mean_s >= self._sigmas * node.deviation_s:
                suspected |= 1 << index
        return suspected
