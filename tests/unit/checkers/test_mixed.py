"""Eventual writes beside strong operations: the floating specification, as docs/protocol.md, section 3, has it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from random import Random
from types import ModuleType

import pytest
from checkers.keyed import KeyHistory, by_key
from checkers.linear import MIXED, finding, is_linearizable, verdict
from checkers.operation import Operation, Value
from checkers.search import Verdict
from unit.checkers.histories import (
    created,
    damaged,
    deleted,
    good_history,
    history,
    of_key,
    read,
    swapped,
    weak_deleted,
    weak_read,
    weak_wrote,
    wrote,
)

MODEL = Path(__file__).parents[3] / "docs" / "model" / "regmodel.py"


@pytest.mark.parametrize(
    ("is_good", "history"),
    [
        pytest.param(True, of_key(weak_wrote("w", 0, 1), read(None, 2, 3)), id="C1: an acknowledged one is not seen"),
        pytest.param(True, of_key(weak_wrote("w", 0, 1), read(None, 2, 3), read("w", 4, 5)), id="and then it is"),
        pytest.param(False, of_key(weak_wrote("w", 0, 1), read("w", 2, 3), read(None, 4, 5)), id="M8d: it flickers"),
        pytest.param(False, of_key(read("w", 0, 1), weak_wrote("w", 2, 3)), id="it is seen before it was asked for"),
        pytest.param(
            False,
            of_key(weak_wrote("w", 0, 1), wrote("u", 2, 3), read("w", 4, 5)),
            id="C4, M8f: it overrides a later strong write",
        ),
        pytest.param(
            True,
            of_key(weak_wrote("w", 0, 5), wrote("u", 2, 3), read("w", 6, 7)),
            id="it overrides a strong write that was asked for before its acknowledgement",
        ),
        pytest.param(
            True,
            of_key(weak_wrote("w", 0, None), wrote("u", 2, 3), read("u", 4, 5), read("w", 6, 7)),
            id="it was never acknowledged, and comes late",
        ),
        pytest.param(
            False,
            of_key(
                wrote("a", 0, 1, "A"), weak_wrote("w", 2, 9, saw_etag="W"), swapped("W", "x", 3, 4), read("w", 5, 6)
            ),
            id="C2, M7f: it takes effect twice",
        ),
        pytest.param(
            True,
            of_key(weak_wrote("w", 0, 1), deleted(2, 3), read("w", 4, 5)),
            id="a delete that found nothing supersedes nothing",
        ),
        pytest.param(
            True,
            of_key(deleted(0, 1), weak_wrote("w", 2, 3), deleted(4, 5), read("w", 6, 7)),
            id="nor does one that found what another had left",
        ),
        pytest.param(
            False,
            of_key(wrote("a", 0, 1), weak_wrote("w", 2, 3), deleted(4, 5), read("w", 6, 7)),
            id="a delete supersedes",
        ),
        pytest.param(True, of_key(wrote("a", 0, 1), weak_deleted(2, 3), created("b", 4, 5)), id="an eventual delete"),
        pytest.param(
            False,
            of_key(wrote("a", 0, 1), weak_deleted(2, 3), read(None, 4, 5), wrote("b", 6, 7), read(None, 8, 9)),
            id="an eventual delete happens once",
        ),
        pytest.param(
            False,
            of_key(weak_wrote("w", 0, 1), wrote("a", 2, None), weak_read("a", 3, 4), read("w", 5, 6)),
            id="an eventual read shows that a strong write was chosen",
        ),
    ],
)
def test_good_histories_are_told_from_bad_ones(is_good: bool, history: KeyHistory) -> None:
    assert is_linearizable(history) is is_good


@pytest.mark.parametrize("seed", range(40))
def test_what_a_register_with_floating_writes_does_is_explained(seed: int) -> None:
    [made] = by_key(good_history(seed, 200, clients=2 + seed % 6, unknown=0.05, weak=0.3))
    found, looked = verdict(made)
    assert found is Verdict.EXPLAINED
    assert looked <= 20 * len(made.operations)


def test_the_finding_is_what_matters() -> None:
    operations = [*good_history(3, 30, weak=0.2)]
    end = max(operation.return_ns or operation.call_ns for operation in operations) + 1
    late = [weak_wrote("w", end, end + 1), wrote("u", end + 2, end + 3), read("w", end + 4, end + 5)]
    [made] = by_key(history(*operations, *late))
    found = finding(made)
    assert found.checker == MIXED
    assert [operation.value or operation.saw for operation in found.evidence] == ["w", "u", "w"]


# -- the same verdict as the model's own specification


def model() -> ModuleType:
    spec = importlib.util.spec_from_file_location("regmodel", MODEL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["regmodel"] = module
    spec.loader.exec_module(module)
    return module


def _numbers(values: set[Value]) -> dict[Value, int]:
    return {value: number for number, value in enumerate(sorted(values, key=lambda value: str(value or "")))}


def explained_by_the_model(regmodel: ModuleType, operations: list[Operation]) -> bool:
    """Ask `lincheck` of docs/model with the deadline rule."""
    numbers = _numbers({value for one in operations for value in (one.value, one.saw)})
    etags = by_key(operations)[0].etags
    asked: list[dict[str, object]] = []
    known: list[tuple[bool, int, object]] = []
    for operation in operations:
        before = sum(
            1 << n
            for n, other in enumerate(operations)
            if other.return_ns is not None and other.return_ns < operation.call_ns
        )
        if operation.is_read:
            asked.append({"kind": "r", "b": [1]})
            known.append((True, before, numbers[operation.saw]))
            continue
        kind = "ew" if not operation.is_strong else "w" if operation.f == "write" else "cas"
        needs = numbers[etags[operation.etag]] if operation.f == "cas" else 0
        asked.append({"kind": kind, "new": numbers[operation.value], "exp": needs, "b": [1]})
        known.append((operation.is_ok, before, "ok"))
    return bool(regmodel.Model(asked, ew_deadline=True)._lin_raw(tuple(known)))


def test_the_model_says_the_same() -> None:
    """Without refusals and deletes: the model lets a failed check supersede, and its key is never absent again."""
    regmodel, verdicts = model(), []
    for seed in range(600):
        rng = Random(seed)
        operations = damaged(good_history(seed, 11, clients=3, unknown=0.2, weak=rng.choice([0.2, 0.4])), seed)
        operations = [one for one in operations if one.result and one.f != "delete"]
        if {one.etag for one in operations if one.f == "cas"} <= set(by_key(operations)[0].etags):
            [made] = by_key(history(*operations))
            verdicts.append(explained_by_the_model(regmodel, operations))
            assert is_linearizable(made) is verdicts[-1], seed
    assert verdicts.count(True) > 50
    assert verdicts.count(False) > 50
