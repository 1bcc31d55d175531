"""The repair budget of this node, on its clock: what hand-off, anti-entropy, resolver and purge ask before they send.

Decides: how often the budget looks at the latency of clients' requests.  Leaves to others: the rule (`core.budget`).
"""

from __future__ import annotations

from typing import Any

from kvnode.config import Limits
from kvnode.core.budget import SAMPLES_MIN, Budget
from kvnode.runtime import Clock
from kvnode.service.requests import Statistics

_OBSERVE_S = 0.25
_OBSERVE_S_MAX = 1.0
"""An observation ends between these, as soon as it has enough samples: the sooner the more clients there are."""
_RECEIVING_S = 1.0
_BEHIND = 8.0
"""So many times longer are the pauses of what can wait while a node is handed what it missed."""


class Pace:
    """One per node; ask `take` or `wait_s` before repairs, `charge` for those that came in."""

    def __init__(self, limits: Limits, clock: Clock, statistics: Statistics) -> None:
        self._clock = clock
        self._statistics = statistics
        now_s = clock.monotonic_s()
        self.budget = Budget(limits.repair_bytes_per_s, limits.repair_operations_per_s, now_s)
        self._observed_s = now_s
        self._used = (0, 0)
        self._in_use = (0.0, 0.0)
        self._taken_in_s = -_RECEIVING_S
        self._rates = (limits.repair_bytes_per_s, limits.repair_operations_per_s)

    def take(self, size_bytes: int, operations: int = 1) -> bool:
        """Return whether a repair of this cost may be sent now."""
        return self.budget.take(self._clock.monotonic_s(), size_bytes, operations)

    def charge(self, size_bytes: int, operations: int = 1) -> None:
        """Count a repair that another node has sent."""
        self.budget.charge(self._clock.monotonic_s(), size_bytes, operations)

    def take_in(self, size_bytes: int, operations: int) -> float:
        """Count repairs that another node has sent, and return after how many seconds it should send more."""
        self._taken_in_s = self._clock.monotonic_s()
        self.charge(size_bytes, operations)
        return self.wait_s()

    def wait_s(self) -> float:
        """Return after how long `take` is allowed again; 0: now."""
        return self.budget.wait_s(self._clock.monotonic_s())

    @property
    def slowness(self) -> float:
        """How many times longer than usual what can wait should pause between two pieces of work: the longer, the less
        clients leave of the budget; and much longer while another node hands over what this one has missed."""
        is_receiving = self._clock.monotonic_s() - self._taken_in_s < _RECEIVING_S
        return (_BEHIND if is_receiving else 1.0) / self.budget.share

    def sweep(self, now_s: float) -> None:
        """Look at the latency of clients' requests, up to four times a second."""
        elapsed_s = now_s - self._observed_s
        if elapsed_s < _OBSERVE_S or (self._statistics.samples < SAMPLES_MIN and elapsed_s < _OBSERVE_S_MAX):
            return
        self._observed_s = now_s
        p99_ms, samples = self._statistics.recent_p99_ms()
        budget = self.budget
        budget.on_latency(p99_ms, samples)
        used = (budget.used_bytes, budget.used_operations)
        self._in_use = ((used[0] - self._used[0]) / elapsed_s, (used[1] - self._used[1]) / elapsed_s)
        self._used = used

    def facts(self) -> dict[str, Any]:
        """Return what STATUS shows: what is used of the budget, and how much of it is allowed now."""
        bytes_per_s, operations_per_s = self._in_use
        used = max(bytes_per_s / self._rates[0], operations_per_s / self._rates[1])
        return {
            "bytes_per_s": round(bytes_per_s),
            "operations_per_s": round(operations_per_s),
            "used": round(used, 3),
            "allowed": round(self.budget.share, 3),
        }
