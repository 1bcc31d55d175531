"""What this node makes of the others' heartbeats: who is silent, and whose clock is right.

Decides: when to look, and that this node's own pauses are nobody's silence; when its clock is too far off to coordinate
eventual writes (R4).  Leaves to others: heartbeats (`kvnode.net.peers`), the suspicion itself (`core.detector`), what
follows from it (`exchange`, `handoff`).
"""

from __future__ import annotations

from collections.abc import Callable

from kvnode.config import Limits
from kvnode.core.detector import Detector
from kvnode.service.exchange import Exchanges


class Health:
    """The other nodes, as their heartbeats show them."""

    def __init__(
        self,
        names: list[str],
        home: int,
        exchanges: Exchanges,
        limits: Limits,
        sweep_s: float,
        offset_ms: Callable[[int], int | None],
    ) -> None:
        """`offset_ms` tells how far a node's clock was ahead of ours when last measured."""
        self._names = names
        self._home = home
        self._exchanges = exchanges
        self._limits = limits
        self._sweep_s = sweep_s
        self._offset_ms = offset_ms
        self._swept_s: float | None = None
        self.detector = Detector(len(names), limits.heartbeat_s)

    def sweep(self, now_s: float) -> None:
        """Suspect those that are silent; after a time in which this node stood still itself, it blames nobody."""
        late_s = 0.0 if self._swept_s is None else now_s - self._swept_s - self._sweep_s
        self._swept_s = now_s
        if late_s > self._limits.heartbeat_s / 2:
            self.detector.forgive(late_s)
        self._exchanges.suspected = self.detector.suspects(now_s)

    def offsets_ms(self) -> list[int]:
        """Return how far the clocks of the others were ahead of ours when last measured."""
        others = (index for index in range(len(self._names)) if index != self._home)
        return [offset for index in others if (offset := self._offset_ms(index)) is not None]

    def clock_is_good(self, offsets_ms: list[int]) -> bool:
        """R4: good unless a majority of the nodes is measured to be further away than 0.8 max_offset."""
        far = sum(abs(offset) > 0.8 * self._limits.max_offset_ms for offset in offsets_ms)
        return far * 2 <= len(self._names)

    def peers(self) -> dict[str, str]:
        """Return for every other node "up", "silent" (connected, but under suspicion) or "down"."""
        return {name: self._state(index) for index, name in enumerate(self._names) if index != self._home}

    def _state(self, index: int) -> str:
        if self._exchanges.links[index] is None:
            return "down"
        return "silent" if self._exchanges.suspected >> index & 1 else "up"
