"""The budget on a node's clock: it hears of the latency of the last moments, not of all time."""

from __future__ import annotations

from kvnode.config import Limits
from kvnode.service.pace import Pace
from kvnode.service.requests import Statistics


class _Clock:
    now_s = 0.0

    def wall_ms(self) -> int:
        return int(self.now_s * 1000)

    def machine_ms(self) -> int:
        return self.wall_ms()

    def monotonic_s(self) -> float:
        return self.now_s


def _answer(statistics: Statistics, clock: _Clock, count: int, latency_s: float) -> None:
    for _ in range(count):
        statistics.in_flight += 1
        statistics.on_answer("strong put", clock.now_s - latency_s)


def test_recent_latencies_are_those_since_the_last_look() -> None:
    clock = _Clock()
    statistics = Statistics(clock)
    _answer(statistics, clock, 800, 0.001)
    assert statistics.recent_p99_ms() == (1.0, 100)
    assert statistics.recent_p99_ms() == (0.0, 0)
    _answer(statistics, clock, 80, 0.005)
    p99_ms, samples = statistics.recent_p99_ms()
    assert (round(p99_ms, 6), samples) == (5.0, 10)
    _answer(statistics, clock, 80_000, 0.002)
    _answer(statistics, clock, 800, 0.003)
    statistics.recent_p99_ms()
    _answer(statistics, clock, 800, 0.004)
    p99_ms, samples = statistics.recent_p99_ms()
    assert (round(p99_ms, 6), samples) == (4.0, 100)


def test_repair_slows_while_clients_wait_longer_and_recovers() -> None:
    clock = _Clock()
    statistics = Statistics(clock)
    pace = Pace(Limits(), clock, statistics)
    for latency_s, expected in ((0.01, 1.0), (0.05, 0.5), (0.05, 0.25)):
        clock.now_s += 0.5
        assert pace.take(100)
        _answer(statistics, clock, 800, latency_s)
        pace.sweep(clock.now_s)
        assert pace.facts()["allowed"] == expected
    assert pace.facts()["operations_per_s"] == 2
    pace.charge(10**9)
    assert not pace.take(1)
    assert pace.wait_s() > 1


def test_few_clients_are_observed_for_longer_and_many_sooner() -> None:
    """Every eighth request is timed; an observation ends once there are twenty, after a quarter of a second to one."""
    clock = _Clock()
    statistics = Statistics(clock)
    pace = Pace(Limits(), clock, statistics)
    for answered, seconds, expected in ((800, 0.25, 0.5), (80, 0.25, 0.5), (80, 0.25, 0.25), (8, 0.5, 0.25)):
        clock.now_s += seconds
        assert pace.take(100)
        pace.budget.level_ms = 5.0
        _answer(statistics, clock, answered, 0.05)
        pace.sweep(clock.now_s)
        assert pace.facts()["allowed"] == expected
    clock.now_s += 0.5
    pace.sweep(clock.now_s)
    assert pace.facts()["allowed"] > 0.25, "nobody is there to be hurt"


def test_what_can_wait_is_slow_while_hints_come_in() -> None:
    clock = _Clock()
    pace = Pace(Limits(), clock, Statistics(clock))
    assert pace.slowness == 1.0
    pace.charge(100)
    assert pace.slowness == 1.0, "that was no hint"
    assert pace.take_in(100, 1) == 0.0
    assert pace.slowness == 8.0
    pace.budget.share = 0.5
    assert pace.slowness == 16.0
    clock.now_s += 1.0
    assert pace.slowness == 2.0
