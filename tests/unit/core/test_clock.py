"""R2, R3: stamps rise, never leave the durable ceiling, and are not pulled far ahead by anybody."""

from __future__ import annotations

import pytest

from kvnode.core.clock import HybridClock, stamp_ms, stamp_of

NOW_MS = 1_700_000_000_000


def clock(max_offset_ms: int = 500) -> HybridClock:
    made = HybridClock(max_offset_ms)
    made.raise_ceiling(made.next_ceiling(NOW_MS))
    return made


def test_nothing_is_issued_before_a_ceiling_is_durable() -> None:
    """R3."""
    assert HybridClock(500).issue(NOW_MS) is None


def test_no_stamp_is_issued_above_the_ceiling_and_the_refusal_changes_nothing() -> None:
    """R3."""
    made = clock()
    last = made.last
    assert made.issue(NOW_MS + 251) is None
    assert made.issue(NOW_MS, above=made.ceiling) is None
    assert made.last == last
    assert made.issue(NOW_MS) is not None


def test_the_ceiling_itself_may_be_issued() -> None:
    """R3: only a stamp *above* it needs a new one."""
    made = clock()
    assert made.issue(NOW_MS, above=made.ceiling - 1) == made.ceiling


def test_stamps_rise_while_the_wall_clock_stands_or_falls() -> None:
    """R2."""
    made = clock()
    stamps = [made.issue(ms) for ms in (NOW_MS, NOW_MS, NOW_MS - 10_000, NOW_MS + 1)]
    assert None not in stamps
    assert stamps == sorted(set(stamps))


def test_a_stamp_is_greater_than_what_it_must_be_above() -> None:
    """R29."""
    made = clock()
    above = stamp_of(NOW_MS + 20) + 5
    assert made.issue(NOW_MS, above) == above + 1


def test_a_full_counter_carries_into_the_milliseconds() -> None:
    """R2."""
    made = clock()
    full = stamp_of(NOW_MS) + 0xFFFF
    assert made.observe(full, NOW_MS)
    assert made.issue(NOW_MS) == stamp_of(NOW_MS + 1)


@pytest.mark.parametrize("ahead_ms", [501, 5_000, 10**9])
def test_a_stamp_too_far_ahead_is_refused_and_not_merged(ahead_ms: int) -> None:
    """R2: CLOCK_SKEW."""
    made = clock()
    before = made.last
    assert not made.observe(stamp_of(NOW_MS + ahead_ms), NOW_MS)
    assert made.last == before


def test_a_stamp_exactly_max_offset_ahead_is_merged() -> None:
    made = clock()
    assert made.observe(stamp_of(NOW_MS + 500), NOW_MS)
    assert made.last == stamp_of(NOW_MS + 500)


def test_an_older_stamp_does_not_pull_the_clock_back() -> None:
    made = clock()
    issued = made.issue(NOW_MS)
    assert made.observe(stamp_of(NOW_MS - 400), NOW_MS)
    assert made.last == issued


def test_after_equal_stamps_the_next_is_greater_than_both() -> None:
    """R2: on equal milliseconds the counter is max(local, remote) + 1."""
    made = clock()
    made.issue(NOW_MS)
    made.observe(stamp_of(NOW_MS) + 9, NOW_MS)
    assert made.issue(NOW_MS) == stamp_of(NOW_MS) + 10


def test_a_restart_begins_at_the_ceiling_so_that_nothing_is_issued_twice_though_the_wall_clock_went_back() -> None:
    """R3."""
    first = clock()
    issued = {first.issue(NOW_MS) for _ in range(100)}
    second = HybridClock(500, durable_ceiling=first.ceiling)
    assert second.issue(NOW_MS - 3_600_000) is None, "even the first stamp of the new life needs a new ceiling"
    second.raise_ceiling(second.next_ceiling(NOW_MS - 3_600_000))
    again = second.issue(NOW_MS - 3_600_000)
    assert again is not None
    assert again > max(stamp for stamp in issued if stamp)


def test_a_new_ceiling_is_half_of_max_offset_ahead_of_the_later_clock() -> None:
    """R3."""
    made = clock()
    assert made.next_ceiling(NOW_MS) == stamp_of(NOW_MS + 250)
    made.observe(stamp_of(NOW_MS + 400), NOW_MS)
    assert made.next_ceiling(NOW_MS) == stamp_of(NOW_MS + 650)


@pytest.mark.parametrize(("took_ms", "reserve_ms"), [(0, 250), (125, 250), (126, 252), (900, 1800), (10**9, 4000)])
def test_the_reserve_is_twice_what_a_renewal_takes_within_its_bounds(took_ms: int, reserve_ms: int) -> None:
    """R3: a disk slower than the reserve would let every ceiling pass before it is durable."""
    made = clock()
    made.on_renewed(took_ms)
    assert made.next_ceiling(NOW_MS) == stamp_of(NOW_MS + reserve_ms)
    made.raise_ceiling(made.next_ceiling(NOW_MS))
    assert not made.should_renew(NOW_MS + reserve_ms // 2)
    assert made.should_renew(NOW_MS + reserve_ms // 2 + 1)


def test_a_ceiling_never_falls() -> None:
    made = clock()
    before = made.ceiling
    made.raise_ceiling(before - 1)
    assert made.ceiling == before


def test_renewal_is_due_when_half_of_the_reserve_is_used() -> None:
    made = clock()
    assert not made.should_renew(NOW_MS)
    assert not made.should_renew(NOW_MS + 125)
    assert made.should_renew(NOW_MS + 126)


def test_a_clock_ahead_of_the_wall_by_more_than_max_offset_says_so() -> None:
    """R3: no eventual write is coordinated then."""
    made = HybridClock(500, durable_ceiling=stamp_of(NOW_MS + 501))
    assert made.is_ahead(NOW_MS)
    assert not made.is_ahead(NOW_MS + 1)
    made.invariants()


def test_a_max_offset_of_zero_still_leaves_room_to_issue() -> None:
    made = HybridClock(0)
    made.raise_ceiling(made.next_ceiling(NOW_MS))
    assert made.issue(NOW_MS) == stamp_of(NOW_MS)
    assert stamp_ms(made.ceiling) == NOW_MS + 1
