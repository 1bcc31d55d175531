"""Small worlds, for the tests of the kernel: three nodes that were started, and a client for one call.

Decides: nothing.
"""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest
from simulation.world import SimWorld

import kvclient
from kvnode.config import Config, StoreConfig, local

CONFIG = replace(local(3), partitions=4)
VOLATILE = replace(CONFIG, stores={"default": StoreConfig(durability="os")})


def world_of(seed: int = 1, config: Config = CONFIG, *, fifo: bool = False) -> SimWorld:
    """Return a world whose nodes have been started."""
    world = SimWorld(seed, config, fifo=fifo)
    for index in range(len(config.nodes)):
        world.start(index)
    return world


def run(world: SimWorld, main: Coroutine[Any, Any, Any]) -> Any:
    """Run it and end it."""
    try:
        return world.run(main)
    finally:
        world.close()


async def put(world: SimWorld, key: str, value: object) -> None:
    """Put strongly, as a client of its own."""
    async with kvclient.connect(world.addresses) as kv:
        await kv.put(key, value, consistency="strong")


async def put_until_refused(world: SimWorld, key: str) -> None:
    """Put until a full disk is noticed, which takes a group."""
    with pytest.raises(kvclient.KvError):  # noqa: PT012
        for value in range(10):
            await put(world, key, value)


async def read(world: SimWorld, key: str) -> object:
    """Read strongly, as a client of its own; None: absent."""
    async with kvclient.connect(world.addresses) as kv:
        item = await kv.get(key, consistency="strong")
        return None if item is None else item.value
