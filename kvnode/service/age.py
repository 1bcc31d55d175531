"""The age of this node's data directory: a durable number that grows when the directory has changed (R1, R44).

Decides: when it grows.  Leaves to others: telling the other nodes, and refusing a directory that is younger than what
they have been told of it (`membership`).

An incarnation finds a backup only if the node was started again after it was taken.  A copy that was taken while the
process ran, or a snapshot of its machine, has the incarnation of now, and lacks what was promised and acknowledged
since.  So the age grows with what must not be forgotten: every row that is put before an answer, every ceiling.

- The first row after a quiet second carries the next age in its own group: the row is not acknowledged before the age
  is durable, and the other nodes hear of it with the acknowledgement.
- While rows keep coming it grows once a second.

What remains unnoticed is a backup after which the directory was changed for less than `PERIOD_S` (and a sweep, a sync,
a message and the other node's sync), and a life that no node that is up was told of.

It is not the ceiling, though that would grow by itself while strong writes are coordinated: a clock that was ahead and
is set right holds the ceiling still for as long as it was ahead, and an acceptor alone need not raise it.

Invariant: `durable` is on disk, and is the only age that anybody is told: a crash never makes a directory look older.
"""

from __future__ import annotations

from collections.abc import Callable

from kvnode.runtime import Clock
from kvnode.storage.engine import Engine

PERIOD_S = 1.0
"""The others write down each age that they are told: one small row a second for each node that is written to."""
_META = "age"


class Age:
    """Counts, durably, the periods in which this node's directory was changed."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        stored = engine.load_meta(_META)
        self.found = int.from_bytes(stored, "big") if stored else 0
        """The age of the directory when this process began."""
        self.durable = self.found
        self.is_noted = False
        """True: something was put since the last age, and the next age is not due yet."""
        self.on_raised: Callable[[int], None] = _tell_nobody
        """Called with each new age once it is durable."""
        self._engine = engine
        self._clock = clock
        self._put = self.found
        self._next_s = clock.monotonic_s()

    def note(self) -> None:
        """Note that something is about to be put that must not be forgotten; needless while `is_noted`."""
        now_s = self._clock.monotonic_s()
        if now_s >= self._next_s:
            self._raise(now_s)
        else:
            self.is_noted = True

    def sweep(self, now_s: float) -> None:
        """Let the age grow if it is due."""
        if self.is_noted and now_s >= self._next_s:
            self._raise(now_s)

    def _raise(self, now_s: float) -> None:
        self.is_noted = False
        self._next_s = now_s + PERIOD_S
        self._put = age = self._put + 1

        def on_durable() -> None:
            self.durable = age
            self.on_raised(age)

        self._engine.put_meta(_META, age.to_bytes(8, "big"), sync=True, then=on_durable)


def _tell_nobody(age: int) -> None:
    """Keep it."""
