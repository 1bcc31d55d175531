"""What a node does for nobody: it settles what was left undecided, and removes what was deleted.

Decides: how `resolver`, `purge`, `tombstones` and the walk over all rows are put together, and how long a delete is
kept (R35, R37).  Leaves to others: each of these.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from kvclient.wire import messages as m
from kvclient.wire.frames import Message
from kvnode.config import Config
from kvnode.core.operation import ACCEPT
from kvnode.runtime import Runtime
from kvnode.service.consensus import Consensus
from kvnode.service.exchange import Exchanges, Link
from kvnode.service.healing.purge import Purge
from kvnode.service.healing.resolver import Resolver
from kvnode.service.healing.rowscan import RowScan
from kvnode.service.healing.tombstones import Tombstones
from kvnode.service.pace import Pace
from kvnode.service.placement import BadName, Placement, Placements
from kvnode.service.registers import Registers
from kvnode.service.replica import Replica
from kvnode.storage.engine import Engine

_ROUND_BYTES = 1024
"""What a round is reckoned to cost, beside the record."""
_BELOW_MAX = 1024
"""Records below a floor that wait for the repair budget."""
_BELOW_TOGETHER = 32
"""Of these begun in one turn of the loop."""
_BELOW_S_MIN = 0.01


class Upkeep:
    """The chores of one node."""

    def __init__(
        self,
        config: Config,
        home: int,
        epoch: int,
        engine: Engine,
        registers: Registers,
        replica: Replica,
        exchanges: Exchanges,
        consensus: Consensus,
        placements: Placements,
        pace: Pace,
        runtime: Runtime,
    ) -> None:
        limits, names = config.limits, [node.id for node in config.nodes]
        self._max_offset_ms = limits.max_offset_ms
        self._replica = replica
        self._placements = placements
        self._registers = registers
        self._consensus = consensus
        self._timers = runtime.timers
        self._pace = pace
        self.take = pace.take
        self._below: dict[bytes, None] = {}
        """Keys whose record met a floor, and that wait for the repair budget; the oldest first."""
        self._is_armed = False
        replica.grace_ms, replica.grace_ms_min = self.grace_ms, placements.grace_ms_min
        self._tombstones = Tombstones(
            replica, registers, runtime.clock, limits.max_offset_ms, self.settle_after_ms, pace.charge
        )
        self.resolver = Resolver(home, registers, consensus, placements, runtime, limits, pace.take)
        self.purge = Purge(
            names=names,
            home=home,
            exchanges=exchanges,
            registers=registers,
            consensus=consensus,
            placements=placements,
            runtime=runtime,
            limits=limits,
            epoch=epoch,
            take=pace.take,
            settle_after_ms=self.settle_after_ms,
        )
        registers.on_mortal = self.purge.on_mortal
        listeners = (self.resolver, self.purge, self._tombstones)
        self.rows = RowScan(engine, registers, runtime.rng, limits.scan_pause_s, listeners, runtime.clock.monotonic_s())

    def handlers(self) -> dict[int, Any]:
        """Return the handler of each message kind that this room takes."""
        return {**self._tombstones.handlers(), m.BELOW_FLOOR: self._on_below_floor}

    def sweep(self, now_s: float) -> None:
        """Do a little of everything."""
        self.resolver.sweep(now_s)
        self.purge.sweep(now_s)
        self.rows.sweep(now_s)

    def grace_ms(self, name: bytes) -> int:
        """Return the age from which an eventual write that comes late may be older than a purge (R37)."""
        return 1000 * self._placement(name).store.gc_grace_s

    def settle_after_ms(self, name: bytes) -> int:
        """Return how long a tombstone is anchored before it is settled (R35): longer than `grace_ms` by what two clocks
        may differ in judging that age."""
        return self.grace_ms(name) + 2 * self._max_offset_ms

    def facts(self) -> dict[str, Any]:
        """Return what STATUS shows of it."""
        return {
            "proposals": self.resolver.facts(),
            "tombstones": self.purge.facts(),
            "stale": self._replica.stale,
        }

    def _on_below_floor(self, link: Link, message: Message) -> None:
        """A commit met a floor: the record is accepted once more, above it (R12); unless it was purged meanwhile.

        It waits its turn when the repair budget is spent: it often is, by the very record that met the floor, and
        would be by the next one.  Beyond `_BELOW_MAX` it is left to the next read or comparison.
        """
        key = message[1]
        self._registers.get(key)
        self._placement(key[2:])
        if len(self._below) < _BELOW_MAX:
            self._below[key] = None
        self._settle_below()

    def _settle_below(self) -> None:
        for key in list(islice(self._below, _BELOW_TOGETHER)):
            image = self._registers.known(key)
            is_wanted = bool(image.committed_ballot) and not image.settled
            if is_wanted and not self.take(_ROUND_BYTES + len(image.committed.body)):
                break
            del self._below[key]
            if is_wanted:
                self._consensus.settle(key, self._placement(key[2:]), ACCEPT)
        if self._below and not self._is_armed:
            self._is_armed = True
            self._timers.call_later(max(_BELOW_S_MIN, self._pace.wait_s()), self._on_budget)

    def _on_budget(self) -> None:
        self._is_armed = False
        self._settle_below()

    def _placement(self, name: bytes) -> Placement:
        try:
            return self._placements.of(name)
        except BadName as error:
            raise m.MessageError(str(error)) from error
