"""Many calls at once, with a bound: the engine of `get_many` and `put_many`.

Decides: how many are under way, and that a call refused with Overloaded waits for another one of the same batch to
finish before it is tried again, so that a batch of any size finds its own pace.  A fixed number of tasks per batch,
none per key.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable
from typing import Generic, TypeVar

from kvclient.errors import KvError, Overloaded

IN_FLIGHT_MAX = 128

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


async def each(
    keys: Iterable[Key], one: Callable[[Key], Awaitable[Result]], in_flight_max: int = IN_FLIGHT_MAX
) -> dict[Key, Result | KvError]:
    """Call `one` for each key; return what it gave, or the KvError it raised, in the order of the keys.

    The keys differ.  `in_flight_max` calls at most are under way, and never more than `IN_FLIGHT_MAX`.
    """
    batch = _Batch(list(keys), one)
    async with asyncio.TaskGroup() as group:
        for _ in range(min(in_flight_max, IN_FLIGHT_MAX, len(batch.keys))):
            group.create_task(batch.work())
    return {key: batch.results[key] for key in batch.keys}


class _Batch(Generic[Key, Result]):
    def __init__(self, keys: list[Key], one: Callable[[Key], Awaitable[Result]]) -> None:
        self.keys = keys
        self.results: dict[Key, Result | KvError] = {}
        self._one = one
        self._todo = iter(keys)
        self._workers = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def work(self) -> None:
        """Take keys until none is left."""
        self._workers += 1
        for key in self._todo:
            while not await self._is_done(key):
                await self._progress()
            self._wake()
        self._workers -= 1
        self._wake()

    async def _is_done(self, key: Key) -> bool:
        """Call for one key; return False if it should be tried again after somebody else has finished."""
        try:
            self.results[key] = await self._one(key)
        except Overloaded as error:
            self.results[key] = error
            return len(self._waiting) + 1 >= self._workers
        except KvError as error:
            self.results[key] = error
        return True

    async def _progress(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        await turn

    def _wake(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
