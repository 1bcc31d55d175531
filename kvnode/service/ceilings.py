"""The durable ceiling under which this node issues stamps and ballots, and promises without a sync.

Decides: when to renew it (R3, R11).  Leaves to others: the clock's arithmetic (`core.clock`) and the disk.

One number serves both rules.  Before anything above it is issued or promised without its own sync, a higher one is on
disk; so after a restart the clock begins at it, and every key's promise counts as at least it.  It is renewed ahead of
need with the first stamp issued once half of it is used up, so the renewal rides on the group that carries that stamp's
own row.  How far ahead it lies follows the disk: twice what the last renewal took, and at least half of max_offset.
"""

from __future__ import annotations

from collections.abc import Callable

from kvclient.wire.values import Ballot
from kvnode.core.clock import HybridClock
from kvnode.core.version import BallotIssuer, ballot_greatest_at
from kvnode.runtime import Clock
from kvnode.service.age import Age
from kvnode.storage.engine import Engine

_META = "ceiling"


class Ceilings:
    """Issues stamps and ballots below a durable ceiling."""

    def __init__(self, engine: Engine, clock: Clock, issuer: BallotIssuer, max_offset_ms: int, age: Age) -> None:
        stored = engine.load_meta(_META)
        durable = int.from_bytes(stored, "big") if stored else 0
        self.restart_promise = ballot_greatest_at(durable) if stored else Ballot(b"")
        """Every promise of an earlier life counts as this one (R11)."""
        self.hybrid = HybridClock(max_offset_ms, durable)
        self._engine = engine
        self._clock = clock
        self._issuer = issuer
        self._age = age
        self._renewing = 0
        self._started_s = 0.0
        self.commit_s = 0.0
        """How long the last ceiling took to reach the disk."""
        self._waiting: list[Callable[[], None]] = []

    def start(self, then: Callable[[], None]) -> None:
        """Make a first ceiling durable, then call `then`."""
        self.when_raised(then)

    def stamp(self, above: int = 0) -> int | None:
        """Return a new stamp greater than `above`, or None: then come back through `when_raised`."""
        physical_ms = self._clock.wall_ms()
        if not self._renewing and self.hybrid.should_renew(physical_ms):
            self._renew(physical_ms, above)
        return self.hybrid.issue(physical_ms, above)

    def ballot(self, seen: Ballot) -> tuple[Ballot, Ballot] | None:
        """Return a new ballot above `seen` and the one that follows it, or None: then come back through
        `when_raised`."""
        stamp = self.stamp()
        if stamp is None:
            return None
        ballot = self._issuer.issue(stamp, seen)
        return ballot, self._issuer.follow(ballot)

    def when_raised(self, then: Callable[[], None], above: int = 0) -> None:
        """Call `then` once a ceiling that leaves room above `above` is durable."""
        self._waiting.append(then)
        if not self._renewing:
            self._renew(self._clock.wall_ms(), above)

    def covers(self, ballot: Ballot) -> bool:
        """Return whether a promise of `ballot` is safe without a sync of its own (R11)."""
        return int.from_bytes(ballot[:8], "big") <= self.hybrid.ceiling

    def renew(self) -> None:
        """Raise the ceiling with the group that is open, if it is time for that: then what comes next needs no sync of
        its own (R11), also on a node that issues nothing itself."""
        physical_ms = self._clock.wall_ms()
        if not self._renewing and self.hybrid.should_renew(physical_ms):
            self._renew(physical_ms, 0)

    def _renew(self, physical_ms: int, above: int) -> None:
        # Never below the one that stands: promises up to it were made without a sync (R11).
        self._renewing = max(self.hybrid.next_ceiling(physical_ms), above + 1, self.hybrid.ceiling)
        self._started_s = self._clock.monotonic_s()
        self._age.note()
        self._engine.put_meta(_META, self._renewing.to_bytes(8, "big"), sync=True, then=self._on_durable)

    def _on_durable(self) -> None:
        self.hybrid.raise_ceiling(self._renewing)
        self.commit_s = self._clock.monotonic_s() - self._started_s
        self.hybrid.on_renewed(round(self.commit_s * 1000))
        self._renewing = 0
        waiting, self._waiting = self._waiting, []
        for then in waiting:
            then()
