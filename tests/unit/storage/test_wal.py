"""The look at the write-ahead logs beside RocksDB's own recovery: healthy logs pass, whatever their rows' sizes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rocksdict import Rdict, WriteBatch

from kvnode.config import Limits
from kvnode.storage.engine import DamagedRow
from kvnode.storage.rocks import _options
from kvnode.storage.wal import check_logs

BLOCK_BYTES = 32 * 1024
RECORD_BYTES = 7
PUT_BYTES = 12 + 1 + 1 + 8 + 3  # batch header, type, length of the key, key, length of a value of 16 KiB and more
LONG_BYTES = 1 << 14
LIMITS = Limits(write_buffer_bytes=64 << 20, block_cache_bytes=1 << 20)
FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Written:
    """A database that is written to batch by batch and copied as a crash at any moment would leave it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = 0
        self._database = Rdict(str(folder), _options(LIMITS))

    def write(self, *value_bytes: int) -> None:
        batch = WriteBatch(raw_mode=True)
        for size in value_bytes:
            batch.put(b"%08d" % self.rows, bytes(size))
            self.rows += 1
        self._database.write(batch)

    def fill(self, left: int) -> None:
        """Write a row that ends `left` bytes before the end of a block."""
        at = self.log.stat().st_size % BLOCK_BYTES
        room = BLOCK_BYTES - at - left - RECORD_BYTES - PUT_BYTES
        self.write(room if room >= LONG_BYTES else room + BLOCK_BYTES - RECORD_BYTES)

    @property
    def log(self) -> Path:
        return max(self.folder.glob("*.log"))

    def crashed(self, target: Path) -> Path:
        self._database.flush_wal(True)
        return Path(shutil.copytree(self.folder, target))

    def close(self) -> None:
        self._database.close()


def recovered(folder: Path) -> int:
    """Let RocksDB recover what is there, check that no row is missing between others, and count them."""
    database = Rdict(str(folder), _options(LIMITS))
    keys = list(database.keys())
    database.close()
    assert keys == [b"%08d" % number for number in range(len(keys))]
    return len(keys)


def checked_and_recovered(folder: Path) -> int:
    """Do what a node's start does."""
    check_logs(folder)
    return recovered(folder)


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[], Path]:
    """Paths that do not exist yet."""
    made = iter(range(10_000))
    return lambda: tmp_path / str(next(made))


def test_a_healthy_log_passes_whatever_is_left_of_a_block(fresh: Callable[[], Path]) -> None:
    """R46: with 7 to 18 bytes left the header of the next batch is split over two fragments."""
    written = Written(fresh())
    for left in range(48):
        written.write(300)
        written.fill(left)
        assert -written.log.stat().st_size % BLOCK_BYTES == left
        copy = written.crashed(fresh())
        check_logs(copy)
        shutil.rmtree(copy)
    copy = written.crashed(fresh())
    written.close()
    assert recovered(copy) == written.rows


@pytest.mark.parametrize("left", [6, 7, 8, 12, 18, 19, 40])
def test_a_batch_whose_end_was_torn_off_counts_as_none_when_the_next_log_begins(
    left: int, fresh: Callable[[], Path]
) -> None:
    """R46: RocksDB gives its number to the first batch of the log that it writes after the recovery."""
    before = Written(fresh())
    before.write(300)
    before.fill(left)
    before.write(900)
    crash = before.crashed(fresh())
    before.close()
    torn = next(crash.glob("*.log"))
    os.truncate(torn, torn.stat().st_size - 5)  # its FIRST is whole, its LAST is not; or its only fragment is torn
    kept = torn.read_bytes()
    after = Written(crash)
    after.write(100)
    copy = after.crashed(fresh())
    after.close()
    (copy / torn.name).write_bytes(kept)  # as if the process had died before the old log was removed
    assert len(list(copy.glob("*.log"))) == 2
    check_logs(copy)


@FEW
@given(
    batches=st.lists(
        st.integers(0, 30) | st.lists(st.integers(0, 400) | st.integers(0, 70_000), min_size=1, max_size=4),
        min_size=2,
        max_size=30,
    ),
    kept=st.floats(0, 1),
)
def test_a_log_of_any_rows_cut_anywhere_passes_and_rocksdb_recovers_the_rows_before_the_cut(
    batches: list[int | list[int]], kept: float, fresh: Callable[[], Path]
) -> None:
    """R46: a torn tail is no damage.  A number stands for a row that leaves so many bytes of a block."""
    written = Written(fresh())
    for batch in batches:
        if isinstance(batch, int):
            written.fill(batch)
        else:
            written.write(*batch)
    whole = written.crashed(fresh())
    log = whole / written.log.name
    written.close()
    check_logs(whole)
    torn = Path(shutil.copytree(whole, fresh()))
    os.truncate(torn / log.name, round(log.stat().st_size * kept))
    check_logs(torn)
    assert recovered(torn) <= recovered(whole) == written.rows


@FEW
@given(sizes=st.lists(st.integers(0, 70_000), min_size=2, max_size=20), data=st.data())
def test_a_log_that_lacks_its_last_batches_is_refused_if_a_newer_one_stands_behind_it(
    sizes: list[int], data: st.DataObject, fresh: Callable[[], Path]
) -> None:
    """R46: RocksDB itself would go on with the newer log without a word."""
    written = Written(fresh())
    ends = [0]
    for size in sizes:
        written.write(size)
        ends.append(written.log.stat().st_size)
    older = written.crashed(fresh()) / written.log.name
    written.close()
    next_life = Written(written.folder)
    next_life.write(10)
    both = next_life.crashed(fresh())
    next_life.close()
    shutil.copy(older, both)
    check_logs(both)
    os.truncate(both / older.name, data.draw(st.integers(ends[1], ends[-1] - 1)))
    with pytest.raises(DamagedRow, match="is damaged at byte"):
        check_logs(both)


@pytest.mark.parametrize("record", [0, 30, 59])
def test_a_bit_that_flips_in_a_records_header_never_passes_for_a_torn_tail(
    record: int, fresh: Callable[[], Path]
) -> None:
    """R46: a length that leads behind the end of the file, and kinds that RocksDB has for logs that it recycles.

    RocksDB alone drops this record and all that follow it, or does not come back.
    """
    written = Written(fresh())
    for _ in range(60):
        written.write(20)
    whole = written.crashed(fresh())
    name = written.log.name
    written.close()
    data = (whole / name).read_bytes()
    at = record * (len(data) // 60)
    for byte in range(RECORD_BYTES):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[at + byte] ^= 1 << bit
            (whole / name).write_bytes(damaged)
            with pytest.raises(Exception, match=r"is damaged at byte|Corruption"):
                checked_and_recovered(whole)
