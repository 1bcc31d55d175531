"""Engines for the contract tests: both kinds, opened, and closed again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from kvclient.wire.values import NO_BALLOT, Ballot
from kvnode.config import Limits
from kvnode.core.record import NO_ENTRY, NO_RECORD, Image, Record
from kvnode.storage.memory import MemoryEngine
from kvnode.storage.rocks import RocksEngine

LIMITS = Limits(disk_reserve_bytes=0, write_buffer_bytes=1 << 20, block_cache_bytes=1 << 20)
AnyEngine = MemoryEngine | RocksEngine


def make_image(number: int, size: int = 61) -> Image:
    """Return an image that differs for each number."""
    ballot = Ballot(number.to_bytes(28, "big"))
    return Image(ballot, NO_BALLOT, NO_RECORD, ballot, Record(number.to_bytes(size, "big"), b""), NO_ENTRY, False)


def make_key(number: int, partition: int = 0) -> bytes:
    """Return a row key."""
    return partition.to_bytes(2, "big") + b"default\0" + b"k%06d" % number


@pytest.fixture
def image() -> Callable[..., Image]:
    return make_image


@pytest.fixture
def key() -> Callable[..., bytes]:
    return make_key


@pytest.fixture
def limits() -> Limits:
    return LIMITS


@pytest.fixture
def failures() -> list[BaseException]:
    """What the engine gave to `fatal`."""
    return []


@pytest.fixture(params=["memory", "rocks"])
async def engine(
    request: pytest.FixtureRequest, tmp_path: Path, failures: list[BaseException]
) -> AsyncIterator[AnyEngine]:
    loop = asyncio.get_running_loop()
    opened: AnyEngine
    if request.param == "memory":
        opened = MemoryEngine(loop.call_soon, failures.append)
    else:
        opened = RocksEngine.open(tmp_path / "rows", LIMITS, failures.append, loop)
    yield opened
    await opened.close()


class Stored:
    """Awaits rows: `await Stored(engine)(key, image)` puts one and returns when its callback has run."""

    def __init__(self, engine: AnyEngine) -> None:
        self.engine = engine

    async def __call__(self, key: bytes, image: Image, *, sync: bool = True) -> None:
        done = asyncio.get_running_loop().create_future()
        self.engine.put(key, image, sync=sync, then=lambda: done.set_result(None))
        await done


@pytest.fixture
def store(engine: AnyEngine) -> Stored:
    return Stored(engine)
