"""Who is so much busier than the rest that it is asked later: tables of what nodes tell."""

from __future__ import annotations

import pytest

from kvnode.core.load import BUSY_US_MIN, Load, busy


def loads(*loops_us: int | None) -> list[Load | None]:
    return [None if loop_us is None else Load(0, loop_us, 0) for loop_us in loops_us]


@pytest.mark.parametrize(
    ("loops_us", "expected"),
    [
        ((), 0),
        ((90_000,), 0),
        ((0, 0, 0), 0),
        ((100, 100, BUSY_US_MIN), 0),
        ((100, 100, BUSY_US_MIN + 1), 0b100),
        ((100, 90_000, 80_000), 0),
        ((100, 200, 300, 90_000, 80_000), 0b11000),
        ((30_000, 30_000, 30_000), 0),
        ((30_000, 30_000, 91_000), 0b100),
        ((None, 100, 90_000), 0),
        ((100, None, 90_000, 100), 0b100),
        ((None, None, 90_000), 0),
    ],
    ids=repr,
)
def test_a_node_is_busy_if_it_is_far_above_the_median_of_those_that_told(
    loops_us: tuple[int | None, ...], expected: int
) -> None:
    assert busy(loads(*loops_us)) == expected


def test_many_requests_or_a_slow_disk_alone_make_no_node_busy_for_reads() -> None:
    assert busy([Load(0, 0, 0), Load(10_000, 0, 0), Load(0, 0, 900_000)]) == 0
