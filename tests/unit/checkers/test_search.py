"""The search says the same as trying every order, and says so when it gives up."""

from __future__ import annotations

from functools import cache
from random import Random

import pytest
from checkers.keyed import NEVER_NS
from checkers.operation import Value
from checkers.search import Verdict, explain
from checkers.steps import Kind, Step


def has_an_order(steps: list[Step], initial: Value) -> bool:
    """Try every order, by the words of the specification alone."""
    musts = sum(1 << number for number, step in enumerate(steps) if step.is_must)

    @cache
    def rest(done: int, held: Value, fence: int) -> bool:
        undone = [step.by for number, step in enumerate(steps) if musts & ~done & 1 << number]
        if not undone:
            return True
        for number, step in enumerate(steps):
            if done & 1 << number or step.call > min(undone) or step.floats_until < fence or not may(step, held):
                continue
            after = step.leaves if step.kind in (Kind.WRITE, Kind.SWAP) else held
            if step.kind == Kind.ADD:
                after = int(held or 0) + int(step.leaves or 0)
            is_change = step.kind > Kind.REFUTE and not (held is None and after is None)
            if rest(done | 1 << number, after, max(fence, step.fence) if is_change else fence):
                return True
        return False

    return rest(0, initial, 0)


def may(step: Step, held: Value) -> bool:
    if step.kind == Kind.REFUTE:
        return step.needs != held
    return step.needs == held if step.kind in (Kind.OBSERVE, Kind.SWAP) else True


def some_steps(rng: Random) -> list[Step]:
    """Draw a few steps: unique values or not, with or without floating writes, refutations and unknown outcomes."""
    is_unique, floats, refutes = rng.random() < 0.6, rng.random() < 0.5, rng.random() < 0.3
    fresh, values = iter("stuvwxyz"), list("abcd"[: rng.randint(2, 4)])
    made: list[Value] = [None]
    steps: list[Step] = []
    for _ in range(rng.randint(2, 8)):
        call, is_must = rng.randint(0, 14), rng.random() < 0.75
        by = call + rng.randint(0, 8)
        pool = made if is_unique else [*values, None]
        kind = rng.choice([*[Kind.OBSERVE, Kind.WRITE] * 3, Kind.SWAP, Kind.SWAP, *[Kind.REFUTE] * refutes])
        if kind <= Kind.REFUTE:
            seen = rng.choice(pool)
            steps.append(Step(kind, seen, seen, call, by, True))
            continue
        leaves: Value = None if rng.random() < 0.2 else next(fresh) if is_unique else rng.choice(values)
        made.append(leaves)
        if kind == Kind.WRITE and floats and rng.random() < 0.5:
            steps.append(Step(kind, None, leaves, call, NEVER_NS, False, floats_until=by))
        else:
            needs = rng.choice(pool) if kind == Kind.SWAP else None
            steps.append(Step(kind, needs, leaves, call, by if is_must else NEVER_NS, is_must, fence=call))
    return steps


def some_sums(rng: Random) -> list[Step]:
    """Draw the steps of a counter, some of whose increments lost their answer."""
    steps: list[Step] = []
    for _ in range(rng.randint(2, 7)):
        call, is_must, number = rng.randint(0, 14), rng.random() < 0.7, rng.randint(0, 4)
        by = call + rng.randint(0, 8) if is_must else NEVER_NS
        steps.append(
            rng.choice(
                [
                    Step(Kind.OBSERVE, number, number, call, call + 4, True),
                    Step(Kind.ADD, None, rng.randint(1, 2), call, by, is_must, call),
                    Step(Kind.SWAP, number, number + 1, call, by, is_must, call),
                ]
            )
        )
    return steps


@pytest.mark.parametrize("seed", range(20))
def test_the_search_agrees_with_trying_every_order(seed: int) -> None:
    rng, verdicts = Random(seed), set()
    for _ in range(250):
        steps, initial = (some_sums(rng), 0) if rng.random() < 0.2 else (some_steps(rng), None)
        found, _ = explain(steps, initial)
        assert (found is Verdict.EXPLAINED) is has_an_order(steps, initial), steps
        verdicts.add(found)
    assert verdicts == {Verdict.EXPLAINED, Verdict.CONTRADICTED}


def test_a_search_that_is_given_up_says_so() -> None:
    """Unknown increments by different amounts and a sum that they cannot give: every subset would have to be tried."""
    lost = [Step(Kind.ADD, None, 2 << number, 0, NEVER_NS, False) for number in range(40)]
    verdict, looked = explain([*lost, Step(Kind.OBSERVE, 1, 1, 5, 6, True)], 0, steps_max=1000)
    assert verdict is Verdict.TOO_HARD
    assert looked == 1000


def test_a_value_that_nobody_wrote_needs_no_search() -> None:
    lost = [Step(Kind.WRITE, None, None, 0, NEVER_NS, False) for _ in range(40)]
    assert explain([*lost, Step(Kind.OBSERVE, "a", "a", 5, 6, True)]) == (Verdict.CONTRADICTED, 0)


@pytest.mark.parametrize("count", [10, 1000])
def test_what_looks_hard_and_is_not_takes_a_step_for_each_operation(count: int) -> None:
    """Writes that all overlap, nobody reads all but one, and many have an unknown outcome."""
    steps = [Step(Kind.WRITE, None, f"v{n}", 0, 9 if n % 2 else NEVER_NS, n % 2 == 1, 0) for n in range(count)]
    steps += [Step(Kind.OBSERVE, "v4", "v4", 20, 30, True), Step(Kind.OBSERVE, "v4", "v4", 40, 50, True)]
    verdict, looked = explain(steps)
    assert verdict is Verdict.EXPLAINED
    assert looked <= count
    verdict, looked = explain([*steps, Step(Kind.OBSERVE, "v5", "v5", 45, 50, True)])
    assert verdict is Verdict.CONTRADICTED
    assert looked <= 10 * count
