"""The repair budget: a bucket that never allows more than its rate, and a share that yields to the clients' latency."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvnode.core.budget import DEBT_S, SHARE_MIN, Budget


def budget_of(bytes_per_s: float = 1000.0, operations_per_s: float = 100.0) -> Budget:
    return Budget(bytes_per_s, operations_per_s, 0.0)


def taken(budget: Budget, begin_s: float, end_s: float, size_bytes: int) -> int:
    """Return how often a repair was allowed when it was asked for every 10 ms."""
    return sum(
        budget.take(begin_s + step / 100, size_bytes) for step in range(int((end_s - begin_s) * 100)) for _ in range(9)
    )


@pytest.mark.parametrize(("size_bytes", "expected"), [(1, 100), (10, 100), (100, 10), (500, 2)])
def test_a_second_allows_what_the_scarcer_of_the_two_rates_allows(size_bytes: int, expected: int) -> None:
    budget = budget_of()
    taken(budget, 0, 2, size_bytes)
    assert taken(budget, 2, 12, size_bytes) == pytest.approx(10 * expected, rel=0.1)


def test_what_is_larger_than_the_bucket_is_allowed_and_waited_for_afterwards() -> None:
    budget = budget_of()
    assert budget.take(0.0, 5000)
    assert not budget.take(1.0, 1)
    assert 3.8 < budget.wait_s(1.0) < 4.0
    assert budget.take(1.0 + budget.wait_s(1.0), 1)


def test_what_was_received_counts_as_what_was_sent() -> None:
    budget = budget_of()
    budget.charge(0.0, 1000)
    assert not budget.take(0.5, 1)
    assert budget.take(1.0, 1)


def test_what_others_send_leaves_ten_seconds_of_debt_at_most() -> None:
    budget = budget_of()
    for _ in range(10):
        budget.charge(0.0, 1_000_000, 10_000)
    assert DEBT_S < budget.wait_s(0.0) < DEBT_S + 0.1
    assert budget.used_bytes == 10_000_000
    assert budget.take(DEBT_S + 0.1, 50_000)
    budget.charge(DEBT_S + 0.1, 1_000_000)
    assert 49 < budget.wait_s(DEBT_S + 0.1) < 50, "what this node has sent itself is paid off in full"


def test_time_that_stands_still_or_goes_back_fills_nothing() -> None:
    budget = budget_of()
    budget.take(10.0, 1000)
    assert not budget.take(10.0, 1)
    assert not budget.take(5.0, 1)
    assert budget.wait_s(10.0) > 0


# what p99 was observed, whether repair was under way -> whether the share falls
_TABLE = [
    ("as without repair", [(10, False)] * 9, (10, True), False),
    ("a little worse", [(10, False)] * 9, (14, True), False),
    ("half as high again", [(10, False)] * 9, (16, True), True),
    ("high, but nothing was repaired", [(10, False)] * 9, (40, False), False),
    ("the noise of a fast machine", [(0.5, False)] * 9, (3, True), False),
    ("as high as it was before repair began", [(50, False)] * 30, (60, True), False),
]


@pytest.mark.parametrize(("_", "before", "last", "falls"), _TABLE)
def test_the_share_falls_when_repair_hurts(
    _: str, before: list[tuple[float, bool]], last: tuple[float, bool], falls: bool
) -> None:
    budget = budget_of()
    for now_s, (p99_ms, is_used) in enumerate([*before, last]):
        if is_used:
            budget.take(float(now_s), 1)
        budget.on_latency(p99_ms, 100)
    assert (budget.share < 1.0) == falls


def test_a_share_that_fell_rises_again_step_by_step() -> None:
    budget = budget_of()
    budget.on_latency(10.0, 100)
    for now_s in range(3):
        budget.take(float(now_s), 1)
        budget.on_latency(100.0, 100)
    low = budget.share
    assert low < 0.2
    for now_s in range(3, 5):
        budget.take(float(now_s), 1)
        budget.on_latency(10.0, 100)
    assert low + 0.15 < budget.share < 0.5


def test_with_a_share_of_a_half_half_is_allowed() -> None:
    budget = budget_of()
    budget.share = 0.5
    taken(budget, 0, 2, 1)
    assert taken(budget, 2, 12, 1) == pytest.approx(500, rel=0.1)


def test_without_clients_repair_takes_all() -> None:
    budget = budget_of()
    budget.share = SHARE_MIN
    for _ in range(10):
        budget.on_latency(1000.0, 3)
    assert budget.share == 1.0


def test_a_load_that_became_heavier_by_itself_does_not_stop_repair_for_ever() -> None:
    budget = budget_of()
    budget.on_latency(10.0, 100)
    for now_s in range(60):
        budget.take(float(now_s), 1)
        budget.on_latency(50.0, 100)
    assert budget.share > 0.5


@given(
    st.lists(
        st.tuples(st.floats(0, 2), st.integers(0, 10_000), st.floats(0, 1000), st.integers(0, 200), st.booleans()),
        max_size=50,
    )
)
def test_a_budget_stays_within_its_bounds(steps: list[tuple[float, int, float, int, bool]]) -> None:
    budget, now_s, spent, allowed = budget_of(), 0.0, 0, 0
    for elapsed_s, size_bytes, p99_ms, samples, is_observed in steps:
        now_s += elapsed_s
        if budget.take(now_s, size_bytes):
            allowed += 1
            spent = max(spent, size_bytes)
        if is_observed:
            budget.on_latency(p99_ms, samples)
        budget.invariants()
    assert budget.used_operations == allowed
    assert budget.used_bytes <= 1000 * (now_s + 0.1) + spent
    assert allowed <= 100 * (now_s + 0.1) + 1
