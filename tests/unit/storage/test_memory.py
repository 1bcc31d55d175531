"""The reference engine loses exactly what a power cut may take: groups written since the last sync, from the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from kvnode.storage.memory import MemoryDisk, MemoryEngine


@pytest.fixture
async def written(key: Callable[..., bytes], image: Callable[..., Any]) -> MemoryEngine:
    """One synced group, then three that were only written, each changing key 0 and adding a key of its own."""
    loop = asyncio.get_running_loop()
    engine = MemoryEngine(loop.call_soon, pytest.fail)
    for number in range(4):
        done = asyncio.Event()
        engine.put(key(0), image(number), sync=number == 0, then=None)
        engine.put(key(10 + number), image(number), sync=False, then=done.set)
        await done.wait()
    return engine


@pytest.mark.parametrize("keep", [0, 1, 2, 3])
async def test_a_crash_keeps_what_was_synced_and_a_prefix_of_the_rest(
    written: MemoryEngine, keep: int, key: Any, image: Any
) -> None:
    disk = written.crash(keep)
    after = MemoryEngine(asyncio.get_running_loop().call_soon, pytest.fail, disk)
    assert after.load(key(0)) == image(keep)
    assert [k for k, _ in after.scan(key(1), key(99))] == [key(10 + i) for i in range(keep + 1)]


async def test_a_sync_makes_everything_before_it_durable(written: MemoryEngine, key: Any, image: Any) -> None:
    done = asyncio.Event()
    written.put_meta("m", b"", sync=True, then=done.set)
    await done.wait()
    after = MemoryEngine(asyncio.get_running_loop().call_soon, pytest.fail, written.crash())
    assert after.load(key(13)) == image(3)


async def test_a_crash_loses_the_open_group_and_runs_no_callback(key: Any, image: Any) -> None:
    """R6, R45."""
    soon: list[Callable[[], None]] = []
    engine = MemoryEngine(soon.append, pytest.fail)
    engine.put(key(1), image(1), sync=True, then=lambda: pytest.fail("acknowledged"))
    soon.pop()()
    disk = engine.crash()
    while soon:
        soon.pop()()
    assert disk.rows == {}


async def test_a_failed_sync_is_fatal_and_acknowledges_nothing(key: Any, image: Any) -> None:
    """R45."""
    failures: list[BaseException] = []
    engine = MemoryEngine(asyncio.get_running_loop().call_soon, failures.append, MemoryDisk())
    engine.sync_error = OSError("disk")
    engine.put(key(1), image(1), sync=True, then=lambda: pytest.fail("acknowledged"))
    await engine.close()
    assert failures == [engine.sync_error]
    engine.sync_error = None
    engine.put(key(1), image(1), sync=True, then=lambda: pytest.fail("acknowledged"))
    await engine.close()
    assert engine.load(key(1)) is None


async def test_a_power_cut_brings_back_what_was_removed_without_a_sync(
    written: MemoryEngine, key: Any, image: Any
) -> None:
    done = asyncio.Event()
    written.remove(key(0), sync=True, then=None)
    written.put_meta("floor", b"1", sync=True, then=done.set)
    await done.wait()
    gone = asyncio.Event()
    written.remove(key(10), sync=False, then=gone.set)
    await gone.wait()
    after = MemoryEngine(asyncio.get_running_loop().call_soon, pytest.fail, written.crash())
    assert (after.load(key(0)), after.load_meta("floor"), after.load(key(10))) == (None, b"1", image(0))
