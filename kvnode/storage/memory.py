"""The reference engine: encoded rows in a sorted structure, groups completed on the loop, crashes on request.

Decides: what an engine does when everything is simple; `rocks` must behave the same.  Leaves to others: when the loop
turns (the injected `call_soon`).  Used by tests and by simulation, where a disk outlives the engine on it.

Invariants: a `MemoryDisk` changes only when a group completes; after a sync nothing before it can be lost (a log is
synced as a whole); a crash keeps a prefix of the groups that were written since.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Generator
from itertools import islice

from kvnode.core.record import Image
from kvnode.storage import rows
from kvnode.storage.groups import Group, Groups, Then


class MemoryDisk:
    """What survives an engine: rows by key, in order, and the groups written since the last sync."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.keys: list[bytes] = []
        self.unsynced: list[dict[bytes, bytes | None]] = []
        """For each group written since the last sync: what its rows replaced (None: nothing)."""

    def write(self, group: Group) -> None:
        """Take a group's rows, and forget how to undo them if it is synced."""
        undo: dict[bytes, bytes | None] = {}
        for key, row in group.rows.items():
            undo[key] = self.rows.get(key)
            self._set(key, row)
        self.unsynced.append(undo)
        if group.sync:
            self.unsynced.clear()

    def lose(self, keep: int = 0) -> None:
        """Lose power: undo the groups written since the last sync, but for the first `keep`."""
        for undo in reversed(self.unsynced[keep:]):
            for key, row in undo.items():
                self._set(key, row)
        self.unsynced.clear()

    def _set(self, key: bytes, row: bytes | None) -> None:
        if row is None:
            if self.rows.pop(key, None) is not None:
                self.keys.pop(bisect_left(self.keys, key))
            return
        if key not in self.rows:
            insort(self.keys, key)
        self.rows[key] = row


class MemoryEngine:
    """An engine over a `MemoryDisk`; see `kvnode.storage.engine.Engine` for the contract."""

    def __init__(
        self,
        call_soon: Callable[[Then], object],
        fatal: Callable[[BaseException], None],
        disk: MemoryDisk | None = None,
    ) -> None:
        self.disk = disk or MemoryDisk()
        self.writable = True
        self.has_reserve = True
        self.syncs = 0
        self.sync_error: BaseException | None = None
        """Set it to let the next group fail."""
        self._call_soon = call_soon
        self._groups = Groups(call_soon, self._write, fatal)
        self._crashed = False

    @property
    def backlog_bytes(self) -> int:
        """Bytes of rows that were put and are not complete."""
        return self._groups.backlog_bytes

    def load(self, key: bytes) -> Image | None:
        """Return the row of `key`, or None.  Raises DamagedRow."""
        row = self.disk.rows.get(key)
        return None if row is None else rows.decode(key, row)

    def put(self, key: bytes, image: Image, *, sync: bool, then: Then | None) -> None:
        """Add a row to the open group."""
        self._groups.add(key, rows.encode(key, image), sync, then)

    def remove(self, key: bytes, *, sync: bool, then: Then | None) -> None:
        """Let the open group remove a row."""
        self._groups.add(key, None, sync, then)

    def load_meta(self, name: str) -> bytes | None:
        """Return a meta value, or None.  Raises DamagedRow."""
        key = rows.meta_key(name)
        row = self.disk.rows.get(key)
        return None if row is None else rows.decode_meta(key, row)

    def put_meta(self, name: str, value: bytes, *, sync: bool, then: Then | None) -> None:
        """Add a meta value to the open group."""
        key = rows.meta_key(name)
        self._groups.add(key, rows.encode_meta(key, value), sync, then)

    def remove_meta(self, name: str, *, sync: bool, then: Then | None) -> None:
        """Let the open group remove a meta value."""
        self._groups.add(rows.meta_key(name), None, sync, then)

    def scan(self, start: bytes, end: bytes) -> Generator[tuple[bytes, Image], None, None]:
        """Yield rows with start <= key < end in key order, as they were when the scan was asked for."""
        keys = self.disk.keys
        chosen = keys[bisect_left(keys, start) : bisect_left(keys, min(end, rows.META_PREFIX))]
        snapshot = [(key, self.disk.rows[key]) for key in chosen]
        return ((key, rows.decode(key, row)) for key, row in snapshot)

    def scan_meta(self, prefix: str) -> Generator[tuple[str, bytes], None, None]:
        """Yield the meta values whose names begin with `prefix`, as they were when the scan was asked for."""
        first, keys = rows.meta_key(prefix), self.disk.keys
        snapshot = []
        for key in islice(keys, bisect_left(keys, first), None):
            if not key.startswith(first):
                break
            snapshot.append((key, self.disk.rows[key]))
        return ((rows.meta_name(key), rows.decode_meta(key, row)) for key, row in snapshot)

    def approximate_keys(self) -> int:
        """Return the number of rows."""
        return bisect_left(self.disk.keys, rows.META_PREFIX)

    def stored_bytes(self) -> int:
        """Return 0: there are no files."""
        return 0

    def crash(self, keep_unsynced: int = 0) -> MemoryDisk:
        """Stop without finishing anything and return the disk as a power cut leaves it.

        `keep_unsynced` says how many of the groups written since the last sync survive; the open group never does.
        """
        self._crashed = True
        self.disk.lose(keep_unsynced)
        return self.disk

    async def close(self) -> None:
        """Finish the open group, on the loop's own turns.  The disk stays as it is."""
        while not (self._groups.is_idle or self._crashed):
            await _Turn()
        self._crashed = True

    def _write(self, group: Group) -> None:
        self._call_soon(lambda: self._complete(group))

    def _complete(self, group: Group) -> None:
        if self._crashed:
            return
        if self.sync_error is not None:
            self._groups.failed(self.sync_error)
            return
        self.disk.write(group)
        self.syncs += group.sync
        self._groups.completed()


class _Turn:
    """Awaiting it lets the loop turn once, whichever loop it is."""

    def __await__(self) -> Generator[None, None, None]:
        yield
