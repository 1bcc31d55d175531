"""A node's wall clock, unless it leaps ahead of the monotonic one: then the others must bear it out first.

Decides: which time a node goes by.  Leaves to others: what the time is used for; nothing safe depends on it (R2-R5).

A wall clock that is set forward by mistake does harm that outlasts the mistake: the node issues stamps and makes
promises of that time, which the others refuse, and which it keeps when the clock is right again.  With two such nodes
of three no strong write would succeed until the time has come.  A leap shows at once, for the monotonic clock does not
make it.  So the node goes on from the last good time by the monotonic clock until

- the wall clock is back where it should be, or
- a majority of the nodes, this one among them, has a machine whose clock says the same: then the leap was right (a
  machine that was suspended; a correction), and the node follows it.

With every other node out of reach it keeps the time that it has: behind is harmless, ahead is not.  A clock that goes
back is followed at once; stamps never go back (R3).  What is wrong from the start on does not show here (R4), nor does
a clock that runs fast, or leaps again and again by less than what is allowed.

Invariant: the monotonic clock is read before the wall clock.  Whatever stops the process between the two readings then
looks like a leap that is over with the next reading; the other way round the wall clock would be taken for late, and
when it is right again for leapt.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from kvnode.runtime import Clock

_log = logging.getLogger("kvnode")


class SteadyClock:
    """A `Clock` over the machine's, which is read once per call while nothing is wrong."""

    def __init__(self, clock: Clock, leap_ms_max: int) -> None:
        self._clock = clock
        self._leap_ms_max = leap_ms_max
        self._anchor_s = clock.monotonic_s()
        self._anchor_ms = clock.wall_ms()
        self._limit_ms = self._anchor_ms + leap_ms_max
        self.leap_ms = 0
        """How far the machine's wall clock is ahead of the time that this node goes by; 0: they are the same."""

    def wall_ms(self) -> int:
        """Return the time that this node goes by."""
        now_ms = self._clock.wall_ms()
        if self._anchor_ms <= now_ms < self._limit_ms and not self.leap_ms:
            return now_ms
        return self._judge()

    def machine_ms(self) -> int:
        """Return the machine's wall clock, whatever is thought of it: what the others compare theirs with."""
        return self._clock.wall_ms()

    def monotonic_s(self) -> float:
        """Return the monotonic clock."""
        return self._clock.monotonic_s()

    def _judge(self) -> int:
        """Follow the wall clock, or hold the time if it has leapt."""
        now_s = self._clock.monotonic_s()
        now_ms = self._clock.wall_ms()
        expected_ms = self._anchor_ms + round((now_s - self._anchor_s) * 1000)
        leap_ms = now_ms - expected_ms
        if leap_ms <= self._leap_ms_max:
            if self.leap_ms:
                _log.warning("the wall clock is back where it was expected; this node follows it again")
            self._follow(now_s, now_ms)
            return now_ms
        if not self.leap_ms:
            _log.warning(
                "the wall clock leapt %d ms ahead of the monotonic one; until most nodes bear it out, this node goes on"
                " from the time before",
                leap_ms,
            )
        self.leap_ms = leap_ms
        return expected_ms

    def _follow(self, now_s: float, now_ms: int) -> None:
        self._anchor_s, self._anchor_ms = now_s, now_ms
        self._limit_ms = now_ms + self._leap_ms_max
        self.leap_ms = 0

    def hear(self, offsets_ms: Sequence[tuple[int, int]], nodes: int) -> None:
        """Take how far the other nodes' machines are ahead of this node's time, and by how much that may be off, of
        `nodes` in all: do they surely bear a leap out?"""
        if not self.leap_ms:
            return
        same = sum(abs(offset - self.leap_ms) + error <= self._leap_ms_max for offset, error in offsets_ms)
        if (same + 1) * 2 > nodes:
            _log.warning("the other nodes bear the wall clock out: this node follows it, %d ms ahead", self.leap_ms)
            self._follow(self._clock.monotonic_s(), self._clock.wall_ms())
