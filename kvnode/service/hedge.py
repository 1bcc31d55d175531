"""When a strong read asks more replicas than it needs.

Decides: the delay.  Leaves to others: whom to ask (`reads`).
"""

from __future__ import annotations

_SAMPLES = 128


class Hedge:
    """The delay after which more replicas are asked: the p95 of recent gatherings, within its bounds."""

    def __init__(self, shortest_s: float, longest_s: float) -> None:
        self.delay_s = longest_s
        self._shortest_s = shortest_s
        self._longest_s = longest_s
        self._samples: list[float] = []

    def observe(self, latency_s: float) -> None:
        """Take the latency of one gathering that was not hedged."""
        self._samples.append(latency_s)
        if len(self._samples) == _SAMPLES:
            self._samples.sort()
            self.delay_s = min(self._longest_s, max(self._shortest_s, self._samples[_SAMPLES * 95 // 100]))
            self._samples.clear()
