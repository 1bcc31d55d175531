"""The smallest bad part is bad by itself, small, and found without looking for long."""

from __future__ import annotations

from dataclasses import replace

import pytest
from checkers.keyed import KeyHistory, by_key, returned_ns
from checkers.linear import is_linearizable
from checkers.search import Verdict, explain
from checkers.shrink import smallest_bad_part
from checkers.steps import steps_of
from unit.checkers.histories import damaged, good_history, of_key, read, wrote


def judge(history: KeyHistory, steps_max: int) -> tuple[bool, int]:
    initial, steps = steps_of(history, is_mixed=history.is_mixed)
    found, looked = explain(steps, initial, steps_max)
    return found is Verdict.CONTRADICTED, looked


@pytest.mark.parametrize("seed", range(40))
def test_the_smallest_bad_part_is_small_and_bad_by_itself(seed: int) -> None:
    [history] = by_key(damaged(good_history(seed, 60, weak=0.2 * (seed % 2)), seed))
    if not is_linearizable(history):
        core, last = smallest_bad_part(history, judge)
        assert not is_linearizable(history.part(core))
        assert len(core) <= 8
        assert last in core


@pytest.mark.parametrize("seed", range(40))
def test_nothing_of_the_rest_can_mend_the_smallest_bad_part(seed: int) -> None:
    """Still bad if every other change may have happened while it was asked for, and what came later at any time."""
    [history] = by_key(damaged(good_history(seed, 60, weak=0.2 * (seed % 2)), seed))
    if not is_linearizable(history):
        core, last = smallest_bad_part(history, judge)
        assert last is not None
        known = {operation.index for operation in core}
        rest = [replace(other, status="info") for other in history.operations if other.index not in known]
        maybe = [other if returned_ns(other) <= returned_ns(last) else replace(other, return_ns=None) for other in rest]
        assert not is_linearizable(history.part([*core, *(other for other in maybe if other.may_change)]))


def test_a_long_history_is_shrunk_in_few_steps() -> None:
    [history] = by_key(damaged(good_history(1, 3000, clients=8), 5))
    looked_in_all = 0

    def counted(part: KeyHistory, steps_max: int) -> tuple[bool, int]:
        nonlocal looked_in_all
        is_bad, looked = judge(part, steps_max)
        looked_in_all += looked
        return is_bad, looked

    assert not is_linearizable(history)
    core, _ = smallest_bad_part(history, counted)
    assert len(core) <= 8
    assert looked_in_all <= 50 * len(history.operations)


def test_shrinking_ends_when_it_may_look_no_further() -> None:
    history = of_key(wrote("a", 0, 1), wrote("b", 2, 3), read("a", 4, 5), read("b", 4, 5))
    core, last = smallest_bad_part(history, judge, steps_max=0)
    assert core == list(history.operations)
    assert last is None
