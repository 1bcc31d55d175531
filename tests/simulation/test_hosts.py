"""Hosts of a simulated world: what their disks and clocks do to a node, and what it must do about it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from simulation.loop import SimDefect
from simulation.small import VOLATILE, put, put_until_refused, read, run, world_of

import kvclient
from kvclient.wire import messages as m
from kvnode.core.record import Image
from kvnode.storage.engine import DamagedRow, StorageError


def test_a_failed_write_ends_the_node_and_loses_nothing() -> None:
    """R45."""
    world = world_of()

    async def main() -> None:
        await world.serving()
        world.hosts[0].disk.fails = True
        await put(world, "k", "v")
        await asyncio.sleep(1)
        assert isinstance(world.hosts[0].death, StorageError)
        assert not world.hosts[0].is_up
        world.start(0)
        await world.serving()
        assert await read(world, "k") == "v"

    run(world, main())


def test_a_crash_does_not_hide_what_a_task_had_died_of() -> None:
    world = world_of()

    async def die() -> None:
        raise TypeError("a bug in the background")

    async def main() -> None:
        await world.serving()
        life = world.hosts[0].life
        assert life is not None
        world.loop.start_task(life, die())
        await asyncio.sleep(1)
        world.crash(0)

    with pytest.raises(SimDefect, match="a bug in the background"):
        run(world, main())


def test_a_flipped_bit_keeps_a_node_out() -> None:
    """R46, R47."""
    world = world_of()

    async def main() -> None:
        await world.serving()
        world.crash(0)
        disk = world.hosts[0].disk
        disk.flip_bit(disk.keys[-1])
        world.start(0)
        await world.serving()
        assert isinstance(world.hosts[0].death, DamagedRow)
        assert not world.hosts[0].is_up

    run(world, main())


def test_a_row_that_cannot_be_read_ends_the_node() -> None:
    world = world_of()

    async def main() -> None:
        await world.serving()
        await put(world, "k", "v")
        world.crash(0)
        world.start(0)
        world.hosts[0].disk.is_unreadable = True
        assert await read(world, "k") == "v"
        await asyncio.sleep(1)
        assert "cannot be read" in str(world.hosts[0].death)

    run(world, main())


def test_an_old_copy_of_a_directory_is_refused() -> None:
    """R1, R44."""
    world = world_of()

    async def main() -> None:
        await world.serving()
        backup = world.hosts[0].backup()
        world.crash(0)
        world.start(0)
        await world.serving(0)
        await put(world, "k", "v")
        world.crash(0)
        world.hosts[0].restore(backup)
        world.start(0)
        await asyncio.sleep(5)
        assert not world.hosts[0].is_up
        assert "copy or an old backup" in str(world.hosts[0].death)

    run(world, main())


def test_a_copy_that_was_taken_while_the_process_ran_is_refused_by_whoever_heard_of_a_later_age() -> None:
    """R1, R44: its incarnation is the next one, as it should be."""
    world = world_of()

    async def main() -> None:
        await world.serving()
        await asyncio.sleep(2)
        backup = world.hosts[0].backup()
        await put(world, "k", "v")
        await asyncio.sleep(1.5)
        world.crash(0)
        world.hosts[0].restore(backup)
        world.start(0)
        await asyncio.sleep(5)
        assert not world.hosts[0].is_up
        assert "it is a backup, or its machine went back to a snapshot" in str(world.hosts[0].death)
        assert await read(world, "k") == "v"

    run(world, main())


def test_a_copy_of_what_did_not_change_since_may_be_put_back() -> None:
    """It lacks nothing."""
    world = world_of()

    async def main() -> None:
        await world.serving()
        await put(world, "k", "v")
        await asyncio.sleep(3)
        backup = world.hosts[0].backup()
        await asyncio.sleep(60)
        world.crash(0)
        world.hosts[0].restore(backup)
        world.start(0)
        await world.serving(0)
        assert world.hosts[0].is_serving
        assert await read(world, "k") == "v"

    run(world, main())


def test_a_restarted_node_votes_and_serves_only_after_the_others_could_refuse_it() -> None:
    """R1: a bounded time, for one of them may not answer at all."""
    world = world_of()

    async def main() -> None:
        await world.serving()
        world.crash(0)
        world.network.block("n1", "n3")
        began_ms = world.now_ms
        world.start(0)
        await asyncio.sleep(0.5)
        host = world.hosts[0]
        assert not host.is_serving
        assert host.node.peers.links[1] is not None
        said: list[Any] = []
        key = host.node.placements.of(b"default\0k").prefix + b"default\0k"
        host.node.on_batch(Listening(said), [[m.READ, 7, 1, key, 0]])
        assert [message[:3] for message in said] == [(m.REFUSED, 7, "not-connected")]
        await world.serving(0)
        assert 900 < world.now_ms - began_ms < 1500
        host.node.on_batch(Listening(said), [[m.READ, 8, 1, key, 0]])
        assert said[-1][0] == m.DIGEST

    run(world, main())


class Listening:
    """A link that keeps what is sent over it."""

    index, requests = 1, 0

    def __init__(self, said: list[Any]) -> None:
        self._said = said

    def send(self, message: Any) -> bool:
        self._said.append(message)
        return True


def test_damage_that_nobody_made_is_a_defect() -> None:
    world = world_of()

    async def main() -> None:
        await world.serving()
        world.crash(0)
        disk = world.hosts[0].disk
        disk.rows[disk.keys[-1]] = b"not a row"
        world.start(0)
        await asyncio.sleep(1)

    with pytest.raises(SimDefect, match="DamagedRow"):
        run(world, main())


def test_a_stop_in_order_leaves_nothing_unsynced() -> None:
    """`Engine.close` syncs."""
    world = world_of(config=VOLATILE)

    async def main() -> None:
        await world.serving()
        await put(world, "k", "v")
        disk = world.hosts[0].disk
        assert disk.unsynced
        await world.stop(0)
        assert not disk.unsynced

    run(world, main())


def test_a_full_disk_refuses_writes_and_takes_them_again() -> None:
    world = world_of()

    async def main() -> None:
        await world.serving()
        await put(world, "k", 1)
        for host in world.hosts:
            host.disk.is_full = True
        await put_until_refused(world, "k")
        assert await read(world, "k") is not None
        for host in world.hosts:
            host.disk.is_full = False
        await put(world, "k", "last")

    run(world, main())


def test_a_power_cut_with_volatile_stores_needs_leave_to_start() -> None:
    """R48."""
    world = world_of(config=VOLATILE)

    async def main() -> None:
        await world.serving()
        async with kvclient.connect(world.addresses) as kv:
            while not world.hosts[0].disk.unsynced:
                await kv.put("k", "v", consistency="strong")
        world.crash(0, keep_unsynced=0)
        with pytest.raises(StorageError, match="R48"):
            world.start(0)
        world.start(0, accept_data_loss=True)
        await world.serving()
        assert world.hosts[0].is_serving

    run(world, main())


def test_whoever_watches_sees_every_row_that_is_durable_on_a_majority() -> None:
    world = world_of()
    seen: dict[int, list[Image]] = {0: [], 1: [], 2: []}
    world.watch(on_durable=lambda replica, key, image: seen[replica].append(image))

    async def main() -> None:
        await world.serving()
        await put(world, "k", "seen")
        holders = [images for images in seen.values() if any(b"seen" in image.accepted.body for image in images)]
        assert len(holders) >= 2

    run(world, main())


def test_a_clock_may_be_wrong_in_every_way_but_the_monotonic_one_never_goes_back() -> None:
    """R2-R5."""
    world = world_of()

    async def main() -> None:
        await world.serving()
        right, wrong = world.hosts[0].clock, world.hosts[1].clock
        wrong.offset_ms = -5000
        assert right.wall_ms() - wrong.wall_ms() == 5000
        wrong.rate = 0.5
        before_ms, before_s = wrong.wall_ms(), wrong.monotonic_s()
        await asyncio.sleep(10)
        assert wrong.wall_ms() - before_ms == pytest.approx(5000, abs=2)
        assert wrong.monotonic_s() - before_s == pytest.approx(5, abs=0.001)
        wrong.is_frozen = True
        before_ms, before_s = wrong.wall_ms(), wrong.monotonic_s()
        await asyncio.sleep(10)
        assert wrong.wall_ms() == before_ms
        assert wrong.monotonic_s() > before_s
        wrong.correct()
        assert abs(right.wall_ms() - wrong.wall_ms()) <= 1

    run(world, main())
