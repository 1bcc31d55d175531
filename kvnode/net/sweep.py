"""The links of one owner, and the one timer that all their timeouts share.

Decides: when links are ticked, and how long to wait for them to go.  Leaves to others: what a timeout means
(`connection`) and why links are closed (`listener`, `peers`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from kvnode.net.connection import LINGER_S, Link
from kvnode.runtime import Runtime, TimerHandle

_POLL_S: Final = 0.01


class Sweep:
    """Keeps links in the order in which they came, and calls `on_tick`, then each link's `tick`, every `period_s`."""

    def __init__(self, runtime: Runtime, period_s: float, on_tick: Callable[[], None] = lambda: None) -> None:
        self.links: dict[Link, None] = {}
        self._runtime, self._period_s, self._on_tick = runtime, period_s, on_tick
        self._timer: TimerHandle | None = None

    def start(self) -> None:
        """Begin to tick."""
        self._timer = self._runtime.timers.call_later(self._period_s, self._tick)

    def stop(self) -> None:
        """Tick no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self.start()
        self._on_tick()
        for link in tuple(self.links):
            link.tick(self._period_s)

    async def close(self, code: str, reason: str) -> None:
        """Close every link, wait a moment until all have fetched their GOODBYE, reset the rest, and stop."""
        for link in tuple(self.links):
            link.close(code, reason)
        await self.until(lambda: not self.links, LINGER_S)
        for link in tuple(self.links):
            link.abort(code, reason)
        await self.until(lambda: not self.links, LINGER_S)
        self.stop()

    async def until(self, is_done: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until `is_done()`, looking every 10 ms, and return whether it came true within `timeout_s`."""
        clock, timers, loop = self._runtime.clock, self._runtime.timers, asyncio.get_running_loop()
        deadline_s = clock.monotonic_s() + timeout_s
        while not is_done():
            if clock.monotonic_s() >= deadline_s:
                return False
            woken: asyncio.Future[None] = loop.create_future()
            timers.call_later(_POLL_S, lambda woken=woken: woken.done() or woken.set_result(None))  # type: ignore[misc]
            await woken
        return True
