"""Eight clients that race increments on one counter, and count what they are told.

An increment counts as applied when `update` says so.  One whose outcome is unknown (its node died) is asked for again
with the same operation id until it is settled, which never applies it twice (R23).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import kvclient
from kvclient import Kv, KvError, OutcomeUnknown
from scripts.demo_expecting import Failed, expect

CLIENTS = 8
SETTLE_WITHIN_S = 60.0


@dataclass
class Counter:
    """What the racing clients were told."""

    applied: int = 0
    settled: int = 0
    """Of these: the outcome was unknown first, and found by asking again with the same id."""
    refused: int = 0
    is_over: bool = False


@asynccontextmanager
async def racing(addresses: list[str], counter: Counter) -> AsyncIterator[None]:
    """Let eight clients, each with connections of its own, race increments until the block ends."""
    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(race(addresses, counter))
        try:
            yield
        finally:
            counter.is_over = True


async def race(addresses: list[str], counter: Counter) -> None:
    """Increment, one after the other, and count what is reported."""
    async with kvclient.connect(addresses) as kv:
        while not counter.is_over:
            try:
                await kv.update("counter", increment, default=0)
            except OutcomeUnknown as error:
                await settle(kv, error.operation_id)
                counter.settled += 1
            except KvError as error:
                expect(error.outcome == "not applied", f"an increment ended with {error!r}")
                counter.refused += 1
                continue
            counter.applied += 1


def increment(value: int) -> int:
    """Return the next value of the counter."""
    return value + 1


async def settle(kv: Kv, operation_id: str) -> None:
    """Ask with the same id until the increment is applied.  Raises Failed if that cannot be said."""
    give_up = time.monotonic() + SETTLE_WITHIN_S
    while time.monotonic() < give_up:
        try:
            await kv.update("counter", increment, default=0, operation_id=operation_id)
        except OutcomeUnknown as error:  # the same id; or, once that is settled as never applied, the id of another try
            operation_id = error.operation_id
        except KvError:
            await asyncio.sleep(0.1)  # nothing was applied by this call; the old question stands
        else:
            return
    raise Failed(f"the outcome of the increment {operation_id} could not be settled in {SETTLE_WITHIN_S:g} s")
