"""What this node makes of the others' heartbeats: who is silent, who is busy, and whose clock is right.

Decides: when to look, and that this node's own pauses are nobody's silence; when its clock is too far off to coordinate
eventual writes (R4); what it tells of its own load.  Leaves to others: heartbeats (`kvnode.net.peers`), suspicion and
comparison (`core.detector`, `core.load`), what follows from them (`exchange`, `reads`, `handoff`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from kvnode.config import Limits
from kvnode.core.detector import Detector
from kvnode.core.load import Load, busy
from kvnode.service.exchange import Exchanges

_SMOOTHING = 0.05
"""Weight of one sweep in the lateness of the loop: at 20 sweeps a second the average is over about a second."""
_LATE_S_MAX = 1.0
"""A longer stop was no load: the process was paused."""
_COUNT_MAX = 1 << 40

_log = logging.getLogger("kvnode")


class Measures(Protocol):
    """What is measured of the links to the others, by node index; None: nothing yet."""

    def offset_ms(self, index: int) -> tuple[int, int] | None:
        """Return how far a node's clock was ahead of ours when last measured, and by how much that may be off."""

    def rtt_ms(self, index: int) -> float | None:
        """Return the last round trip."""


class Health:
    """The other nodes, as their heartbeats show them, and this one, as it shows itself."""

    def __init__(
        self,
        names: list[str],
        home: int,
        exchanges: Exchanges,
        limits: Limits,
        sweep_s: float,
        epoch: int,
        measures: Measures,
    ) -> None:
        self._names = names
        self._home = home
        self._exchanges = exchanges
        self._limits = limits
        self._sweep_s = sweep_s
        self._epoch = epoch
        self._measures = measures
        self._swept_s: float | None = None
        self._loop_s = 0.0
        self._loads: list[Load | None] = [None] * len(names)
        self._epochs: dict[int, int] = {}
        self.measure: Callable[[], tuple[int, float]] = lambda: (0, 0.0)
        """Returns how many requests this node works on, and how long its disk takes."""
        self.detector = Detector(len(names), limits.heartbeat_s)

    def sweep(self, now_s: float) -> None:
        """Suspect those that are silent; after a time in which this node stood still itself, it blames nobody."""
        late_s = 0.0 if self._swept_s is None else now_s - self._swept_s - self._sweep_s
        self._swept_s = now_s
        self._loop_s += _SMOOTHING * (min(max(0.0, late_s), _LATE_S_MAX) - self._loop_s)
        if late_s > self._limits.heartbeat_s / 2:
            self.detector.forgive(late_s)
        self._exchanges.suspected = self.detector.suspects(now_s)

    # -- load and epochs

    def load(self) -> Load:
        """Return how busy this node is."""
        in_flight, commit_s = self.measure()
        return Load(in_flight, round(self._loop_s * 1e6), round(commit_s * 1e6))

    def on_pulse(self, index: int, epoch: int, load: Load) -> None:
        """Take what a node tells of itself.  One of another epoch is said once: its requests are refused (R40)."""
        if epoch != self._epoch and self._epochs.get(index) != epoch:
            _log.warning(
                "node %s goes by epoch %d of the ring, this node by %d; they refuse each other's requests until both go"
                " by the later one",
                self._names[index],
                epoch,
                self._epoch,
            )
        self._epochs[index] = epoch
        self._loads[index] = load if min(load) >= 0 and max(load) < _COUNT_MAX else None
        self._loads[self._home] = self.load()
        self._exchanges.busy = busy(self._loads)

    def on_lost(self, index: int) -> None:
        """Expect nothing of a node whose link has ended, and do not judge it by what it told before."""
        self.detector.lost(index)
        self._loads[index] = None
        self._exchanges.busy &= ~(1 << index)

    # -- clocks

    def offsets_ms(self) -> list[tuple[int, int]]:
        """Return how far the clocks of the others were ahead of ours when last measured, each with its error."""
        others = (index for index in range(len(self._names)) if index != self._home)
        return [offset for index in others if (offset := self._measures.offset_ms(index)) is not None]

    def clock_is_good(self, offsets_ms: list[tuple[int, int]]) -> bool:
        """R4: good unless a majority of the nodes is surely further away than 0.8 max_offset."""
        far = sum(abs(offset) - error > 0.8 * self._limits.max_offset_ms for offset, error in offsets_ms)
        return far * 2 <= len(self._names)

    # -- facts

    def peers(self) -> dict[str, str]:
        """Return for every other node "up", "silent" (connected, but under suspicion) or "down"."""
        return {name: self._state(index) for index, name in enumerate(self._names) if index != self._home}

    def facts(self, now_s: float) -> dict[str, Any]:
        """Return what STATUS shows of every other node, as far as it is known, and of this node's load."""
        names = self._names
        links = {name: self._link_facts(index, now_s) for index, name in enumerate(names) if index != self._home}
        return {"peers": self.peers(), "links": links, "load": _load_facts(self.load())}

    def _link_facts(self, index: int, now_s: float) -> dict[str, Any]:
        rtt_ms, offset, load = self._measures.rtt_ms(index), self._measures.offset_ms(index), self._loads[index]
        return {
            "state": self._state(index),
            "phi": round(self.detector.phi(index, now_s), 2),
            "rtt_ms": None if rtt_ms is None else round(rtt_ms, 3),
            "offset_ms": None if offset is None else offset[0],
            "offset_error_ms": None if offset is None else offset[1],
            "epoch": self._epochs.get(index),
            "load": None if load is None else _load_facts(load),
            "busy": bool(self._exchanges.busy >> index & 1),
        }

    def _state(self, index: int) -> str:
        if self._exchanges.links[index] is None:
            return "down"
        return "silent" if self._exchanges.suspected >> index & 1 else "up"


def _load_facts(load: Load) -> dict[str, Any]:
    return {
        "in_flight": load.in_flight,
        "loop_ms": round(load.loop_us / 1000, 1),
        "commit_ms": round(load.commit_us / 1000, 1),
    }
