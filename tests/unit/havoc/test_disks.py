"""Damage to files: a bit turned twice is as before, and a torn tail is what a node's start takes for one."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from kvclient.wire.values import Ballot
from kvnode.config import Limits
from kvnode.core.record import EMPTY_IMAGE
from kvnode.storage.rocks import RocksEngine
from kvnode.storage.wal import check_logs
from scripts.havoc import disks

ROWS = 20
IMAGE = EMPTY_IMAGE._replace(promised=Ballot(bytes(27) + b"\1"))


async def written(rows: Path) -> None:
    """Leave a log as a crash would."""
    loop = asyncio.get_running_loop()
    aside = rows.with_name("aside")
    aside.mkdir()
    engine = RocksEngine.open(aside, Limits(), pytest.fail, loop)
    for number in range(ROWS):
        done = loop.create_future()
        engine.put(b"\0\1default\0%d" % number, IMAGE, sync=True, then=lambda done=done: done.set_result(None))
        await done
    rows.mkdir()
    for path in aside.iterdir():
        (rows / path.name).write_bytes(path.read_bytes())
    await engine.close()


@pytest.mark.parametrize("seed", range(20))
async def test_a_torn_tail_loses_nothing_that_was_written_before(tmp_path: Path, seed: int) -> None:
    """R46: what never was acknowledged is cut off at recovery."""
    rows = tmp_path / "rows"
    await written(rows)
    disks.tear_tail(rows, random.Random(seed))
    check_logs(rows)
    engine = RocksEngine.open(rows, Limits(), pytest.fail, asyncio.get_running_loop(), create=False)
    assert len(list(engine.scan(b"\0", b"\xff"))) == ROWS
    await engine.close()


async def test_a_bit_that_is_turned_twice_is_as_before(tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    await written(rows)
    for seed in range(20):
        flip = disks.Flip.draw(rows, random.Random(seed))
        before = flip.path.read_bytes()
        flip.turn()
        assert sum((one ^ other).bit_count() for one, other in zip(before, flip.path.read_bytes(), strict=True)) == 1
        flip.turn()
        assert flip.path.read_bytes() == before


def test_a_file_that_is_gone_is_not_turned_back(tmp_path: Path) -> None:
    disks.Flip(tmp_path / "gone.sst", 0, 0).turn()
    assert not (tmp_path / "gone.sst").exists()
