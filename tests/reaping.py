"""Worlds in which deleted keys are purged, brought to an exact step of it."""

from __future__ import annotations

from schedule import Caught, catch, put, settle
from world import World

from kvnode.config import Limits, StoreConfig
from kvnode.core.merkle import item_of
from kvnode.core.record import EMPTY_IMAGE

GRACE_S = 100
WINDOW_S = 62.0
"""After so long a request window, of requests with a short timeout, is empty (R24)."""


def mourning(*, deleted: bool = True, put_first: bool = True, seed: int = 0) -> tuple[World, int, int, int]:
    """Return a world whose tombstones are purged after `GRACE_S`, and the owners of "k", which was put and deleted."""
    store = StoreConfig("default", replicas=3, gc_grace_s=GRACE_S)
    world = World(3, seed, store=store, limits=Limits(scan_pause_s=20.0))
    a, b, c = world.owners("k")
    if put_first:
        put(world, b"old", a, timeout_ms=100)
        settle(world)
    if deleted:
        world.delete("k", a, timeout_ms=100)
        settle(world)
    return world, a, b, c


def buried(world: World, at: int, key: str = "k") -> None:
    """Delete a key strongly at a node, and let so much time pass that it is purged."""
    world.delete(key, at, timeout_ms=100)
    world.run(WINDOW_S + 2 * GRACE_S)


def mourning_until(kind: int, seed: int = 0) -> tuple[World, int, int, int, Caught]:
    """Return a mourning world at the moment when the primary asks for a step, and what it has sent for it."""
    world, a, b, c = mourning(seed=seed)
    caught = catch(world, kind, source=a)
    for _ in range(3000):
        if caught.messages:
            return world, a, b, c, caught
        world.run(0.1)
    raise AssertionError("the purge never comes to that step")


def removed_at(world: World, index: int, key: str = "k") -> bool:
    """Return whether nothing of a key is left at a replica, in memory or on disk."""
    is_gone = world.register(index, key).image == EMPTY_IMAGE
    return is_gone and world.hosts[index].engine.load(world.row_key(key)) is None


def absent_everywhere(world: World, key: str = "k") -> bool:
    """Return whether nothing of a key is left anywhere."""
    return all(removed_at(world, index, key) for index in world.owners(key))


def compares(world: World) -> None:
    """Let the nodes keep hash trees of their keys."""
    for host in world.hosts:
        host.node.healing.anti_entropy.start()
    world.run(2.0)


def trees_are_right(world: World) -> bool:
    """Return whether every node's trees are what its rows say, although purge has changed them under way."""
    for host in world.hosts:
        trees, roots = host.node.healing.trees, dict.fromkeys(range(world.config.partitions), 0)
        for key, image in host.engine.scan(b"", b"\xff\xff"):
            register = host.node.registers.peek(key)
            roots[int.from_bytes(key[:2], "big")] ^= item_of(key, register.image if register is not None else image)
        for partition, root in roots.items():
            tree = trees.get(3, partition)
            if tree is None or tree.root != root:
                return False
    return True
