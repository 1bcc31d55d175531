"""The time of a world: one scheduler for all, and for each node the clocks and timers of one life."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


class Scheduler:
    """Timers and turns of the whole world, on one clock that stands still unless told."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.soon: deque[Callable[[], object]] = deque()
        self.later: list[tuple[float, int, Timer]] = []
        self._count = itertools.count()

    def call_soon(self, fn: Callable[[], object]) -> None:
        self.soon.append(fn)

    def call_later(self, delay_s: float, fn: Callable[[], object]) -> Timer:
        timer = Timer(fn)
        heapq.heappush(self.later, (self.now_s + delay_s, next(self._count), timer))
        return timer

    def turn(self) -> bool:
        """Run what is due now; False if nothing was."""
        if self.soon:
            self.soon.popleft()()
            return True
        if self.later and self.later[0][0] <= self.now_s:
            timer = heapq.heappop(self.later)[2]
            if not timer.is_cancelled:
                timer.fn()
            return True
        return False


@dataclass(eq=False)
class Timer:
    fn: Callable[[], object]
    is_cancelled: bool = False

    def cancel(self) -> None:
        self.is_cancelled = True


class WorldClock:
    """One node's clocks: the world's time, plus an offset of the wall clock that a test may set."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.offset_ms = 0

    def wall_ms(self) -> int:
        return 1_700_000_000_000 + round((self._scheduler.now_s - 1000.0) * 1000) + self.offset_ms

    def machine_ms(self) -> int:
        return self.wall_ms()

    def monotonic_s(self) -> float:
        return self._scheduler.now_s


class WorldTimers:
    """The timers of one life of a node: a crash ends all of them."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.is_dead = False

    def call_soon(self, fn: Callable[[], object]) -> object:
        self._scheduler.call_soon(lambda: None if self.is_dead else fn())
        return None

    def call_later(self, delay_s: float, fn: Callable[[], object]) -> Timer:
        return self._scheduler.call_later(delay_s, lambda: None if self.is_dead else fn())
