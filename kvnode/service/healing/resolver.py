"""The resolver: proposals that nobody finished are settled by identity rounds (R32).

Decides: when a proposal counts as left behind, who of its owners settles it first, and how often it is tried again.
Leaves to others: the round (`consensus`), and what it may cost (the repair budget, `take`).

A coordinator that dies between accept and commit leaves proposals of which nobody knows whether they are chosen.
Eventual writes wait for such a key, and a purge never begins.  An owner that has had one for `resolve_after_s` runs an
identity round; the others wait longer, each in its turn, so that they do not outbid one another.

Bounds: `undecided_max` keys are noted and as many wait for their turn; what is beyond that, or was accepted in an
earlier life, is found by the scan of all rows.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from functools import partial
from typing import Any

from kvnode.config import Limits
from kvnode.core.operation import SETTLE, Result
from kvnode.core.record import Image
from kvnode.runtime import Runtime
from kvnode.service.consensus import Consensus
from kvnode.service.placement import Placements
from kvnode.service.registers import Registers

_TURNS_S = 2.0
"""How much longer each next owner waits than the one before it in the preference list."""
_RETRY_S, _RETRY_MAX_S = 2.0, 60.0
_LOOKED_AT_MAX = 128
"""Keys examined in one sweep."""
_ROUNDS_MAX = 32
"""Rounds that run at the same time."""
_ROUND_BYTES = 1024
"""What a round is reckoned to cost, beside the record."""


class Resolver:
    """Settles what was accepted here and is not known to be chosen."""

    def __init__(
        self,
        home: int,
        registers: Registers,
        consensus: Consensus,
        placements: Placements,
        runtime: Runtime,
        limits: Limits,
        take: Callable[[int], bool],
    ) -> None:
        """`take` asks the repair budget for bytes; False: not now."""
        self._home = home
        self._registers = registers
        self._consensus = consensus
        self._placements = placements
        self._runtime = runtime
        self._after_s = limits.resolve_after_s
        self._keys_max = limits.undecided_max
        self.take = take
        self._due: list[tuple[float, bytes]] = []
        self._tries: dict[bytes, int] = {}
        """Keys that wait for their turn or have a round, and how many rounds each has had."""
        self._running = 0
        self.settled = 0

    def on_row(self, key: bytes, image: Image) -> None:
        """Take a row that the scan has met."""
        if image.accepted_ballot:
            self._add(key, self._runtime.clock.monotonic_s())

    @property
    def has_room(self) -> bool:
        """True while the scan may bring more."""
        return len(self._tries) < self._keys_max

    def sweep(self, now_s: float) -> None:
        """Give their turn to keys that have waited long enough."""
        undecided = self._registers.undecided
        undecided.now_s = now_s
        for key in undecided.oldest(now_s - self._after_s, _LOOKED_AT_MAX):
            self._add(key, now_s)
        due = self._due
        for _ in range(_LOOKED_AT_MAX):
            if not due or due[0][0] > now_s or self._running >= _ROUNDS_MAX:
                return
            key = due[0][1]
            image = self._registers.get(key).image
            if not image.accepted_ballot:
                heapq.heappop(due)
                self._done(key)
            elif not self.take(_ROUND_BYTES + len(image.accepted.body)):
                return
            else:
                heapq.heappop(due)
                self._settle(key, now_s)

    def _add(self, key: bytes, now_s: float) -> None:
        if key in self._tries or not self.has_room or not self._registers.get(key).image.accepted_ballot:
            return
        owners = self._placements.of(key[2:]).owners
        if self._home not in owners:
            return
        self._tries[key] = 0
        self._wait(key, now_s, _TURNS_S * (owners.index(self._home) + 0.5 * self._runtime.rng.random()))

    def _wait(self, key: bytes, now_s: float, delay_s: float) -> None:
        heapq.heappush(self._due, (now_s + delay_s, key))

    def _settle(self, key: bytes, now_s: float) -> None:
        self._running += 1
        if not self._consensus.settle(key, self._placements.of(key[2:]), SETTLE, partial(self._on_result, key)):
            self._running -= 1
            self._wait(key, now_s, _RETRY_S)  # the key is busy: whoever works on it decides it on the way

    def _on_result(self, key: bytes, result: Result) -> None:
        self._running -= 1
        if not self._registers.get(key).image.accepted_ballot:
            self.settled += 1
            self._done(key)
            return
        self._tries[key] = tries = self._tries[key] + 1
        longest_s = min(_RETRY_MAX_S, _RETRY_S * 2.0 ** min(tries, 16))
        self._wait(key, self._runtime.clock.monotonic_s(), longest_s * (0.5 + 0.5 * self._runtime.rng.random()))

    def _done(self, key: bytes) -> None:
        self._tries.pop(key, None)

    def facts(self) -> dict[str, Any]:
        """Return what STATUS shows of it."""
        undecided = self._registers.undecided
        return {
            "undecided": len(undecided) + len(self._tries),
            "settled": self.settled,
            "overflowed": undecided.overflowed,
        }
