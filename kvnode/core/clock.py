"""The hybrid logical clock: stamps that rise, stay near real time, and are never issued twice.

Decides: the next stamp, what a received stamp does to the clock, and when the durable ceiling must rise.  Leaves to
others: reading the wall clock and writing the ceiling to disk (`kvnode.service.ceilings`).

A stamp is one integer: 48 bits of milliseconds since 1970, then a 16-bit counter.  Written so, the receive rule of R2
is `max + 1` and a full counter carries into the milliseconds by itself.

Invariants: `last` never falls; nothing above `ceiling` is issued; the ceiling is durable before it is handed to
`raise_ceiling`. So a restart that begins at the ceiling repeats nothing, even if the wall clock went back (R3).

Sources: Kulkarni et al., "Logical Physical Clocks" (2014); protocol R2, R3.  Caveat: ballots that outbid another node's
may exceed the ceiling; incarnation and issue number keep those unique (R5).
"""

from __future__ import annotations

COUNTER_BITS = 16
_RESERVE_OFFSETS_MAX = 8
"""A start begins at the ceiling, so a reserve of this many max_offset is also the longest wait after a crash."""


def stamp_of(ms: int) -> int:
    """Return the first stamp of a millisecond."""
    return ms << COUNTER_BITS


def stamp_ms(stamp: int) -> int:
    """Return the milliseconds of a stamp."""
    return stamp >> COUNTER_BITS


class HybridClock:
    """One node's clock.  `physical_ms` arguments are the wall clock, in milliseconds since 1970."""

    __slots__ = ("ceiling", "last", "max_offset_ms", "reserve_ms")

    def __init__(self, max_offset_ms: int, durable_ceiling: int = 0) -> None:
        self.max_offset_ms = max_offset_ms
        self.last = durable_ceiling
        self.ceiling = durable_ceiling
        self.reserve_ms = max(1, max_offset_ms // 2)
        """How far ahead of now the next ceiling will be."""

    def issue(self, physical_ms: int, above: int = 0) -> int | None:
        """Return a new stamp greater than `above` and than every one before, or None while the ceiling stands in its
        way.

        After None, make `next_ceiling()` durable, call `raise_ceiling`, and ask again.  `above` is not merged into the
        clock unless a stamp is returned.
        """
        stamp = max(physical_ms << COUNTER_BITS, self.last + 1, above + 1)
        if stamp > self.ceiling:
            return None
        self.last = stamp
        return stamp

    def observe(self, stamp: int, physical_ms: int) -> bool:
        """Merge a stamp received from another node; False if it is too far ahead and was refused (R2)."""
        if stamp_ms(stamp) > physical_ms + self.max_offset_ms:
            return False
        self.last = max(self.last, stamp)
        return True

    def next_ceiling(self, physical_ms: int) -> int:
        """Return the ceiling to make durable now: `reserve_ms` ahead of the later of wall clock and `last`."""
        return stamp_of(max(physical_ms, stamp_ms(self.last)) + self.reserve_ms)

    def raise_ceiling(self, durable_ceiling: int) -> None:
        """Allow stamps up to `durable_ceiling`, which must be on disk."""
        self.ceiling = max(self.ceiling, durable_ceiling)

    def on_renewed(self, took_ms: int) -> None:
        """Take the time from the put of a ceiling until it was durable, and reserve twice that from now on.

        Half of max_offset is the least.  With less than the disk takes, every ceiling would have passed before it
        counts, and nothing could ever be issued.  The most is `_RESERVE_OFFSETS_MAX` times max_offset.
        """
        longest_ms = _RESERVE_OFFSETS_MAX * self.max_offset_ms
        self.reserve_ms = max(1, self.max_offset_ms // 2, min(2 * took_ms, longest_ms))

    def should_renew(self, physical_ms: int) -> bool:
        """Return whether less than half of the reserve is left: renew within the next ordinary group."""
        return stamp_ms(self.ceiling) - physical_ms < self.reserve_ms // 2

    def is_ahead(self, physical_ms: int) -> bool:
        """Return whether the clock stands more than max_offset before the wall clock: no eventual write then (R3)."""
        return stamp_ms(self.last) > physical_ms + self.max_offset_ms

    def invariants(self) -> None:
        """Raise AssertionError if a stamp above the durable ceiling was issued."""
        assert self.last >= 0
        assert self.ceiling >= 0
