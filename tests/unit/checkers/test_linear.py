"""Histories of strong operations: told good from bad, as another checker tells them, and shrunk to what matters."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, cast

import pytest
from checkers.keyed import KeyHistory, by_key
from checkers.linear import LINEAR, finding, is_linearizable, verdict
from checkers.operation import Operation, Value
from checkers.search import Verdict
from unit.checkers.histories import (
    counted,
    created,
    damaged,
    deleted,
    good_history,
    of_key,
    read,
    refused,
    swapped,
    weak_read,
    wrote,
)


@pytest.mark.parametrize(
    ("is_good", "history"),
    [
        (True, of_key(wrote("a", 0, 1), read("a", 2, 3))),
        (False, of_key(wrote("a", 0, 1), read(None, 2, 3))),
        (True, of_key(wrote("a", 0, 3), read(None, 1, 2), read("a", 2, 4))),
        (False, of_key(wrote("a", 0, 5), read("a", 1, 2), read(None, 3, 4))),
        (True, of_key(wrote("a", 0, None), read(None, 1, 2), read("a", 30, 40))),
        (False, of_key(wrote("a", 5, None), read("a", 1, 2))),
        (False, of_key(wrote("a", 0, 1, "A"), swapped("A", "b", 2, 9), swapped("A", "c", 2, 9))),
        (True, of_key(wrote("a", 0, 1, "A"), swapped("A", "b", 2, 9), refused("cas", "c", 2, 9, "b", etag="A"))),
        (False, of_key(wrote("a", 0, 1), refused("create", "b", 2, 3, None))),
        (False, of_key(wrote("a", 0, 1, "A"), refused("cas", "b", 2, 3, "a", etag="A", saw_etag="A"))),
        (True, of_key(wrote("a", 0, 1, "A"), deleted(2, 9), refused("cas", "b", 2, 9, "a", etag="A", saw_etag="A"))),
        (False, of_key(wrote("a", 0, 1), wrote("b", 2, 3), read("a", 4, 5))),
        (False, of_key(created("a", 0, 1), created("b", 2, 3))),
        (True, of_key(created("a", 0, 1), deleted(0, None), created("b", 2, 3))),
        (True, of_key(created("a", 0, 1, ttl_ms=1), created("b", 2, 3))),
        (False, of_key(wrote("a", 0, 1, ttl_ms=1), wrote("b", 2, 3), read("a", 4, 5))),
        (False, of_key(read("never written", 0, 1))),
        (True, of_key(counted(1, 0, 5), counted(2, 0, 5), read(2, 6, 7))),
        (True, of_key(counted(1, 0, 1), counted(None, 2, None), read(1, 3, 4), read(2, 5, 6))),
        (True, of_key(counted(1, 0, 1), counted(None, 2, None), weak_read(1, 3, 4), read(1, 5, 6))),
        (
            True,
            of_key(
                counted(2, 0, 1, by=2),
                counted(None, 2, None),
                weak_read(3, 3, 4),
                counted(2, 5, 6, by=-1),
                counted(3, 7, 8),
            ),
        ),
        (False, of_key(counted(1, 0, 1), counted(1, 2, 3))),
        (False, of_key(counted(1, 0, 1), counted(None, 2, None), read(3, 5, 6))),
        (True, of_key(wrote("a", 0, None), weak_read("a", 1, 2), read("a", 3, 4))),
        (False, of_key(wrote("a", 0, None), weak_read("a", 1, 2), read(None, 3, 4))),
    ],
)
def test_good_histories_are_told_from_bad_ones(is_good: bool, history: KeyHistory) -> None:
    assert is_linearizable(history) is is_good


def test_an_operation_that_was_not_applied_is_none() -> None:
    assert is_linearizable(of_key(wrote("a", 0, 1, status="fail"), read(None, 2, 3)))
    assert not is_linearizable(of_key(wrote("a", 0, 1, status="fail"), read("a", 2, 3)))


@pytest.mark.parametrize("seed", range(40))
def test_what_a_register_does_is_linearizable(seed: int) -> None:
    [history] = by_key(good_history(seed, 300, clients=2 + seed % 8, unknown=0.05))
    found, looked = verdict(history)
    assert found is Verdict.EXPLAINED
    assert looked <= 3 * len(history.operations)


@pytest.mark.parametrize("seed", range(40))
def test_the_smallest_bad_part_is_small_and_bad_by_itself(seed: int) -> None:
    [history] = by_key(damaged(good_history(seed, 60), seed))
    if not is_linearizable(history):
        core = finding(history).evidence
        assert not is_linearizable(history.part(core))
        assert len(core) <= 8


def test_the_finding_names_the_answer_that_cannot_be_explained() -> None:
    history = of_key(
        wrote("a", 0, 1), read("a", 2, 3), wrote("b", 4, 5), read("b", 6, 7), read("a", 8, 9), read("b", 8, 9)
    )
    found = finding(history)
    assert found.checker == LINEAR
    assert found.message == "the answer of operation 4, read -> a, cannot be explained"
    assert [operation.index for operation in found.evidence] == [0, 2, 4]


# -- the same verdict as another implementation


def agrees(operations: Sequence[Operation]) -> bool:
    """Ask detangle, an independent checker of the Wing and Gong kind, and compare; return the verdict."""
    lin = pytest.importorskip("detangle.lin", reason="cross-check: pip install detangle")
    [history] = by_key(operations)
    moments = sorted(
        [(operation.call_ns, 0, operation.index) for operation in operations]
        + [(operation.return_ns, 1, operation.index) for operation in operations if operation.return_ns is not None]
    )
    at = {(index, kind): number for number, (_, kind, index) in enumerate(moments, 1)}
    asked = [translated(lin, history, operation, at) for operation in operations]
    theirs = bool(lin.check(asked, lin.KV()).ok)
    assert is_linearizable(history) is theirs
    return theirs


def translated(lin: Any, history: KeyHistory, operation: Operation, at: dict[tuple[int, int], int]) -> Any:
    call, ret = at[operation.index, 0], at.get((operation.index, 1))
    f, value, output = str(operation.f), operation.value, cast(Any, None)
    argument: Any = ("k", value)
    if operation.is_read or not operation.result:
        f, argument, output = "get", "k", operation.saw
    elif f == "delete":
        argument = "k"
    elif f == "create" or operation.etag in history.etags:
        needs: Value = history.etags[operation.etag] if f == "cas" else None
        f, argument, output = "cas", ("k", needs, value), operation.is_ok or None
    else:
        f = "put"
    status = "ok" if operation.is_ok else "info"
    return lin.Operation(operation.index, operation.process, f, argument, call, 0.0, output, status, ret)


@pytest.mark.parametrize("start", range(0, 400, 50))
def test_another_checker_says_the_same(start: int) -> None:
    verdicts = []
    for seed in range(start, start + 50):
        good = good_history(seed, 16, clients=2 + seed % 5, unknown=0.15)
        assert agrees(good)
        verdicts.append(agrees(damaged(good, seed)))
        verdicts.append(agrees(damaged(damaged(good, seed + 1), seed + 2)))
    assert verdicts.count(False) > 20
    assert verdicts.count(True) > 5


@pytest.mark.parametrize("seed", range(20))
def test_every_bad_end_of_a_history_is_found_at_the_same_answer(seed: int) -> None:
    """Two checkers agree on each prefix, so they agree on the answer that first cannot be explained."""
    operations = damaged(good_history(seed, 14, unknown=0.2), Random(seed).randrange(1000))
    for count in range(2, len(operations)):
        agrees(operations[:count])
