"""What is counted in a span of time: outcomes, latency, and gaps without a success."""

from __future__ import annotations

from checkers.operation import Operation, Status
from hypothesis import given
from hypothesis import strategies as st

from scripts.havoc import measure
from scripts.havoc.measure import SECOND_NS

MS = 1_000_000


def done(at_s: float, *, took_ms: float = 1, status: Status = "ok", mode: str = "strong") -> Operation:
    at_ns = round(at_s * SECOND_NS)
    return Operation(
        0,
        0,
        "write",
        "k",
        "v",
        mode=mode,  # type: ignore[arg-type]
        call_ns=at_ns - round(took_ms * MS),
        return_ns=None if status == "info" else at_ns,
        status=status,
    )


def test_the_longest_gap_counts_from_the_beginning_and_to_the_end() -> None:
    operations = [done(1.0), done(1.5), done(4.0)]
    assert measure.summary(operations, 0, 5 * SECOND_NS).gap_s == 2.5
    assert measure.summary(operations, 0, 10 * SECOND_NS).gap_s == 6.0
    assert measure.summary([], 0, 3 * SECOND_NS).gap_s == 3.0


def test_failures_and_unknown_outcomes_end_no_gap() -> None:
    operations = [done(1.0), done(2.0, status="fail"), done(3.0, status="info"), done(5.0)]
    seen = measure.summary(operations, 0, 5 * SECOND_NS + 1)
    assert (seen.ok, seen.failed, seen.unknown, seen.gap_s) == (2, 1, 1, 4.0)


def test_eventual_successes_end_no_gap_of_strong_ones() -> None:
    operations = [done(1.0), done(2.0, mode="eventual"), done(3.0)]
    seen = measure.summary(operations, 0, 4 * SECOND_NS)
    assert (seen.gap_s, seen.strong_gap_s) == (1.0, 2.0)


def test_each_second_has_its_own_operations() -> None:
    operations = [done(0.5), done(1.2, took_ms=900), done(1.4, mode="eventual"), done(2.9, status="fail")]
    seconds = measure.by_second(operations, 0, 3 * SECOND_NS)
    assert [(second.strong, second.eventual, second.failed) for second in seconds] == [(1, 0, 0), (1, 1, 0), (0, 0, 1)]
    assert seconds[1].p99_ms == 900.0
    assert seconds[2].p99_ms is None


@given(st.lists(st.floats(0, 20), max_size=30), st.integers(1, 20))
def test_seconds_add_up_to_the_summary(moments: list[float], end_s: int) -> None:
    seen = measure.summary([done(at_s) for at_s in moments], 0, end_s * SECOND_NS)
    assert sum(second.ok for second in seen.seconds) == seen.ok
    assert 0 <= seen.gap_s <= end_s


def test_a_time_in_which_nobody_asked_is_no_gap() -> None:
    operations = [done(1), done(2), done(9)]
    seen = measure.whole(operations, 0, 2 * SECOND_NS + 1, 8 * SECOND_NS, 10 * SECOND_NS)
    assert (seen.ok, seen.gap_s, len(seen.seconds)) == (3, 1, 10)
