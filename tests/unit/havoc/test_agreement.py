"""Whether replicas hold the same, as EXPLAIN shows it, and what nodes still owe."""

from __future__ import annotations

from typing import Any

import pytest

from kvnode.cli import probe
from kvnode.cli.probe import ProbeError
from scripts.havoc import agreement
from scripts.havoc.agreement import Healed, State, state_of, unpaid_of, until_agreed


def part(version: str, value: str = "3 bytes") -> dict[str, Any]:
    return {"ballot": "b", "version": version, "etag": version, "value": value}


def replica(node: str, committed: str = "", overlay: str = "", **more: Any) -> dict[str, Any]:
    facts = {"committed": part(committed) if committed else None, "overlay": part(overlay) if overlay else None}
    return {"node": node, "accepted": None, "settled": False, **facts, **more}


def state(*replicas: dict[str, Any]) -> State:
    return state_of({"key": "k", "replicas": list(replicas)})


def facts(node: str, owed: dict[str, int] | None = None, undecided: int = 0) -> dict[str, Any]:
    return {"node": node, "hints_owed": owed or {}, "proposals": {"undecided": undecided}}


@pytest.mark.parametrize(
    ("one", "other", "is_agreed"),
    [
        (replica("n1"), replica("n2"), True),
        (replica("n1", "5"), replica("n2", "5"), True),
        (replica("n1", "5", "6"), replica("n2", "5", "6"), True),
        (replica("n1", "5"), replica("n2", "4"), False),
        (replica("n1", "5"), replica("n2"), False),
        (replica("n1", "5", "6"), replica("n2", "5", "7"), False),
        (replica("n1", "5", "6"), replica("n2", "5"), False),
        (replica("n1", "5"), {"node": "n2", "error": "not connected"}, False),
        (replica("n1", "5", settled=True), replica("n2"), True),
        (replica("n1", "5", settled=True), replica("n2", "5"), False),
        (replica("n1", "5", accepted=part("7")), replica("n2", "5"), True),
    ],
)
def test_replicas_agree_if_a_comparison_would_find_nothing_to_exchange(
    one: dict[str, Any], other: dict[str, Any], is_agreed: bool
) -> None:
    """R32, R38: a settled tombstone is as good as nothing, and a proposal is no data; somebody has to decide it."""
    assert state(one, other).is_agreed == is_agreed


def test_a_state_says_what_every_replica_holds_and_who_is_silent() -> None:
    shown = state(
        replica("n1", "5", "6", accepted=part("7", "deleted")), replica("n2"), {"node": "n3", "error": "not connected"}
    )
    assert str(shown) == (
        "n1 holds 3 bytes (5), in its overlay 3 bytes (6), undecided deleted (7); n2 holds nothing; n3: not connected"
    )


def test_debts_undecided_proposals_and_silence_are_told() -> None:
    silent = ProbeError("nobody listens on n3")
    assert unpaid_of([facts("n1", {"n2": 3}), facts("n2", undecided=1), silent]) == [
        "n1 owes 3 hints to n2",
        "n2 has 1 undecided proposals",
        "nobody listens on n3",
    ]
    assert unpaid_of([facts("n1")]) == []


class ScriptedKv:
    """Explains each key as it is told to, one answer after the other; the last one stays."""

    def __init__(self, **answers: list[State]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def explain(self, key: str, *, timeout: float) -> dict[str, Any]:
        self.asked.append(key)
        answers = self.answers[key]
        shown = answers.pop(0) if len(answers) > 1 else answers[0]
        return {"key": key, "replicas": [replica(held.node, held.versions[0]) for held in shown.replicas]}


SAME, OTHER = state(replica("n1", "5"), replica("n2", "5")), state(replica("n1", "5"), replica("n2", "4"))


@pytest.fixture
def owed(monkeypatch: pytest.MonkeyPatch) -> list[list[dict[str, Any]]]:
    """What nodes answer when they are asked for their debts; the last answer stays."""
    answers = [[facts("n1")]]

    async def statuses(nodes: Any) -> list[dict[str, Any]]:
        return [] if not nodes else answers.pop(0) if len(answers) > 1 else answers[0]

    monkeypatch.setattr(agreement, "POLL_S", 0)
    monkeypatch.setattr(probe, "statuses", statuses)
    return answers


async def test_a_key_that_has_agreed_is_not_asked_again(owed: Any) -> None:
    kv: Any = ScriptedKv(a=[SAME], b=[OTHER, OTHER, SAME])
    healed = await until_agreed(kv, ["a", "b"], 60)
    assert (healed.keys, healed.differing) == (2, ())
    assert healed.after_s is not None
    assert kv.asked == ["a", "b", "b", "b"]


async def test_at_rest_all_keys_are_asked_once_more_when_nothing_is_owed(owed: list[list[dict[str, Any]]]) -> None:
    """What is decided last may change what had agreed before."""
    owed[:] = [[facts("n1", undecided=1)], [facts("n1")]]
    kv: Any = ScriptedKv(a=[SAME, OTHER, SAME], b=[SAME])
    healed = await until_agreed(kv, ["a", "b"], 60, [("127.0.0.1", 1)])
    assert healed.after_s is not None
    assert kv.asked == ["a", "b", "a", "b", "a", "a", "b"][: len(kv.asked)]
    assert kv.asked.count("b") >= 2


async def test_what_does_not_agree_in_time_is_returned(owed: list[list[dict[str, Any]]]) -> None:
    owed[:] = [[facts("n1", {"n2": 1})]]
    kv: Any = ScriptedKv(a=[SAME], b=[OTHER])
    healed = await until_agreed(kv, ["a", "b"], 0, [("127.0.0.1", 1)])
    assert healed.after_s is None
    assert [state.key for state in healed.differing] == ["b"]
    assert healed.unpaid == ["n1 owes 1 hints to n2"]


def test_how_it_went_is_said_in_a_few_words() -> None:
    assert [Healed(0, 0.1).after, Healed(3, 0.14).after, Healed(3, None, [OTHER]).after] == ["-", "0.1 s", "1 do not"]
