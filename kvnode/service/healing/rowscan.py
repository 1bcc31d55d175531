"""A slow walk over all rows of this node, again and again: what finds the work that nobody remembers.

Decides: how fast it goes, when it begins again, and that a listener without room holds up nobody else.  Leaves to
others: what is done with a row (`resolver`, `purge`, `tombstones`).

It reads a few rows at a time from a snapshot of that moment, so it keeps nothing of the past on the disk.  What is in
memory is ahead of the rows on disk, and is what listeners get.

Each listener has its own place in the rows.  Those at the same place share what is read; one that has no room stays
where it is, and is given its rows from there in turns with the others once it has.  So whatever lags behind, every
listener is shown every row, and the reading costs the same.  Who waits for its next walk begins with whoever is first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kvnode.core.record import Image
from kvnode.runtime import Rng
from kvnode.service.registers import Registers, held_bytes
from kvnode.storage.engine import Engine

ROWS = 256
"""Rows of one sweep: a millisecond at an idle node, half of that at a busy one."""
REST_S = 0.2
"""Between two sweeps: 1,280 rows a second, in half a hundredth of a core.  Fewer rows at a time would cost more: an
idle processor has forgotten what a walk needs when it goes on."""
SWEEP_BYTES = 1 << 20
"""A sweep ends after so many bytes of records and entries: each of 256 keys with full windows has 150 KiB."""
_FIRST_S = 2.0
_END = b"\xff\xff"


class Listener(Protocol):
    """Whoever wants to see all rows."""

    @property
    def has_room(self) -> bool:
        """False: the walk waits."""

    def on_row(self, key: bytes, image: Image) -> None:
        """Take one row."""


class _Place:
    """Where a listener is on its walk."""

    __slots__ = ("from_s", "listener", "next")

    def __init__(self, listener: Listener, from_s: float) -> None:
        self.listener = listener
        self.next = b""
        """The first row that it was not shown; empty: it waits until `from_s` for its next walk."""
        self.from_s = from_s


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
        from_s = now_s + _FIRST_S * (1.0 + rng.random())
        self._places = [_Place(listener, from_s) for listener in listeners]
        self._rests_until_s = from_s
        self.walks = 0
        """Ends reached by any of the listeners."""

    def sweep(self, now_s: float) -> None:
        """Go on a little, from the place whose turn it is.  Raises DamagedRow."""
        if now_s < self._rests_until_s:
            return
        for place in self._places:
            if (place.next or place.from_s <= now_s) and place.listener.has_room:
                start = place.next
                break
        else:
            return
        self._rests_until_s = now_s + REST_S
        here = [place for place in self._places if place.next == start and place.listener.has_room]
        self._places = [place for place in self._places if place not in here] + here  # the others are next
        rows, is_end = self._read(start)
        for key, image in rows:
            if not self._registers.is_row_key(key):
                continue  # of another number of partitions
            register = self._registers.peek(key)
            for place in here:
                place.listener.on_row(key, image if register is None else register.image)
        self.walks += is_end
        from_s = now_s + self._pause_s * (0.9 + 0.2 * self._rng.random()) if is_end else now_s
        for place in here:
            place.next = b"" if is_end else rows[-1][0] + b"\0"
            place.from_s = from_s

    def _read(self, start: bytes) -> tuple[list[tuple[bytes, Image]], bool]:
        """Return the next rows, and whether they are the last."""
        rows: list[tuple[bytes, Image]] = []
        size_bytes = 0
        scan = self._engine.scan(start, _END)
        try:
            for key, image in scan:
                rows.append((key, image))
                size_bytes += held_bytes(image)
                if len(rows) == ROWS or size_bytes > SWEEP_BYTES:
                    return rows, False
        finally:
            scan.close()
        return rows, True
