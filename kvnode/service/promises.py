"""The cached promises of a coordinator: leave to start a key's next round in phase 2 (R19).

Decides: how many are kept, and that each is used once.  Leaves to others: when one may be used (`core.proposer`).

A cached promise is safe at any age (P3), so the cache needs no expiry; losing one costs a prepare.  It lives in memory
only: a restart forgets all of them, as R19 demands.  Bounds: `promises_max` of them and `bytes_max` of the records that
they carry; beyond that the one used longest ago goes.
"""

from __future__ import annotations

from collections import OrderedDict

from kvnode.core.proposer import CachedPromise

_OVERHEAD_BYTES = 300
"""Python objects of one cached promise beside its record."""


class PromiseCache:
    """Row key -> cached promise."""

    def __init__(self, promises_max: int, bytes_max: int) -> None:
        self._promises_max = promises_max
        self._bytes_max = bytes_max
        self._held: OrderedDict[bytes, tuple[CachedPromise, int]] = OrderedDict()  # see `registers`
        self._bytes = 0

    def take(self, key: bytes) -> CachedPromise | None:
        """Return and forget the promise of a key: one use only."""
        held = self._held.pop(key, None)
        if held is None:
            return None
        self._bytes -= held[1]
        return held[0]

    def keep(self, key: bytes, cached: CachedPromise) -> None:
        """Keep the promise that a chosen round left behind, as the most recent one."""
        self.take(key)
        record = cached.record
        size_bytes = len(record.body) + len(record.window) + len(cached.overlay) + _OVERHEAD_BYTES
        self._held[key] = (cached, size_bytes)
        self._bytes += size_bytes
        while self._held and (len(self._held) > self._promises_max or self._bytes > self._bytes_max):
            self.take(next(iter(self._held)))
