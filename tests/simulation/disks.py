"""A disk that outlives the engines on it, and an engine on it whose writes take time, fail and get lost.

Decides: when a group is complete, what a crash leaves of groups, and what goes wrong.  Leaves to others: rows, groups
and their order (`kvnode.storage`), which the product shares with the real engine; when faults happen (the scenario).

- A group is complete after `write_s`, or `sync_s` if it is synced, plus a tail.  One that was being written when its
  node died may be on the disk, as a whole, or not.
- A crash that keeps fewer than all groups is a power cut; one that keeps all is a kill.  What is left is durable, for
  recovery writes what it replays into files of its own.
- A failed write or sync may or may not have reached the disk.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from math import log
from random import Random

from simulation.lives import Life, SimHandle
from simulation.loop import SimLoop
from xxhash import xxh3_64_intdigest

from kvnode.core.record import EMPTY_IMAGE, Image
from kvnode.storage import rows
from kvnode.storage.engine import StorageError
from kvnode.storage.groups import Group
from kvnode.storage.memory import MemoryDisk, MemoryEngine

HANDOVER_S = 0.0001
"""At most so long after a group is on the disk does the loop hear of it; rows can be read already."""

OnRow = Callable[[int, bytes, Image], None]


class SimDisk(MemoryDisk):
    """One node's disk, and what is wrong with it."""

    def __init__(self, index: int, rng: Random) -> None:
        super().__init__()
        self.index, self.rng = index, rng
        self.write_s = 0.00005
        self.sync_s = 0.0005
        """The mean time of a group without and with a sync."""
        self.fails = False
        """True: the next group fails with EIO."""
        self.is_unreadable = False
        """True: reading a row fails with EIO."""
        self.is_damaged = False
        """True once something was done to the disk that a node may find when it reads."""
        self._is_held = self._is_full = False
        self.on_change: Callable[[], None] = lambda: None
        self.on_written: OnRow | None = None
        """Hears of every row that is written (one removed is empty), synced or not: a kill does not lose it."""
        self.on_durable: OnRow | None = None
        """Hears of every row that is synced: nothing loses it."""
        self._unsynced: list[Group] = []

    @property
    def is_held(self) -> bool:
        """True: groups wait, as if the disk took for ever."""
        return self._is_held

    @is_held.setter
    def is_held(self, is_held: bool) -> None:
        self._is_held = is_held
        self.on_change()

    @property
    def is_full(self) -> bool:
        """True: less space than the reserve is free."""
        return self._is_full

    @is_full.setter
    def is_full(self, is_full: bool) -> None:
        self._is_full = is_full
        self.on_change()

    def write(self, group: Group) -> None:
        """Take a group."""
        super().write(group)
        if self.on_written is not None:
            self._tell(self.on_written, group)
        if self.on_durable is None:
            return
        self._unsynced.append(group)
        if group.sync:
            self._settle(len(self._unsynced))

    def lose(self, keep: int = 0) -> None:
        """Lose power; the first `keep` of the groups since the last sync survive."""
        super().lose(keep)
        if self.on_durable is not None:
            self._settle(keep)

    def sync(self) -> None:
        """Make everything durable that is written."""
        self.lose(len(self.unsynced))

    def _settle(self, count: int) -> None:
        """The first `count` groups since the last sync are durable, the others never will be."""
        groups, self._unsynced = self._unsynced[:count], []
        if self.on_durable is not None:
            for group in groups:
                self._tell(self.on_durable, group)

    def _tell(self, listener: OnRow, group: Group) -> None:
        for key, row in group.rows.items():
            if not key.startswith(rows.META_PREFIX):
                listener(self.index, key, EMPTY_IMAGE if row is None else rows.decode(key, row))

    def flip_bit(self, key: bytes | None = None) -> bytes:
        """Flip one bit of a row at rest, of any row unless `key` says which; return the row's key."""
        if key is None:
            data = [key for key in self.keys if not key.startswith(rows.META_PREFIX)] or self.keys
            key = data[int(self.rng.random() * len(data))]
        row = bytearray(self.rows[key])
        at = int(self.rng.random() * len(row) * 8)
        row[at // 8] ^= 1 << at % 8
        self.rows[key] = bytes(row)
        self.is_damaged = True
        return key

    def misdirect(self, key: bytes, other: bytes) -> None:
        """Let the row of `key` stand where that of `other` should, as a misdirected write leaves it."""
        self.rows[other] = self.rows[key]
        self.is_damaged = True

    def repair(self) -> None:
        """End every fault but what was done to rows."""
        self.fails = self.is_unreadable = self.is_held = self.is_full = False


class SimEngine(MemoryEngine):
    """The reference engine on a disk that takes its time."""

    disk: SimDisk

    def __init__(self, loop: SimLoop, life: Life, disk: SimDisk, fatal: Callable[[BaseException], None]) -> None:
        super().__init__(lambda then: loop.post(life, 0.0, then), fatal, disk)
        self._loop, self._life = loop, life
        self._group: Group | None = None
        self._timer: SimHandle | None = None
        disk.on_change = self._on_change

    def load(self, key: bytes) -> Image | None:
        """Return the row of `key`, or None.  Raises StorageError, or DamagedRow."""
        if self.disk.is_unreadable:
            self.disk.is_damaged = True
            raise StorageError(f"the row of {rows.describe(key)} cannot be read: input/output error")
        return super().load(key)

    def _write(self, group: Group) -> None:
        disk = self.disk
        self.writable = not disk.is_full
        self._group = group
        if not disk.is_held:
            self._begin(group)

    def _begin(self, group: Group) -> None:
        disk = self.disk
        mean_s = disk.sync_s if group.sync else disk.write_s
        delay_s = mean_s * (0.5 - 0.5 * log(1.0 - disk.rng.random()))
        self._timer = self._loop.post(self._life, self._loop.now_s + delay_s, self._complete, group)

    def _complete(self, group: Group) -> None:
        disk, self._timer = self.disk, None
        if self._crashed or disk.is_held:
            return
        self._group = None
        if disk.fails:
            self._fail(group)
            return
        loop = self._loop
        for row in group.rows.values():
            loop.note(xxh3_64_intdigest(row or b""))
        disk.write(group)
        self.syncs += group.sync
        loop.post(self._life, loop.now_s + HANDOVER_S * disk.rng.random(), self._report)

    def _report(self) -> None:
        if not self._crashed:
            self._groups.completed()

    async def close(self) -> None:
        """Finish the open group, however long the disk takes."""
        if not (self._groups.is_idle or self._crashed):
            idle = self._loop.create_future()
            self._groups.on_idle = lambda: idle.set_result(None)
            await idle
        self._crashed = True

    def _fail(self, group: Group) -> None:
        disk = self.disk
        disk.fails = False
        if disk.rng.random() < 0.5:
            disk.write(group)
        error = StorageError("writing to the simulated disk failed, so this node stops: input/output error")
        error.__cause__ = OSError(errno.EIO, "input/output error")
        self._groups.failed(error)

    def _on_change(self) -> None:
        """The disk's faults have changed: notice free space, and go on with a held group."""
        if not self.disk.is_full:
            self.writable = True
        if not self.disk.is_held and self._group is not None and self._timer is None:
            self._begin(self._group)

    def cut(self, keep_unsynced: int | None) -> bool:
        """Die, and return whether anything was lost that had been written.

        The group that was being written may be on the disk, as a whole.  Of all groups since the last sync the first
        `keep_unsynced` survive (None: all).
        """
        disk = self.disk
        disk.on_change = lambda: None
        if self._group is not None and disk.rng.random() < 0.5:
            disk.write(self._group)
        self._group = None
        written = len(disk.unsynced)
        kept = written if keep_unsynced is None else min(keep_unsynced, written)
        self.crash(kept)
        return kept < written
