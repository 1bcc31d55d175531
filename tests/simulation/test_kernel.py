"""The kernel of the simulation: virtual time, lives, connections, disks, and that a seed decides everything."""

from __future__ import annotations

from dataclasses import replace

from simulation.world import SimWorld

import kvclient
from kvnode.config import local

CONFIG = replace(local(3), partitions=4)


def three_nodes(seed: int = 1) -> SimWorld:
    world = SimWorld(seed, CONFIG)
    for index in range(3):
        world.start(index)
    return world


def test_three_whole_nodes_serve_the_real_client() -> None:
    world = three_nodes()

    async def main() -> None:
        await world.serving()
        async with kvclient.connect(world.addresses) as kv:
            await kv.put("k", "v", consistency="strong")
            item = await kv.get("k", consistency="strong")
            assert item is not None
            assert item.value == "v"

    world.run(main())
    world.close()
