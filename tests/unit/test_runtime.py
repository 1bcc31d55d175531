"""Real clocks and timers, and the manual ones that other tests rely on."""

from __future__ import annotations

import asyncio

from unit.fakes import manual_runtime

from kvnode.runtime import RealClock, real_runtime


def test_the_offset_moves_the_wall_clock_and_not_the_monotonic_one() -> None:
    """R4: tests of skew set it while the node runs."""
    clock = RealClock()
    before_ms, before_s = clock.wall_ms(), clock.monotonic_s()
    clock.offset_ms = 3_600_000
    assert clock.wall_ms() >= before_ms + 3_600_000
    clock.offset_ms = -3_600_000
    assert clock.wall_ms() < before_ms
    assert clock.monotonic_s() >= before_s


async def test_real_timers_call_soon_in_order_and_cancelled_calls_never() -> None:
    timers = real_runtime().timers
    seen: list[str] = []
    done = asyncio.Event()
    timers.call_later(0.0, lambda: seen.append("never")).cancel()
    timers.call_soon(lambda: seen.append("first"))
    timers.call_soon(lambda: seen.append("second"))
    timers.call_later(0.0, done.set)
    await done.wait()
    assert seen == ["first", "second"]


async def test_a_real_runtime_draws_numbers_and_starts_with_the_given_offset() -> None:
    runtime = real_runtime(offset_ms=86_400_000)
    assert 0 <= runtime.rng.random() < 1
    assert 0 <= runtime.rng.getrandbits(8) < 256
    assert runtime.clock.wall_ms() > RealClock().wall_ms() + 80_000_000


def test_manual_timers_run_in_order_of_due_time_then_of_asking() -> None:
    runtime, clock, timers = manual_runtime()
    seen: list[tuple[str, float]] = []
    runtime.timers.call_later(2.0, lambda: seen.append(("late", clock.now_s)))
    runtime.timers.call_later(1.0, lambda: runtime.timers.call_later(0.5, lambda: seen.append(("nested", clock.now_s))))
    runtime.timers.call_soon(lambda: seen.append(("soon", clock.now_s)))
    timers.advance(3.0)
    assert seen == [("soon", 1000.0), ("nested", 1001.5), ("late", 1002.0)]
    assert clock.monotonic_s() == 1003.0


def test_a_cancelled_manual_timer_never_runs() -> None:
    runtime, _, timers = manual_runtime()
    seen: list[int] = []
    runtime.timers.call_later(1.0, lambda: seen.append(1)).cancel()
    timers.advance(2.0)
    assert seen == []
    assert timers.delays_s() == []
