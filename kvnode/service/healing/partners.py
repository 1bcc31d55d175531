"""The nodes that one node compares itself with: when each is due, and how far a comparison is that a person asked for.

Decides: how soon after a return, a failure or a success a partner is due again.  Leaves to others: who is a partner and
what is done when one is due (`anti_entropy`).
"""

from __future__ import annotations

RETURN_S = 1.0
"""From a peer's return to the comparison with it: its links settle, and hints get a start."""
RETRY_S = 2.0
NEVER_S = float("inf")
_RETRY_S_MAX = 60.0
_TRIES_MAX = 30
"""Of one partner, on demand: a minute, in which another may repair it."""


class Partner:
    """Another node that this one compares itself with."""

    __slots__ = ("_every_s", "_failures", "bits", "compared_s", "due_s", "returned_s")

    def __init__(self, every_s: float) -> None:
        """`every_s`: how long after a comparison the next is due; NEVER_S: it asks itself, and is asked for a reason
        only."""
        self._every_s = every_s
        self._failures = 0
        self.bits = 0
        """Its trees have 2 ** bits leaves, by its last answer."""
        self.due_s = 0.0 if every_s < NEVER_S else NEVER_S
        self.returned_s = 0.0
        """When it could last be reached again, or there was another reason to ask it."""
        self.compared_s: float | None = None

    def soon(self, now_s: float) -> None:
        """There is a reason to compare soon."""
        self.returned_s = now_s
        self.due_s = now_s + RETURN_S
        self._failures = 0

    def on_compared(self, now_s: float) -> None:
        """A comparison of everything has come to its end."""
        self.compared_s = now_s
        self.due_s = now_s + self._every_s
        self._failures = 0

    def on_failure(self, now_s: float) -> None:
        """It did not answer, or is not ready: try again, less and less often."""
        self._failures += 1
        self.due_s = now_s + min(_RETRY_S_MAX, RETRY_S * self._failures)

    def since_s(self, now_s: float) -> float | None:
        """Return how long ago the last comparison ended, None if there was none."""
        return None if self.compared_s is None else round(now_s - self.compared_s, 1)


class Demand:
    """A comparison that a person asked for, and how far it is."""

    def __init__(self, store: str, partners: list[int]) -> None:
        self.store = store
        self.waiting = partners
        self.ranges = self.compared = self.differing = self.sent = self.repaired = 0
        self.current = 0
        """Ranges compared with the partner whose turn it is."""
        self.failed: list[str] = []
        self.is_running = True
        self._tries: dict[int, int] = {}

    def may_retry(self, index: int) -> bool:
        """Return whether a partner that did not answer, or was being compared by another, is asked again."""
        self._tries[index] = tries = self._tries.get(index, 0) + 1
        return tries < _TRIES_MAX
