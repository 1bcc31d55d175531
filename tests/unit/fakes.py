"""Time by hand: clocks that stand still until told, timers that fire only when time is moved.

`manual_runtime()` gives a `Runtime` for any part of a node; `advance` moves both clocks and runs what became due, in
order of due time, then of asking.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from kvnode.runtime import Runtime


@dataclass
class ManualClock:
    """Clocks that a test sets; `offset_ms` shifts the wall clock alone."""

    now_s: float = 1000.0
    epoch_ms: int = 1_700_000_000_000
    offset_ms: int = 0

    def wall_ms(self) -> int:
        return self.epoch_ms + round((self.now_s - 1000.0) * 1000) + self.offset_ms

    def machine_ms(self) -> int:
        return self.wall_ms()

    def monotonic_s(self) -> float:
        return self.now_s


@dataclass(eq=False)
class ManualTimer:
    """One call that is due later."""

    due_s: float
    number: int
    fn: Callable[[], object]
    is_cancelled: bool = False

    def cancel(self) -> None:
        self.is_cancelled = True


@dataclass
class ManualTimers:
    """Timers that fire in `advance` only."""

    clock: ManualClock
    waiting: list[ManualTimer] = field(default_factory=list)
    _asked: int = 0

    def call_soon(self, fn: Callable[[], object]) -> object:
        return self.call_later(0.0, fn)

    def call_later(self, delay_s: float, fn: Callable[[], object]) -> ManualTimer:
        self._asked += 1
        timer = ManualTimer(self.clock.now_s + delay_s, self._asked, fn)
        self.waiting.append(timer)
        return timer

    def delays_s(self) -> list[float]:
        """Return how far ahead every waiting timer is due, the nearest first."""
        return sorted(timer.due_s - self.clock.now_s for timer in self.waiting if not timer.is_cancelled)

    def run_soon(self) -> None:
        """Run what is due now, and what that asks to run now."""
        self.advance(0.0)

    def advance(self, elapsed_s: float) -> None:
        """Move time on and run everything that became due, each at its own time."""
        end_s = self.clock.now_s + elapsed_s
        while True:
            self.waiting = [timer for timer in self.waiting if not timer.is_cancelled]
            due = [timer for timer in self.waiting if timer.due_s <= end_s]
            if not due:
                break
            timer = min(due, key=lambda one: (one.due_s, one.number))
            self.waiting.remove(timer)
            self.clock.now_s = max(self.clock.now_s, timer.due_s)
            timer.fn()
        self.clock.now_s = end_s


def manual_runtime(seed: int = 0) -> tuple[Runtime, ManualClock, ManualTimers]:
    """Return a runtime on manual time, and its clock and timers."""
    clock = ManualClock()
    timers = ManualTimers(clock)
    return Runtime(clock, random.Random(seed), timers), clock, timers
