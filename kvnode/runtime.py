"""The only user of time, randomness and loop timers: what a node must be given so that it can run on virtual time.

Decides: how a node reads clocks, draws random numbers and asks to be called later.  Leaves to others: what they do with
it.  Every room receives a `Runtime`; none imports `time` or `random`.

Invariant: `monotonic_s` never goes back; `wall_ms` may, and nothing that must be safe may depend on it (R2-R5).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """The two clocks of one node."""

    def wall_ms(self) -> int:
        """Return milliseconds since 1970 as this node believes them."""

    def machine_ms(self) -> int:
        """Return the machine's wall clock even where `wall_ms` does not believe it: for comparing machines (R4)."""

    def monotonic_s(self) -> float:
        """Return seconds since some fixed moment; never goes back."""


class Rng(Protocol):
    """A source of random numbers; `random.Random` is one."""

    def random(self) -> float:
        """Return a number in [0, 1)."""

    def getrandbits(self, k: int, /) -> int:
        """Return an integer of `k` random bits."""


class TimerHandle(Protocol):
    """A call that is due later."""

    def cancel(self) -> None:
        """Forget the call; harmless after it ran."""


class Timers(Protocol):
    """How to be called by the event loop."""

    def call_soon(self, fn: Callable[[], object]) -> object:
        """Call `fn` in the next turn of the loop, after what was asked for before it."""

    def call_later(self, delay_s: float, fn: Callable[[], object]) -> TimerHandle:
        """Call `fn` once, not before `delay_s` seconds from now."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """Time, randomness and timers of one node."""

    clock: Clock
    rng: Rng
    timers: Timers


class RealClock:
    """The machine's clocks; `offset_ms` is added to the wall clock and may be set at any time, by tests only."""

    __slots__ = ("offset_ms",)

    def __init__(self, offset_ms: int = 0) -> None:
        self.offset_ms = offset_ms

    def wall_ms(self) -> int:
        """Return the machine's wall clock plus `offset_ms`."""
        return time.time_ns() // 1_000_000 + self.offset_ms

    def machine_ms(self) -> int:
        """Return the same."""
        return self.wall_ms()

    def monotonic_s(self) -> float:
        """Return the machine's monotonic clock; it is the same for all processes of one host."""
        return time.monotonic()


class LoopTimers:
    """The timers of one event loop.  An exception of a call goes to the loop's exception handler."""

    __slots__ = ("_loop",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def call_soon(self, fn: Callable[[], object]) -> object:
        """Call `fn` in the next turn of the loop."""
        return self._loop.call_soon(fn)

    def call_later(self, delay_s: float, fn: Callable[[], object]) -> TimerHandle:
        """Call `fn` once after `delay_s` seconds."""
        return self._loop.call_later(delay_s, fn)


def real_runtime(offset_ms: int = 0) -> Runtime:
    """Return the runtime of a real node.  Must be called inside a running loop; `offset_ms` is for tests of skew."""
    return Runtime(RealClock(offset_ms), random.Random(), LoopTimers(asyncio.get_running_loop()))
