"""Real nodes killed, paused and restarted under load: what was acknowledged stays, and nothing happens twice.

The load never stops while nodes are hurt.  Every worker keeps a book of what it was told: acknowledged, refused, or
unknown.  Afterwards, with all nodes back, strong reads are held against the books.  Nothing here depends on how fast
the machine is: faults last for a number of operations, not for a time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

import kvclient
from kvclient import Item, KvError, OutcomeUnknown

COUNTERS = 3
INCREMENTERS = 6
KEYS = 40
WRITERS = 4
OPERATIONS_PER_FAULT = 60


@dataclass
class Book:
    """What the clients were told."""

    acknowledged: dict[str, list[str]] = field(default_factory=dict)
    """Key -> values whose write was acknowledged, in order; one writer per key."""
    maybe: dict[str, set[str]] = field(default_factory=dict)
    """Key -> values whose write has an unknown outcome."""
    increments: dict[str, int] = field(default_factory=dict)
    unresolved: dict[str, int] = field(default_factory=dict)
    winners: dict[str, list[str]] = field(default_factory=dict)
    """Key -> who was told to have created it."""
    refusals: list[KvError] = field(default_factory=list)
    operations: int = 0


async def _write(kv: kvclient.Kv, book: Book, key: str, value: str) -> None:
    try:
        await kv.put(key, value, consistency="strong", timeout=20)
    except OutcomeUnknown:
        book.maybe.setdefault(key, set()).add(value)
    except KvError as error:
        book.refusals.append(error)
    else:
        book.acknowledged.setdefault(key, []).append(value)
        book.maybe.pop(key, None)  # an acknowledged write settles what came before it


async def _increment(kv: kvclient.Kv, book: Book, key: str) -> None:
    try:
        await kv.update(key, lambda count: count + 1, default=0, timeout=20)
    except OutcomeUnknown:
        book.unresolved[key] = book.unresolved.get(key, 0) + 1
    except KvError as error:
        book.refusals.append(error)
    else:
        book.increments[key] = book.increments.get(key, 0) + 1


async def _create(kv: kvclient.Kv, book: Book, key: str, who: str) -> None:
    try:
        await kv.put(key, who, create=True, timeout=20)
    except KvError as error:
        book.refusals.append(error)
    else:
        book.winners.setdefault(key, []).append(who)


@asynccontextmanager
async def load(kv: kvclient.Kv, seed: int) -> AsyncIterator[Book]:
    """Run writers, incrementers and creators until the block ends; each finishes what it has begun."""
    book, rng = Book(), random.Random(seed)
    running = True

    async def until_told(step: Callable[[int], Awaitable[None]]) -> None:
        turn = 0
        while running:
            await step(turn)
            book.operations += 1
            turn += 1

    def writer(who: int) -> Callable[[int], Awaitable[None]]:
        keys = [f"key-{number}" for number in range(who, KEYS, WRITERS)]
        return lambda turn: _write(kv, book, rng.choice(keys), f"{who}/{turn}")

    def incrementer(who: int) -> Callable[[int], Awaitable[None]]:
        return lambda turn: _increment(kv, book, f"counter-{who % COUNTERS}")

    def creator(who: int) -> Callable[[int], Awaitable[None]]:
        return lambda turn: _create(kv, book, f"race-{turn}", f"creator {who}")

    async with asyncio.TaskGroup() as group:
        for who in range(WRITERS):
            group.create_task(until_told(writer(who)))
        for who in range(INCREMENTERS):
            group.create_task(until_told(incrementer(who)))
        for who in range(2):
            group.create_task(until_told(creator(who)))
        yield book
        running = False


async def _some_operations(book: Book) -> None:
    """Wait until the load has got on by some operations."""
    until = book.operations + OPERATIONS_PER_FAULT
    while book.operations < until:
        await asyncio.sleep(0.02)


async def _check(kv: kvclient.Kv, book: Book) -> None:
    """Hold strong reads of everything against the book."""

    async def value(key: str) -> Any:
        item: Item | None = await kv.get(key, consistency="strong", timeout=20)
        return None if item is None else item.value

    assert {error.outcome for error in book.refusals} <= {"not applied", "unknown"}
    for key, values in book.acknowledged.items():
        allowed = {values[-1]} | book.maybe.get(key, set())
        assert await value(key) in allowed, f"{key}: the last acknowledged write is lost"
    for key, count in book.increments.items():
        found = await value(key)
        assert count <= found <= count + book.unresolved.get(key, 0), f"{key} is {found}, {count} were applied"
    for key, winners in book.winners.items():
        assert len(winners) == 1, f"{key} was created by {winners}"
        assert await value(key) == winners[0]


async def test_nothing_acknowledged_is_lost_while_nodes_are_killed_paused_and_restarted(cluster: Any) -> None:
    """Section 3, R21-R24, R45: one node at a time is hurt, so a majority always serves."""

    async def tell(what: str, node: str) -> None:
        await asyncio.to_thread(cluster.tell, what, node)

    async with kvclient.connect(cluster.addresses) as kv:
        async with load(kv, seed=1) as book:
            await _some_operations(book)
            for hurt, heal in (("kill", "restart"), ("pause", "resume"), ("restart", "")):
                for node in ("n1", "n2", "n3"):
                    await tell(hurt, node)
                    await _some_operations(book)
                    if heal:
                        await tell(heal, node)
                    await _some_operations(book)
        assert sum(map(len, book.acknowledged.values())) > 0
        assert sum(book.increments.values()) > 0
        await _check(kv, book)


async def test_a_majority_killed_at_once_loses_nothing(cluster: Any) -> None:
    """R45, R11: two of three nodes die in the middle of the load, then the third; all come back from their disks."""
    async with kvclient.connect(cluster.addresses) as kv:
        async with load(kv, seed=2) as book:
            await _some_operations(book)
            for node in ("n1", "n2", "n3"):
                await asyncio.to_thread(cluster.tell, "kill", node)
            for node in ("n3", "n1", "n2"):
                await asyncio.to_thread(cluster.tell, "restart", node)
            await _some_operations(book)
        await _check(kv, book)


@pytest.mark.parametrize("seed", [1, 2])
async def test_an_eventual_write_is_read_back_after_its_nodes_restart(cluster: Any, seed: int) -> None:
    """R29, R45: what W replicas acknowledged is on W disks."""
    rng = random.Random(seed)
    async with kvclient.connect(cluster.addresses) as kv:
        written = {f"e{number}": rng.random() for number in range(100)}
        for key, value in written.items():
            await kv.put(key, value, w=2)
        for node in ("n1", "n2", "n3"):
            await asyncio.to_thread(cluster.tell, "kill", node)
        for node in ("n1", "n2", "n3"):
            await asyncio.to_thread(cluster.tell, "restart", node)
        for key, value in written.items():
            item = await kv.get(key, consistency="strong", timeout=20)
            assert item is not None
            assert item.value == value
