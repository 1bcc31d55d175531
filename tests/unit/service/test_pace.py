"""The budget on a node's clock: it hears of the latency of the last half second, not of all time."""

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
