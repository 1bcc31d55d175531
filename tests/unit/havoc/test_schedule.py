"""The plan of a chaos run: the seed alone decides it, and no two nemeses undo each other's work."""

from __future__ import annotations

import pytest

from scripts.havoc import schedule
from scripts.havoc.catalogue import NEMESES


def names(plan: schedule.Plan) -> list[tuple[str, ...]]:
    return [tuple(nemesis.name for nemesis in window) for window in plan.windows]


def test_the_same_seed_makes_the_same_plan_and_another_one_another() -> None:
    assert names(schedule.make(600, 1)) == names(schedule.make(600, 1))
    assert names(schedule.make(600, 1)) != names(schedule.make(600, 2))


@pytest.mark.parametrize("seconds", [28, 60, 600, 3600])
def test_a_run_takes_about_as_long_as_was_asked_for(seconds: float) -> None:
    plan = schedule.make(seconds, 1)
    assert seconds - plan.window_s - plan.mend_s <= plan.seconds <= seconds


def test_a_long_run_has_every_fault_alone_and_then_pairs() -> None:
    windows = names(schedule.make(600, 3))
    assert set(windows[: len(NEMESES)]) == {(name,) for name in NEMESES}
    assert all(len(window) == 2 for window in windows[len(NEMESES) :])
    assert ("kill-one", "partition") in windows


def test_nemeses_of_a_pair_use_different_means() -> None:
    for window in schedule.make(3600, 4).windows:
        means = [mean for nemesis in window for mean in nemesis.means]
        assert len(means) == len(set(means))


def test_only_the_faults_that_were_asked_for_are_used() -> None:
    used = {name for window in names(schedule.make(600, 5, ("pause", "partition"))) for name in window}
    assert used == {"pause", "partition"}


def test_every_fault_says_what_it_does_and_what_must_hold() -> None:
    for nemesis in NEMESES.values():
        assert nemesis.what.endswith(".")
        assert nemesis.promise.endswith(".")
        assert nemesis.means


def test_faults_that_are_joined_run_together() -> None:
    assert set(names(schedule.make(60, 6, ("pause+partition",)))) == {("pause", "partition")}


@pytest.mark.parametrize(
    ("fault", "said"), [("plague", 'no fault "plague"; there are kill-one'), ("pause+restart", "both need the process")]
)
def test_faults_that_cannot_be_are_refused(fault: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        schedule.make(60, 7, (fault,))
