"""A slow walk over all rows of this node, again and again: what finds the work that nobody remembers.

Decides: how fast it goes and when it begins again.  Leaves to others: what is done with a row (`resolver`, `purge`).

It reads a few rows at a time from a snapshot of that moment, so it keeps nothing of the past on the disk; it waits
while those who listen have no room.  What is in memory is ahead of the rows on disk, and is what listeners get.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Protocol

from kvnode.core.record import Image
from kvnode.runtime import Rng
from kvnode.service.registers import Registers
from kvnode.storage.engine import Engine

ROWS = 64
"""Rows of one sweep: 1,280 a second, in some hundredth of a core."""
_FIRST_S = 2.0
_END = b"\xff\xff"


class Listener(Protocol):
    """Whoever wants to see all rows."""

    @property
    def has_room(self) -> bool:
        """False: the walk waits."""

    def on_row(self, key: bytes, image: Image) -> None:
        """Take one row."""


class RowScan:
    """The walk."""

    def __init__(
        self,
        engine: Engine,
        registers: Registers,
        rng: Rng,
        pause_s: float,
        listeners: Sequence[Listener],
        now_s: float,
    ) -> None:
        """`pause_s` passes between the end of one walk and the beginning of the next."""
        self._engine = engine
        self._registers = registers
        self._rng = rng
        self._pause_s = pause_s
        self._listeners = listeners
        self._next = b""
        self._from_s = now_s + _FIRST_S * (1.0 + rng.random())
        self.walks = 0

    def sweep(self, now_s: float) -> None:
        """Go on a little.  Raises DamagedRow."""
        if now_s < self._from_s:
            return
        for listener in self._listeners:
            if not listener.has_room:
                return
        scan = self._engine.scan(self._next, _END)
        rows = list(islice(scan, ROWS))
        scan.close()
        for key, image in rows:
            if not self._registers.is_row_key(key):
                continue  # of another number of partitions
            register = self._registers.peek(key)
            for listener in self._listeners:
                listener.on_row(key, image if register is None else register.image)
        if len(rows) == ROWS:
            self._next = rows[-1][0] + b"\0"
        else:
            self._next = b""
            self.walks += 1
            self._from_s = now_s + self._pause_s * (0.9 + 0.2 * self._rng.random())
