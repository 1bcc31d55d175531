"""The engine on disk: RocksDB through `rocksdict`, one batch and one sync per group, in a thread of its own (R45-R48).

Decides: RocksDB's options, what its errors mean, and when the disk counts as full.  Leaves to others: which rows form
a group (`groups`), the layout of a row (`rows`), whose data it is (`directory`), and what a node does when the engine
fails.

Invariants:
- One thread writes; the loop's thread reads and never waits for a write or a sync.  A group's outcome comes back to
  the loop by `call_soon_threadsafe`, so every callback and `fatal` run there.
- A failed write or sync is final: RocksDB is not asked again (a second fsync may report success for data that is gone).
- Recovery replays the write-ahead log up to a torn tail and refuses any other damage; never "point in time", which
  drops acknowledged rows behind a damaged one without a word.

Caveats, each seen in a test: an iterator that meets a damaged block just ends, so its status is asked for at the end;
RocksDB skips a zeroed part of the log, so `wal` looks first; it names a damaged log only in its own LOG file, so that
is read for it; rocksdict opens an existing database with the options that it was made with, and without filters, unless
the column family is given its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import threading
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NoReturn, Protocol, TypeVar
from weakref import WeakSet

from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    DBRecoveryMode,
    Env,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
    WriteOptions,
)

from kvnode.config import Limits
from kvnode.core.record import Image
from kvnode.storage import rows
from kvnode.storage.engine import LEAVE_DOWN, DamagedRow, StorageError
from kvnode.storage.groups import Group, Groups, Then
from kvnode.storage.wal import check_logs

_WRITE_BUFFERS = 3
"""One being filled, one being written out, one so that a slow disk does not stop the writer at once."""
_FILES_OPEN_MAX = 512
_BLOOM_BITS = 10
"""About one false positive in a hundred; 1.25 bytes a key."""
_MEMTABLE_BLOOM_RATIO = 0.02
_COUNTED_MAX = 1000
_COUNTED_BYTES_MAX = 4 << 20
"""Up to so many entries, and so many bytes of files, the rows are counted: a few milliseconds on the loop."""
_FILE_NAME = re.compile(r"[^\s:'\"]*(?:\d{6,}\.(?:sst|log|blob)|MANIFEST-\d+|CURRENT|OPTIONS-\d+)")
_DROPPED = re.compile(r"(\S+\.log): dropping \d+ bytes")

T = TypeVar("T")
Scan = Generator[tuple[bytes, Image], None, None]
Decode = Callable[[bytes, bytes], T]
"""What a scan makes of a key and its row."""


class Database(Protocol):
    """What the writing thread uses of an open `Rdict`: the seam at which tests let the disk fail."""

    def write(self, batch: WriteBatch, options: WriteOptions) -> None:
        """Write a batch to the log, which is synced if the options say so, and to the memtable."""

    def flush_wal(self, sync: bool) -> None:
        """Sync the log."""


class RocksEngine:
    """An engine over a RocksDB database; see `kvnode.storage.engine.Engine` for the contract."""

    def __init__(
        self,
        database: Rdict,
        path: Path,
        limits: Limits,
        fatal: Callable[[BaseException], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.path = path
        self.syncs = 0
        self._db = database
        self._get = database.get
        self._reserve_bytes = limits.disk_reserve_bytes
        self._fatal = fatal
        self._loop = loop
        self._groups = Groups(loop.call_soon, self._write, self._on_failure)
        self._is_writable = True
        self._scans: WeakSet[Generator[Any, None, None]] = WeakSet()
        self._meta_names: set[str] = set()
        self._closed = False
        self._jobs: SimpleQueue[tuple[WriteBatch, bool] | None] = SimpleQueue()
        self._unsynced, self._synced = WriteOptions(), WriteOptions()
        self._synced.sync = True  # in the one call that writes: each return to Python waits for the interpreter again
        self._thread = threading.Thread(target=self._run, name="kvnode-sync", daemon=True)
        self._thread.start()

    @classmethod
    def open(
        cls,
        path: Path,
        limits: Limits,
        fatal: Callable[[BaseException], None],
        loop: asyncio.AbstractEventLoop,
        *,
        create: bool = True,
    ) -> RocksEngine:
        """Open the database in the folder `path`, replaying its log; takes as long as that takes.

        `fatal` is called at most once, on the loop, when a write or sync has failed: the process must end.  Without
        `create` an absent database is an error: a disk that lost its rows must not pass for an empty one (R44).
        Raises StorageError, or DamagedRow naming the file.
        """
        if not create and not (path / "CURRENT").exists():
            raise StorageError(
                f"there are no rows in {path}, where this node had stored some; a node that lost its disk must not come"
                f" back under its old identity: {LEAVE_DOWN} (docs/protocol.md R44)"
            )
        if not create and not any(path.glob("*.log")):
            raise DamagedRow(f"there is no write-ahead log (*.log) in {path}, where there always is one")
        check_logs(path)
        try:
            options = _options(limits)
            database = Rdict(str(path), options, {"default": options})
        except Exception as error:  # rocksdict raises plain exceptions
            _refuse(error, f"the rows in {path} cannot be opened", path)
        return cls(database, path, limits, fatal, loop)

    @property
    def writable(self) -> bool:
        """False while free space is below the reserve.  Looked at before each group, and again while it is False."""
        if not self._is_writable:
            self._is_writable = self._has_space()
        return self._is_writable

    @property
    def has_reserve(self) -> bool:
        """False while less than half of the reserve is free."""
        return self._is_writable or self._free_bytes() * 2 >= self._reserve_bytes

    @property
    def backlog_bytes(self) -> int:
        """Bytes of rows that were put and are not complete.  Nothing is refused here: refuse requests by this."""
        return self._groups.backlog_bytes

    def load(self, key: bytes) -> Image | None:
        """Return the row of `key`, or None.  Raises DamagedRow."""
        row = self._load(key)
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
        row = self._load(key)
        if row is None:
            return None
        self._meta_names.add(name)
        return rows.decode_meta(key, row)

    def put_meta(self, name: str, value: bytes, *, sync: bool, then: Then | None) -> None:
        """Add a meta value to the open group."""
        key = rows.meta_key(name)
        self._meta_names.add(name)
        self._groups.add(key, rows.encode_meta(key, value), sync, then)

    def remove_meta(self, name: str, *, sync: bool, then: Then | None) -> None:
        """Let the open group remove a meta value."""
        self._meta_names.discard(name)
        self._groups.add(rows.meta_key(name), None, sync, then)

    def scan(self, start: bytes, end: bytes) -> Scan:
        """Return the rows with start <= key < end in key order, from one snapshot, read as they are asked for.

        Close it when done before its end: it keeps old rows on disk.  Raises DamagedRow.
        """
        return self._begin_scan(start, min(end, rows.META_PREFIX), _row)

    def scan_meta(self, prefix: str) -> Generator[tuple[str, bytes], None, None]:
        """Return the meta values whose names begin with `prefix`, like `scan`."""
        start = rows.meta_key(prefix)
        return self._begin_scan(start, start + b"\xff", self._meta)  # a name is UTF-8, which has no such byte

    def _begin_scan(self, start: bytes, end: bytes, decode: Decode[T]) -> Generator[T, None, None]:
        options = ReadOptions()
        options.set_iterate_upper_bound(end)
        # A scan must not push the working set out of the cache.  The stub forgets the argument.
        options.fill_cache(False)  # type: ignore[call-arg]
        scan = self._rows(start, options, decode)
        self._scans.add(scan)
        return scan

    def _meta(self, key: bytes, row: bytes) -> tuple[str, bytes]:
        name = rows.meta_name(key)
        self._meta_names.add(name)
        return name, rows.decode_meta(key, row)

    def approximate_keys(self) -> int:
        """Return RocksDB's estimate, where a key rewritten lately may count more than once; few rows are counted."""
        entries = self._db.property_int_value("rocksdb.estimate-num-keys") or 0
        file_bytes = self._db.property_int_value("rocksdb.total-sst-files-size") or 0
        if entries <= _COUNTED_MAX and file_bytes <= _COUNTED_BYTES_MAX:
            return self._count()
        return max(entries - len(self._meta_names), 0)

    def stored_bytes(self) -> int:
        """Return the bytes of all files of the database; one look at the folder."""
        total = 0
        with os.scandir(self.path) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # a compaction may remove it meanwhile
                    total += entry.stat().st_size
        return total

    async def close(self) -> None:
        """Finish what was put, sync it, end every scan and release the database.  After a failure: only release."""
        if self._closed:
            return
        self._closed = True
        if not self._groups.is_idle:
            idle = self._loop.create_future()
            self._groups.on_idle = lambda: idle.set_result(None)
            await idle
        for scan in list(self._scans):
            scan.close()
        self._jobs.put(None)
        while self._thread.is_alive():  # it syncs and closes the database, which may take a while
            await self._loop.run_in_executor(None, self._thread.join, 1.0)

    def _count(self) -> int:
        options = ReadOptions()
        options.set_iterate_upper_bound(rows.META_PREFIX)
        cursor, count = self._db.iter(options), 0
        cursor.seek_to_first()
        while cursor.valid():
            count += 1
            cursor.next()
        return count

    def _load(self, key: bytes) -> bytes | None:
        try:
            return self._get(key)
        except Exception as error:
            _refuse(error, f"the row of {rows.describe(key)} cannot be read", self.path)

    def _rows(self, start: bytes, options: ReadOptions, decode: Decode[T]) -> Generator[T, None, None]:
        snapshot = self._db.snapshot()
        cursor = snapshot.iter(options)
        try:
            cursor.seek(start)
            while cursor.valid():
                key = cursor.key()
                yield decode(key, cursor.value())
                start = key
                cursor.next()
            cursor.status()
        except DamagedRow:
            raise
        except Exception as error:
            _refuse(error, f"the rows after {rows.describe(start)} cannot be read", self.path)
        finally:
            del cursor, snapshot

    def _write(self, group: Group) -> None:
        if self._is_writable:
            self._is_writable = self._has_space()
        batch = WriteBatch(raw_mode=True)
        put = batch.put
        for key, row in group.rows.items():
            if row is None:
                batch.delete(key)
            else:
                put(key, row)
        self._jobs.put((batch, group.sync))

    def _has_space(self) -> bool:
        return self._free_bytes() >= self._reserve_bytes

    def _free_bytes(self) -> int:
        """Return how much more the disk takes; -1 if it does not say."""
        try:
            facts = os.statvfs(self.path)
        except OSError:
            return -1
        return facts.f_bavail * facts.f_frsize

    def _on_failure(self, error: BaseException) -> None:
        failure = StorageError(f"writing to {self.path} failed, so this node stops: {error}")
        failure.__cause__ = error
        self._fatal(failure)

    # -- in the thread

    def _run(self) -> None:
        database: Database = self._db
        failed = False
        while (job := self._jobs.get()) is not None:
            try:
                database.write(job[0], self._synced if job[1] else self._unsynced)
            except BaseException as error:  # whatever it is, the loop must hear of it
                failed = True
                self._report(self._groups.failed, error)
                break
            self._report(self._on_written, job[1])
        self._release(failed)

    def _on_written(self, synced: bool) -> None:
        self.syncs += synced
        self._groups.completed()

    def _report(self, function: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(function, *arguments)

    def _release(self, failed: bool) -> None:
        if failed:  # wait to be closed: reads go on until the node has stopped
            while self._jobs.get() is not None:
                pass
        else:
            try:
                self._db.flush_wal(True)
            except BaseException as error:  # rows of durability "os" were acknowledged: this is no clean end (R48)
                self._report(self._groups.failed, error)
        self._db.close()


def _options(limits: Limits) -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_paranoid_checks(True)
    options.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
    options.set_write_buffer_size(limits.write_buffer_bytes)
    options.set_max_write_buffer_number(_WRITE_BUFFERS)
    options.set_memtable_prefix_bloom_ratio(_MEMTABLE_BLOOM_RATIO)
    options.set_memtable_whole_key_filtering(True)  # most rows that are read are not among those written last
    options.set_max_total_wal_size(_WRITE_BUFFERS * limits.write_buffer_bytes)
    options.set_max_background_jobs(2)
    env = Env()  # the process's own, whatever is made of it
    env.lower_thread_pool_cpu_priority()  # compactions wait for a moment that no request needs; flushes do not
    options.set_env(env)
    options.set_bytes_per_sync(1 << 20)  # spread the writing of large files, so that no sync waits for all of one
    options.set_max_open_files(_FILES_OPEN_MAX)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_keep_log_file_num(4)
    options.set_max_log_file_size(1 << 20)
    options.set_stats_dump_period_sec(0)
    options.set_block_based_table_factory(_table_options(limits))
    return options


def _table_options(limits: Limits) -> BlockBasedOptions:
    """Return options that keep all indexes and filters in memory, four bytes a key, and blocks in the page cache.

    Measured over a million rows of 320 bytes: a random read takes 3.5 us of CPU time so, some 2 more with a block cache
    of 32 MiB (what is read once pushes out what was read once: only the copying is left), and 2 more with indexes and
    filters in that cache, too.  Hot rows are in the registers' cache, decoded.
    """
    table = BlockBasedOptions()
    if limits.block_cache_bytes:
        table.set_block_cache(Cache(limits.block_cache_bytes))
    else:
        table.disable_cache()
    table.set_bloom_filter(_BLOOM_BITS, False)
    table.set_block_size(4096)
    return table


def _row(key: bytes, row: bytes) -> tuple[bytes, Image]:
    return key, rows.decode(key, row)


def _refuse(error: Exception, what: str, path: Path) -> NoReturn:
    """Raise what a foreign error means: DamagedRow, naming the file, or StorageError."""
    reason = str(error)
    if "Corruption" not in reason:
        hint = "; another process has it open" if "lock" in reason.lower() else ""
        raise StorageError(f"{what}: {reason}{hint}") from error
    raise DamagedRow(f"{what}: the file {_damaged_file(reason, path)} is damaged ({reason})") from error


def _damaged_file(reason: str, path: Path) -> str:
    """Return the file that RocksDB's text names, or the log that its LOG says it gave up on."""
    named = _FILE_NAME.findall(reason)
    if named:
        return str(path / Path(named[0]).name)
    dropped = _DROPPED.findall("\n".join(_last_lines(path / "LOG")))
    return str(path / Path(dropped[-1]).name) if dropped else f"(not named) in {path}"


def _last_lines(log: Path) -> Iterable[str]:
    try:
        return log.read_text("utf-8", "replace").splitlines()[-200:]
    except OSError:
        return ()
