"""The clocks of one host: what its node believes the time is, while virtual time goes on.

Decides: how far a node's clocks are from virtual time.  Leaves to others: when that changes (the faults of a scenario).

Invariant: the monotonic clock never goes back (`kvnode.runtime.Clock`); drift changes its rate, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

from simulation.lives import Life, SimHandle
from simulation.loop import EPOCH_S, SimLoop

from kvnode.runtime import Runtime

WALL_EPOCH_MS = 1_700_000_000_000


class SimClock:
    """A wall clock that may be wrong in every way, and a monotonic one that may only run fast or slow."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self._rate = 1.0
        self._anchor_s, self._monotonic_s = loop.now_s, loop.now_s
        self._offset_ms = 0.0
        self._wall_ms = WALL_EPOCH_MS + (loop.now_s - EPOCH_S) * 1000
        self._is_frozen = False

    # -- what is wrong

    @property
    def offset_ms(self) -> float:
        """How far the wall clock was set wrong; setting it is a jump."""
        return self._offset_ms

    @offset_ms.setter
    def offset_ms(self, offset_ms: float) -> None:
        self._wall_ms += offset_ms - self._offset_ms
        self._offset_ms = offset_ms

    @property
    def rate(self) -> float:
        """Seconds of these clocks to one second of virtual time; timers that stand already keep their moment."""
        return self._rate

    @rate.setter
    def rate(self, rate: float) -> None:
        self._take_anchor()
        self._rate = rate

    @property
    def is_frozen(self) -> bool:
        """True: the wall clock stands still; afterwards it goes on from there, until `correct`."""
        return self._is_frozen

    @is_frozen.setter
    def is_frozen(self, is_frozen: bool) -> None:
        self._take_anchor()
        self._is_frozen = is_frozen

    def correct(self) -> None:
        """Be right again, as after a good step of NTP."""
        self._take_anchor()
        self._rate, self._is_frozen, self._offset_ms = 1.0, False, 0.0
        self._wall_ms = WALL_EPOCH_MS + (self._loop.now_s - EPOCH_S) * 1000

    # -- what the node reads

    def wall_ms(self) -> int:
        """Return what the node takes for the time of day."""
        if self._is_frozen:
            return int(self._wall_ms)
        return int(self._wall_ms + (self._loop.now_s - self._anchor_s) * self._rate * 1000)

    def machine_ms(self) -> int:
        """Return the same."""
        return self.wall_ms()

    def monotonic_s(self) -> float:
        """Return the node's monotonic clock."""
        return self._monotonic_s + (self._loop.now_s - self._anchor_s) * self._rate

    def _take_anchor(self) -> None:
        now_s = self._loop.now_s
        elapsed_s = (now_s - self._anchor_s) * self._rate
        self._anchor_s = now_s
        self._monotonic_s += elapsed_s
        if not self._is_frozen:
            self._wall_ms += elapsed_s * 1000


class SimTimers:
    """The timers of one life; they run by its monotonic clock."""

    __slots__ = ("_clock", "_life", "_loop")

    def __init__(self, loop: SimLoop, life: Life, clock: SimClock) -> None:
        self._loop, self._life, self._clock = loop, life, clock

    def call_soon(self, fn: Callable[[], object]) -> SimHandle:
        """Call `fn` in a turn of its own."""
        return self._loop.post(self._life, 0.0, fn)

    def call_later(self, delay_s: float, fn: Callable[[], object]) -> SimHandle:
        """Call `fn` once after `delay_s` seconds of this life."""
        loop = self._loop
        return loop.post(self._life, loop.now_s + delay_s / self._clock.rate, fn)


def sim_runtime(loop: SimLoop, life: Life, clock: SimClock) -> Runtime:
    """Return the runtime of a node's life on a host with this clock."""
    return Runtime(clock, life.rng, SimTimers(loop, life, clock))
