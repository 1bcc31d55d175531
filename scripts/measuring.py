"""What the scripts that measure share: a quantile of latencies, and keys that are put before anything is measured."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

_WORKERS = 256
"""Puts on their way at once."""


def quantile(values: Sequence[float], part: float) -> float | None:
    """Return a quantile of sorted values; None if there are none."""
    return values[min(len(values) - 1, int(part * len(values)))] if values else None


async def fill(keys: Iterable[str], put: Callable[[str], Awaitable[object]]) -> None:
    """Put every key once, many at once."""
    left = iter(keys)

    async def worker() -> None:
        for key in left:
            await put(key)

    await asyncio.gather(*(worker() for _ in range(_WORKERS)))
