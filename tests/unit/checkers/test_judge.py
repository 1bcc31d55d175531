"""Planted violations: each is caught by the checker whose promise it breaks, with the operations that show it.

A checker that cannot fail is a defect, and so is one that fails without need: what keeps the promise by a hair is here,
too, and real versions are used where their order matters.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from checkers.history import Operation
from checkers.judge import judge
from unit.checkers.histories import (
    at_rest,
    counted,
    created,
    deleted,
    good_history,
    history,
    read,
    refused,
    swapped,
    weak_deleted,
    weak_read,
    weak_wrote,
    wrote,
)

from kvclient.wire.values import Version, etag_of


def version(number: int) -> str:
    return etag_of(Version(number.to_bytes(44, "big")))


def etagged(operation: Operation, number: int) -> Operation:
    return replace(operation, saw_etag=version(number))


PLANTED = {
    "a stale read": (["linear", "superseded"], [wrote("a", 0, 1), wrote("b", 2, 3), read("a", 4, 5)]),
    "a lost write": (["linear", "superseded"], [wrote("a", 0, 1), read(None, 2, 3)]),
    "a resurrection": (["linear", "superseded"], [wrote("a", 0, 1), deleted(2, 3), read("a", 4, 5)]),
    "a resurrection at rest": (["superseded"], [wrote("a", 0, 1), deleted(2, 3), at_rest("a", 9, "n1")]),
    "a lost write at rest": (["superseded"], [wrote("a", 0, 1), at_rest(None, 9, "n1")]),
    "an old write at rest": (["superseded"], [wrote("a", 0, 1), wrote("b", 2, 3), at_rest("a", 9, "n1")]),
    "a lost eventual write": (["superseded"], [weak_wrote("a", 0, 1), at_rest(None, 9, "n1")]),
    "an eventual write that overrides": (
        ["mixed", "superseded"],
        [weak_wrote("w", 0, 1), wrote("a", 2, 3), read("w", 4, 5)],
    ),
    "an eventual delete undone at rest": (
        ["succession"],
        [weak_wrote("a", 0, 1, node="n1"), weak_deleted(2, 3, node="n1"), at_rest("a", 9, "n2")],
    ),
    "an eventual write undone at rest": (
        ["succession"],
        [weak_wrote("a", 0, 1, node="n1"), weak_wrote("b", 2, 3, node="n1"), at_rest("a", 9, "n2")],
    ),
    "an old delete that wins at rest": (
        ["succession"],
        [
            weak_wrote("a", 0, 1),
            weak_deleted(2, 3, node="n1"),
            weak_wrote("b", 4, 5, node="n1"),
            at_rest(None, 9, "n2"),
        ],
    ),
    "a value out of thin air": (["linear", "origin"], [read("a", 0, 1)]),
    "a value of a failed write": (["linear", "origin"], [wrote("a", 0, 1, status="fail"), read("a", 2, 3)]),
    "a dirty read": (["origin"], [wrote("a", 0, 1, status="fail"), weak_read("a", 0, 1)]),
    "a value before it was written": (["origin"], [weak_read("a", 0, 1), weak_wrote("a", 2, 3)]),
    "a refused value": (
        ["linear", "origin"],
        [wrote("a", 0, 1), refused("create", "b", 2, 3, "a"), read("b", 4, 5)],
    ),
    "an unchosen value that was shown": (
        ["linear"],
        [wrote("a", 0, 1), wrote("b", 2, None), weak_read("b", 3, 4), read("a", 5, 6)],
    ),
    "one ETag, two winners": (
        ["linear", "unique"],
        [wrote("a", 0, 1, "A"), swapped("A", "b", 2, 9, "B"), swapped("A", "c", 2, 9, "C")],
    ),
    "two creates": (["linear", "unique"], [created("a", 0, 9), created("b", 0, 9)]),
    "three creates, one delete": (
        ["linear", "unique"],
        [created("a", 0, 9), created("b", 0, 9), created("c", 0, 9), deleted(0, 9)],
    ),
    "an ETag of two values": (["versions"], [wrote("a", 0, 1, "A"), wrote("b", 2, 3, "A")]),
    "an ETag from nowhere": (["versions"], [wrote("a", 0, 1, "A"), swapped("X", "b", 2, 3, "B")]),
    "a version that falls": (["versions"], [etagged(wrote("a", 0, 1), 9), etagged(wrote("b", 2, 3), 8)]),
    "a version given twice": (["versions"], [etagged(wrote("a", 0, 1), 9), etagged(wrote("a", 2, 3), 9)]),
    "a read that shows an older version": (
        ["versions"],
        [
            etagged(wrote("a", 0, 3), 8),
            etagged(read("b", 4, 5), 9),
            etagged(wrote("b", 0, 9), 9),
            etagged(read("a", 6, 7), 8),
        ],
    ),
    "a lost increment": (["linear", "counters"], [counted(1, 0, 1), counted(1, 2, 3)]),
    "an increment that counts twice": (["linear", "counters"], [counted(1, 0, 1), read(2, 2, 3)]),
    "an unknown increment that counts twice": (
        ["linear", "counters"],
        [counted(1, 0, 1), counted(None, 2, None), read(3, 4, 5)],
    ),
    "a counter at rest that forgot": (
        ["counters", "convergence"],
        [counted(1, 0, 1), counted(2, 2, 3), at_rest(1, 9, "n1"), at_rest(2, 9, "n2")],
    ),
    "replicas that differ": (
        ["convergence"],
        [weak_wrote("a", 0, 1), weak_wrote("b", 0, 1), at_rest("a", 9, "n1"), at_rest("b", 9, "n2")],
    ),
    "replicas with two versions": (
        ["convergence"],
        [wrote("a", 0, 1), at_rest("a", 9, "n1", "A"), at_rest("a", 9, "n2", "B")],
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_violation_is_caught_by_the_checker_that_must(name: str) -> None:
    caught_by, operations = PLANTED[name]
    report = judge(history(*operations))
    caught = {finding.checker for finding in report.findings}
    assert not report.is_ok
    assert set(caught_by) <= caught, str(report)


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_violation_is_found_among_good_operations(name: str) -> None:
    """The key of the violation has a long life before it, and other keys go on."""
    caught_by, operations = PLANTED[name]
    others = [replace(one, key="other") for one in good_history(1, 100)]
    planted = [replace(one, key="planted") for one in operations]
    report = judge(history(*others, *planted))
    assert {finding.key for finding in report.findings} == {"planted"}
    assert set(caught_by) <= {finding.checker for finding in report.findings}
    assert all({one.key for one in finding.evidence} == {"planted"} for finding in report.findings)


@pytest.mark.parametrize(
    "operations",
    [
        pytest.param([wrote("a", 0, 1), wrote("b", 2, 5), read("a", 4, 5)], id="a concurrent write"),
        pytest.param([wrote("a", 0, None), wrote("b", 2, 3), read("a", 4, 5)], id="an unknown write that comes late"),
        pytest.param([wrote("a", 0, 1), deleted(2, None), read(None, 4, 5)], id="an unknown delete"),
        pytest.param([wrote("a", 0, 1, ttl_ms=5), read(None, 4, 5)], id="an expiry"),
        pytest.param([created("a", 0, 1, ttl_ms=5), created("b", 2, 3)], id="a create after an expiry"),
        pytest.param([created("a", 0, 1), weak_deleted(2, None), created("b", 4, 5)], id="a create after a delete"),
        pytest.param([weak_wrote("a", 0, 1), deleted(2, 3), at_rest("a", 9, "n1")], id="a delete that found nothing"),
        pytest.param([weak_wrote("a", 0, 1), weak_wrote("b", 2, 3), at_rest("a", 9, "n1")], id="a slow clock"),
        pytest.param(
            [weak_wrote("a", 0, 1, node="n1"), weak_deleted(2, 3, node="n2"), at_rest("a", 9, "n1")],
            id="a delete with a slow clock",
        ),
        pytest.param(
            [weak_wrote("a", 0, 5, node="n1"), weak_deleted(2, 3, node="n1"), at_rest("a", 9, "n1")],
            id="a delete at the same time",
        ),
        pytest.param(
            [weak_wrote("a", 0, 1, node="n1"), weak_deleted(2, None, node="n1"), at_rest("a", 9, "n1")],
            id="an unknown eventual delete",
        ),
        pytest.param(
            [weak_wrote("a", 0, 1, node="n1"), weak_deleted(2, 3, node="n1"), weak_read("a", 4, 5)],
            id="a stale read of a deleted key",
        ),
        pytest.param(
            [
                weak_deleted(0, 1, node="n1"),
                weak_wrote("a", 2, 3, node="n1"),
                weak_deleted(2, 5),
                at_rest(None, 9, "n1"),
            ],
            id="another delete",
        ),
        pytest.param([wrote("a", 0, 1), weak_read(None, 2, 3)], id="a stale eventual read"),
        pytest.param([weak_wrote("a", 0, 1), read(None, 2, 3), at_rest("a", 9, "n1")], id="C1"),
        pytest.param([counted(1, 0, 1), counted(None, 2, None), at_rest(1, 9, "n1")], id="an unknown increment"),
        pytest.param([etagged(wrote("a", 0, 3), 9), etagged(wrote("b", 2, 5), 8)], id="concurrent versions"),
        pytest.param(
            [etagged(wrote("a", 0, 1), 9), deleted(2, 3), etagged(wrote("b", 4, 5), 8)],
            id="the versions of a new life after a purge",
        ),
        pytest.param([weak_wrote("a", 0, 1), weak_wrote("a", 0, 1), at_rest("a", 9, "n1")], id="a value written twice"),
        pytest.param(
            [wrote("a", 0, 1), at_rest("a", 9, "n1"), wrote("b", 10, 11), at_rest("b", 12, "n2")],
            id="a change between final reads",
        ),
        pytest.param(
            [wrote("a", 0, 1, "A"), refused("cas", "b", 2, 3, "c", etag="A"), swapped("A", "c", 2, None)],
            id="a refusal that tells of an unknown swap",
        ),
    ],
)
def test_what_keeps_every_promise_is_not_blamed(operations: list[Operation]) -> None:
    report = judge(history(*operations))
    assert report.is_ok, str(report)
    assert not report.unknown


@pytest.mark.parametrize("seed", range(30))
def test_random_good_histories_are_not_blamed(seed: int) -> None:
    report = judge(good_history(seed, 150, clients=2 + seed % 6, unknown=0.05, weak=0.25 * (seed % 2)))
    assert report.is_ok, str(report)
    assert not report.unknown


def test_finals_that_were_recorded_apart_are_judged() -> None:
    operations = history(wrote("a", 0, 1))
    apart = [replace(read(saw, 8, 9), index=100 + at, is_final=False) for at, saw in enumerate(["a", None])]
    assert {finding.checker for finding in judge(operations, apart).findings} >= {"convergence", "superseded"}


def test_what_cannot_be_judged_is_unknown_and_not_ok_by_silence() -> None:
    lost = [counted(None, 0, None, by=2 << number) for number in range(40)]
    report = judge(history(*lost, counted(None, 0, 1, by=2), read(2 << 41, 5, 6)), steps_max=1000)
    [linear] = [checker for checker in report.checkers if checker.name == "linear"]
    assert linear.verdict == "unknown"
    assert ("linear", "k") in report.unknown
    assert "k: unknown: too many unknown outcomes" in str(report)


def test_hard_keys_share_what_searches_may_cost() -> None:
    lost = [counted(None, 0, None, by=2 << number) for number in range(30)]
    hard = [replace(one, key=f"k{key}") for key in range(50) for one in [*lost, read(1, 5, 6)]]
    report = judge(history(*hard), steps_max=1000, steps_in_all_max=2000)
    assert len([name for name, _ in report.unknown if name == "linear"]) == 50


def test_an_empty_history_has_nothing_to_judge() -> None:
    report = judge([])
    assert report.is_ok
    assert {checker.verdict for checker in report.checkers} == {"nothing to judge"}


def test_a_report_is_plain_json() -> None:
    caught_by, operations = PLANTED["a stale read"]
    report = judge(history(*operations)).as_json()
    assert report["ok"] is False
    [linear] = [checker for checker in report["checkers"] if checker["name"] == "linear"]
    assert [one["text"] for one in linear["findings"][0]["evidence"]] == [
        "write(a) -> ok",
        "write(b) -> ok",
        "read -> a",
    ]
    assert caught_by[0] == linear["name"]
