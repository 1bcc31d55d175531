"""What RocksDB must give us: recovery of all that was acknowledged, a refusal of all damage that is no torn tail."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kvnode.config import Limits
from kvnode.core.record import Image
from kvnode.storage.engine import DamagedRow, StorageError
from kvnode.storage.rocks import RocksEngine

ROOT = Path(__file__).parents[3]
WRITER = Path(__file__).with_name("crashing_writer.py")
BLOCK_BYTES = 32 * 1024
AFTER_ALL = b"\xff\xff"


def crashed(folder: Path, durability: str, rows: int) -> list[int]:
    """Let a process write into `folder`, kill it, and return what it had acknowledged."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'client'}"}
    command = [sys.executable, str(WRITER), str(folder), durability]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline()) for _ in range(rows)]
        process.kill()
        acknowledged += [int(line) for line in process.stdout if line.endswith("\n")]
    return acknowledged


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A database as SIGKILL left it, with about 200 KiB in its log and nothing in files."""
    folder = tmp_path_factory.mktemp("killed") / "rows"
    acknowledged = crashed(folder, "fsync", 800)
    return SimpleNamespace(folder=folder, acknowledged=acknowledged)


@pytest.fixture
def copy(killed: SimpleNamespace, tmp_path: Path) -> Path:
    return Path(shutil.copytree(killed.folder, tmp_path / "rows"))


@pytest.fixture
def reopened(limits: Limits) -> Iterator[Callable[..., RocksEngine]]:
    engines = []

    def reopen(folder: Path, **options: Any) -> RocksEngine:
        engines.append(RocksEngine.open(folder, limits, pytest.fail, asyncio.get_running_loop(), **options))
        return engines[-1]

    yield reopen
    for engine in engines:
        engine._jobs.put(None)
        engine._thread.join()


def log_of(folder: Path) -> Path:
    (log,) = folder.glob("*.log")
    return log


def numbers(engine: RocksEngine) -> list[int]:
    return [int(key[-6:]) for key, _ in engine.scan(b"", AFTER_ALL)]


@pytest.mark.parametrize("durability", ["fsync", "os"])
async def test_a_killed_process_loses_nothing_that_it_acknowledged(
    durability: str, tmp_path: Path, reopened: Any
) -> None:
    """R45; with durability "os" the page cache survives the process (R48)."""
    acknowledged = crashed(tmp_path / "rows", durability, 300)
    found = set(numbers(reopened(tmp_path / "rows")))
    assert set(acknowledged) <= found
    # Whole groups or nothing: what is there beyond the acknowledged was in flight.
    assert found == set(range(len(found)))


async def test_a_torn_tail_costs_only_the_rows_in_it(copy: Path, killed: SimpleNamespace, reopened: Any) -> None:
    """R46: the last record was not complete, so nothing in it was acknowledged."""
    log = log_of(copy)
    whole = numbers(reopened(Path(shutil.copytree(copy, copy.with_name("whole")))))
    os.truncate(log, log.stat().st_size - 5)
    torn = numbers(reopened(copy))
    assert torn == whole[: len(torn)]
    assert len(whole) - 8 <= len(torn) < len(whole)  # a group has at most the eight rows that were in flight


async def test_rows_of_a_group_are_recovered_together_or_not_at_all(copy: Path, reopened: Any, tmp_path: Path) -> None:
    size = log_of(copy).stat().st_size
    seen = set()
    for cut in range(0, 2400, 60):
        folder = Path(shutil.copytree(copy, tmp_path / f"cut{cut}"))
        os.truncate(log_of(folder), size - cut)
        engine = reopened(folder)
        seen.add(len(numbers(engine)))
    assert len(seen) <= 2400 // 260 + 2  # whole records only: each cut inside one gives the same rows


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
async def test_a_flipped_bit_in_the_log_is_refused_and_the_file_named(copy: Path, share: float, reopened: Any) -> None:
    """R46: damage that is not a torn tail; the node stays out (R47)."""
    log = log_of(copy)
    data = bytearray(log.read_bytes())
    data[int(len(data) * share)] ^= 4
    log.write_bytes(data)
    with pytest.raises(DamagedRow, match=rf"{log}.* it must stay out: leave it down, keep its directory"):
        reopened(copy)


@pytest.mark.parametrize("block", [0, 1, 3])
async def test_a_zeroed_block_of_the_log_is_refused_although_rocksdb_would_skip_it(
    copy: Path, block: int, reopened: Any
) -> None:
    """R46: acknowledged rows would be gone without a word."""
    log = log_of(copy)
    data = bytearray(log.read_bytes())
    data[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES] = bytes(BLOCK_BYTES)
    log.write_bytes(data)
    with pytest.raises(
        DamagedRow, match=rf"the write-ahead log {log} is damaged at byte .* must stay out: leave it down"
    ):
        reopened(copy)


async def test_a_log_cut_short_with_a_newer_one_behind_it_is_refused(copy: Path, reopened: Any) -> None:
    """R46: only the newest log may have a torn tail."""
    log = log_of(copy)
    data = log.read_bytes()
    half = len(data) // BLOCK_BYTES // 2 * BLOCK_BYTES
    log.write_bytes(data[: half - 3000])
    log.with_name("999999.log").write_bytes(data[half:])
    with pytest.raises(DamagedRow, match="is damaged at byte"):
        reopened(copy)


async def test_a_log_that_ends_in_zeros_is_a_torn_tail(copy: Path, reopened: Any) -> None:
    with log_of(copy).open("ab") as log:
        log.write(bytes(5000))
    assert numbers(reopened(copy))


async def test_a_flipped_bit_in_a_table_file_is_refused_with_file_and_key(copy: Path, reopened: Any, key: Any) -> None:
    """R46: never served; get and scan both say so."""
    engine = reopened(copy)  # recovery writes the log's rows into a table file
    await engine.close()
    (table,) = copy.glob("*.sst")
    data = bytearray(table.read_bytes())
    data[len(data) // 4] ^= 1
    table.write_bytes(data)
    engine = reopened(copy)
    refusals = []
    for number in range(500):
        try:
            engine.load(key(number))
        except DamagedRow as refusal:
            refusals.append((number, str(refusal)))
    number, text = refusals[0]
    assert text.startswith(
        f"the row of key 'k{number:06}' of store 'default' (partition 0) cannot be read: the file {table}"
    )
    with pytest.raises(DamagedRow, match=str(table)):
        numbers(engine)


async def test_a_missing_table_file_is_refused_by_name(copy: Path, reopened: Any) -> None:
    await reopened(copy).close()
    (table,) = copy.glob("*.sst")
    table.unlink()
    with pytest.raises(DamagedRow, match=str(table)):
        reopened(copy)


async def test_a_row_that_rocksdb_thinks_whole_is_still_checked(tmp_path: Path, reopened: Any, key: Any) -> None:
    """R46: the row's own CRC32C."""
    engine = reopened(tmp_path)
    engine._db.put(key(1), b"not a row, but RocksDB's checksum over it holds")
    with pytest.raises(DamagedRow, match="key 'k000001' of store 'default'"):
        engine.load(key(1))
    with pytest.raises(DamagedRow, match="key 'k000001' of store 'default'"):
        numbers(engine)


async def test_rows_and_meta_values_survive_a_clean_restart(
    tmp_path: Path, reopened: Any, key: Any, image: Any
) -> None:
    engine = reopened(tmp_path)
    engine.put(key(1), image(1), sync=False, then=None)
    engine.put_meta("ceiling", b"abc", sync=False, then=None)
    await engine.close()
    engine = reopened(tmp_path, create=False)
    assert engine.load(key(1)) == image(1)
    assert engine.load_meta("ceiling") == b"abc"


async def test_a_database_is_opened_with_the_limits_of_today_not_with_those_that_it_was_made_with(
    tmp_path: Path,
) -> None:
    """Else a changed limit has no effect, and files written after a restart have no filters."""
    for write_buffer_bytes in (1 << 20, 2 << 20):
        loop = asyncio.get_running_loop()
        limits = Limits(disk_reserve_bytes=0, write_buffer_bytes=write_buffer_bytes)
        await RocksEngine.open(tmp_path, limits, pytest.fail, loop).close()
        options = max(tmp_path.glob("OPTIONS-*"), key=lambda file: int(file.name[8:])).read_text()
        assert f"write_buffer_size={write_buffer_bytes}\n" in options
        assert "filter_policy=bloomfilter" in options


async def test_rows_that_should_be_there_and_are_not_are_refused(tmp_path: Path, reopened: Any) -> None:
    """R44: a lost disk is no empty disk."""
    with pytest.raises(StorageError, match=r"there are no rows in .*: leave it down, keep its .* R44"):
        reopened(tmp_path, create=False)


async def test_a_database_without_its_log_is_refused(copy: Path, reopened: Any) -> None:
    """R46: RocksDB begins a new log, and the rows of the old one are gone without a word."""
    log_of(copy).unlink()
    with pytest.raises(DamagedRow, match=r"there is no write-ahead log .*: leave it down"):
        reopened(copy, create=False)


async def test_a_database_that_is_open_is_refused(tmp_path: Path, reopened: Any) -> None:
    reopened(tmp_path)
    with pytest.raises(StorageError, match="another process has it open"):
        reopened(tmp_path)


async def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, reopened: Any) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot be opened"):
        reopened(tmp_path / "file" / "rows")


class FailingDisk:
    """A database whose writes or syncs fail from some moment on."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self.fails: str = ""
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def write(self, *arguments: Any) -> None:
        self._do("write", *arguments)

    def flush_wal(self, sync: bool) -> None:
        self._do("flush_wal", sync)

    def _do(self, name: str, *arguments: Any) -> None:
        self.calls.append(name)
        if self.fails == name:
            raise Exception("IO error: No space left on device")
        getattr(self._database, name)(*arguments)


class FailingEngine(RocksEngine):
    def __init__(self, database: Any, *arguments: Any) -> None:
        self.disk = FailingDisk(database)
        super().__init__(self.disk, *arguments)  # type: ignore[arg-type]


async def test_a_failed_write_or_sync_is_fatal_and_acknowledges_nothing(
    tmp_path: Path, limits: Limits, key: Callable[..., bytes], image: Callable[..., Image]
) -> None:
    """R45: never retried, no callback ever again."""
    loop = asyncio.get_running_loop()
    fatal: asyncio.Future[BaseException] = loop.create_future()
    engine = FailingEngine.open(tmp_path, limits, fatal.set_result, loop)
    assert isinstance(engine, FailingEngine)
    before: asyncio.Future[None] = loop.create_future()
    engine.put(key(1), image(1), sync=True, then=lambda: before.set_result(None))
    await before
    engine.disk.fails = "write"
    engine.disk.calls.clear()
    engine.put(key(2), image(2), sync=True, then=lambda: pytest.fail("acknowledged"))
    error = await asyncio.wait_for(fatal, 30)
    assert isinstance(error, StorageError)
    assert str(error) == f"writing to {tmp_path} failed, so this node stops: IO error: No space left on device"
    engine.disk.fails = ""
    engine.put(key(3), image(3), sync=True, then=lambda: pytest.fail("acknowledged"))
    await engine.close()
    assert engine.disk.calls == ["write"]
    assert engine.syncs == 1


async def test_a_last_sync_that_fails_is_fatal_so_that_no_end_passes_for_clean(
    tmp_path: Path, limits: Limits, key: Callable[..., bytes], image: Callable[..., Image]
) -> None:
    """R48: rows of durability "os" were acknowledged before any sync."""
    loop = asyncio.get_running_loop()
    fatal: list[BaseException] = []
    engine = FailingEngine.open(tmp_path, limits, fatal.append, loop)
    assert isinstance(engine, FailingEngine)
    written = asyncio.Event()
    engine.put(key(1), image(1), sync=False, then=written.set)
    await written.wait()
    engine.disk.fails = "flush_wal"
    await engine.close()
    assert [type(error) for error in fatal] == [StorageError]


async def test_below_the_reserve_the_disk_counts_as_full_until_there_is_space_again(
    tmp_path: Path, reopened: Any, key: Any, image: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Section 4a: writes are refused below a reserve; it is looked at before each group."""
    engine = reopened(tmp_path)
    engine._reserve_bytes = 1000
    free = SimpleNamespace(f_bavail=0, f_frsize=1)
    monkeypatch.setattr(os, "statvfs", lambda path: free)
    assert engine.writable
    done = asyncio.Event()
    engine.put(key(1), image(1), sync=True, then=done.set)
    await done.wait()
    assert not engine.writable
    assert not engine.has_reserve
    assert engine.load(key(1)) == image(1)
    free.f_bavail = 499
    assert not engine.has_reserve
    free.f_bavail = 500
    assert engine.has_reserve, "what frees space has half of the reserve"
    assert not engine.writable
    free.f_bavail = 1000
    assert engine.writable
