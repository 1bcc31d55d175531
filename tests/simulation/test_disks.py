"""Disks of the simulation: what is complete, what a crash leaves, what goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import pytest
from simulation.disks import SimDisk, SimEngine
from simulation.loop import SimLoop

from kvclient.wire.values import Ballot
from kvnode.core.record import EMPTY_IMAGE, Image
from kvnode.storage.engine import DamagedRow, StorageError

A, B = b"\0\0s\0a", b"\0\0s\0b"


def image(number: int) -> Image:
    return EMPTY_IMAGE._replace(promised=Ballot(number.to_bytes(28, "big")))


class Bench:
    """A disk with an engine on it."""

    def __init__(self, seed: int = 0) -> None:
        self.loop = SimLoop(Random(seed))  # type: ignore[abstract]  # what it lacks raises
        self.disk = SimDisk(0, Random(seed))
        self.life = self.loop.new_life("node", Random(seed))
        self.deaths: list[BaseException] = []
        self.engine = SimEngine(self.loop, self.life, self.disk, self.deaths.append)
        self.done: list[str] = []

    def run(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.loop.run(self.life, main())
        self.loop.dispose()

    def put(self, key: bytes, number: int, *, sync: bool = True) -> None:
        self.engine.put(key, image(number), sync=sync, then=lambda: self.done.append(f"{key[-1:].decode()}{number}"))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_sync_takes_its_time_and_groups_complete_in_order(bench: Bench) -> None:
    async def main() -> None:
        bench.disk.sync_s = 1.0
        began_s = bench.loop.time()
        bench.put(A, 1)
        await asyncio.sleep(0.1)
        bench.put(A, 2)
        bench.put(B, 2)
        assert bench.done == []
        while len(bench.done) < 3:
            await asyncio.sleep(0.01)
        assert bench.loop.time() > began_s + 1.0
        assert bench.done == ["a1", "a2", "b2"]
        assert bench.engine.syncs == 2

    bench.run(main)


def test_closing_waits_for_a_slow_disk_without_spinning(bench: Bench) -> None:
    async def main() -> None:
        bench.disk.sync_s = 100.0
        bench.put(A, 1)
        await bench.engine.close()
        assert bench.done == ["a1"]

    bench.run(main)
    assert bench.loop.steps < 20


def test_a_row_may_be_read_before_its_callback_runs(bench: Bench) -> None:
    async def main() -> None:
        bench.put(A, 1)
        while bench.engine.load(A) is None:
            await asyncio.sleep(0.00001)
        assert bench.done == []
        await asyncio.sleep(1)
        assert bench.done == ["a1"]

    bench.run(main)


def test_a_held_disk_completes_nothing_until_it_is_let_go(bench: Bench) -> None:
    async def main() -> None:
        bench.disk.is_held = True
        bench.put(A, 1)
        await asyncio.sleep(10)
        for _ in range(3):
            bench.disk.is_held = False
            bench.disk.is_held = True
        await asyncio.sleep(10)
        assert bench.done == []
        bench.disk.is_held = False
        await asyncio.sleep(1)
        assert bench.done == ["a1"]

    bench.run(main)


@pytest.mark.parametrize("kept", range(4))
def test_a_power_cut_keeps_the_first_groups_since_the_last_sync_each_as_a_whole(kept: int) -> None:
    bench = Bench()

    async def main() -> None:
        for number in (1, 2, 3, 4):
            bench.put(A, number, sync=number == 1)
            bench.put(B, number, sync=False)
            await asyncio.sleep(1)
        assert bench.engine.cut(kept) == (kept < 3)
        assert bench.engine.load(A) == bench.engine.load(B) == image(1 + kept)

    bench.run(main)


def test_a_kill_loses_nothing_that_was_written(bench: Bench) -> None:
    async def main() -> None:
        bench.put(A, 1, sync=False)
        await asyncio.sleep(1)
        assert not bench.engine.cut(None)
        assert bench.engine.load(A) == image(1)

    bench.run(main)


def test_a_group_that_was_being_written_is_there_as_a_whole_or_not_and_never_answered() -> None:
    outcomes = set()
    for seed in range(20):
        bench = Bench(seed)

        async def main(bench: Bench = bench) -> None:
            bench.disk.sync_s = 1.0
            bench.put(A, 1)
            bench.put(B, 1)
            await asyncio.sleep(0.1)
            bench.engine.cut(None)
            await asyncio.sleep(10)
            assert bench.done == []
            assert bench.engine.load(A) == bench.engine.load(B)
            outcomes.add(bench.engine.load(A))

        bench.run(main)
    assert outcomes == {None, image(1)}


def test_listeners_hear_what_is_written_and_what_is_durable_and_of_no_meta_value(bench: Bench) -> None:
    async def main() -> None:
        written: list[int] = []
        durable: list[int] = []
        bench.disk.on_written = lambda _, key, image: written.append(image.promised[-1])
        bench.disk.on_durable = lambda _, key, image: durable.append(image.promised[-1])
        bench.engine.put_meta("m", b"1", sync=True, then=None)
        for number, sync in ((1, False), (2, False), (3, True), (4, False), (5, False)):
            bench.put(A, number, sync=sync)
            await asyncio.sleep(1)
        assert written == [1, 2, 3, 4, 5]
        assert durable == [1, 2, 3]
        bench.engine.cut(1)
        assert durable == [1, 2, 3, 4]

    bench.run(main)


def test_a_failed_write_is_told_once_and_nothing_is_answered_after_it(bench: Bench) -> None:
    async def main() -> None:
        bench.disk.fails = True
        bench.put(A, 1)
        await asyncio.sleep(1)
        bench.put(A, 2)
        await asyncio.sleep(1)
        assert bench.done == []
        assert [type(death) for death in bench.deaths] == [StorageError]

    bench.run(main)


def test_a_full_disk_is_noticed_with_the_next_group_and_free_space_at_once(bench: Bench) -> None:
    async def main() -> None:
        seen = [bench.engine.writable]
        bench.disk.is_full = True
        seen.append(bench.engine.writable)
        bench.put(A, 1)
        await asyncio.sleep(1)
        seen.append(bench.engine.writable)
        bench.disk.is_full = False
        seen.append(bench.engine.writable)
        assert seen == [True, True, False, True]
        assert bench.done == ["a1"]

    bench.run(main)


def test_a_flipped_bit_is_found_when_the_row_is_read(bench: Bench) -> None:
    async def main() -> None:
        bench.put(A, 1)
        bench.engine.put_meta("m", b"1", sync=True, then=None)
        await asyncio.sleep(1)
        assert bench.disk.flip_bit() == A
        with pytest.raises(DamagedRow, match=r"CRC32C|format|head"):
            bench.engine.load(A)

    bench.run(main)


def test_a_misdirected_row_is_found_when_the_other_is_read(bench: Bench) -> None:
    async def main() -> None:
        bench.put(A, 1)
        bench.put(B, 2)
        await asyncio.sleep(1)
        bench.disk.misdirect(A, B)
        with pytest.raises(DamagedRow):
            bench.engine.load(B)

    bench.run(main)
