"""A backup of one node's directory, put back: an acknowledged write would be lost, so the others refuse it (R1, R44).

Every scenario runs twice: as the product is, and with its rule switched off, where it must break.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from mutants import durability
from schedule import Case, both_ways, claim
from simulation.small import put, read, run, world_of
from simulation.world import SimWorld

Between = Callable[[SimWorld], Awaitable[None]]


def acknowledged_after_the_backup(between: Between) -> None:
    """n1 and n2 acknowledge a write while n3 is away; n1 goes back to before it, and n2 leaves n1 and n3 alone."""
    world = world_of()

    async def main() -> None:
        await world.serving()
        await between(world)
        backup = world.hosts[0].backup()
        world.crash(2)
        await put(world, "k", "acknowledged")
        await asyncio.sleep(1.5)
        world.crash(0)
        world.hosts[0].restore(backup)
        world.start(0)
        await world.serving(0)
        if world.hosts[0].is_up:
            world.crash(1)
        world.start(2)
        await world.serving(2)
        await asyncio.sleep(3)
        claim(await read(world, "k") == "acknowledged", "an acknowledged write is lost")
        assert "it is a backup" in str(world.hosts[0].death)

    run(world, main())


async def nothing(world: SimWorld) -> None:
    """The backup is taken a while after anything was written."""
    await asyncio.sleep(3)


async def writes(world: SimWorld) -> None:
    """The backup is taken in the midst of writes, a moment after the last age."""
    for number in range(5):
        await put(world, "k", number)
        await asyncio.sleep(0.3)


def lost_after_a_quiet_time() -> None:
    acknowledged_after_the_backup(nothing)


def lost_in_the_midst_of_writes() -> None:
    acknowledged_after_the_backup(writes)


CASES = [
    Case("R1, R44", lost_after_a_quiet_time, durability.backups_are_not_told),
    Case("R1, R44", lost_in_the_midst_of_writes, durability.backups_are_not_told),
]

test_the_counterexample_is_excluded, test_it_comes_back_without_its_rule = both_ways(CASES)
