"""Eventual writes that have no version yet, and those of them that must wait for one.

Decides: how long a draft may wait: for a ceiling until its deadline, for an undecided proposal a moment (R7).  Leaves
to others: the version that it gets, and everything after that (`eventual`).

Nothing of a waiting draft was sent, so at its deadline it simply failed.  A stuck disk raises no ceiling: what waits is
then bounded by the requests in flight, and nothing stays behind when they are answered.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from kvclient.wire.values import Version
from kvnode.runtime import Timers
from kvnode.service.ceilings import Ceilings
from kvnode.service.placement import Placement
from kvnode.service.requests import Request


class Draft:
    """An eventual write that has no version yet."""

    __slots__ = (
        "content",
        "deadline_s",
        "key",
        "patience_s",
        "placement",
        "request",
        "stamp_only",
        "token",
        "ttl_ms",
        "w",
    )

    def __init__(
        self, request: Request, key: bytes, placement: Placement, w: int, content: bytes, ttl_ms: int, token: Version
    ) -> None:
        self.request = request
        self.key = key
        self.placement = placement
        self.w = w
        self.content = content
        self.ttl_ms = ttl_ms
        self.token = token
        self.deadline_s = 0.0
        self.patience_s = 0.0
        self.stamp_only = False


class Waiting:
    """The drafts that wait; each is handed to `resume` when it should be tried again, or failed at its deadline."""

    def __init__(self, ceilings: Ceilings, timers: Timers, resume: Callable[[Draft], None]) -> None:
        self._ceilings = ceilings
        self._timers = timers
        self._resume = resume
        self._for_ceiling: dict[Draft, None] = {}
        self._for_decision: dict[Draft, None] = {}
        self._is_raising = False

    def for_ceiling(self, draft: Draft, above: int) -> None:
        """Try again once a ceiling that leaves room above `above` is durable (R3)."""
        self._for_ceiling[draft] = None
        if not self._is_raising:
            self._is_raising = True
            self._ceilings.when_raised(self._on_raised, above)

    def for_decision(self, draft: Draft, delay_s: float) -> None:
        """Try again in a moment."""
        self._for_decision[draft] = None
        self._timers.call_later(delay_s, partial(self._on_moment, draft))

    def sweep(self, now_s: float) -> None:
        """Fail what is past its deadline."""
        for waiting in (self._for_ceiling, self._for_decision):
            for draft in [draft for draft in waiting if draft.deadline_s < now_s]:
                del waiting[draft]
                draft.request.fail("deadline-exceeded")

    def _on_raised(self) -> None:
        self._is_raising = False
        waiting, self._for_ceiling = self._for_ceiling, {}
        for draft in waiting:
            self._resume(draft)

    def _on_moment(self, draft: Draft) -> None:
        if draft in self._for_decision:
            del self._for_decision[draft]
            self._resume(draft)
