"""How an answer becomes a line of the history, and when a key has lived long enough."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest
from checkers.history import Recorder

from kvclient import DeadlineExceeded, EtagMismatch, Item, OutcomeUnknown
from kvclient.wire.values import VERSION_BYTES, Version
from scripts.havoc import workload
from scripts.havoc.keys import IN_FLIGHT_MAX, KEYS_PER_KIND, OPERATIONS_MAX, UNKNOWN_MAX, Keys
from scripts.havoc.workload import STRONG, Client, Temper


def item(key: str, value: str) -> Item:
    return Item(key, Version(bytes(VERSION_BYTES - 1) + b"\1"), b"\0" + value.encode(), 0, 0)


class ScriptedKv:
    """Answers every call alike, by returning or raising what it was given."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.calls: list[dict[str, Any]] = []

    async def put(self, key: str, value: str, **options: Any) -> Item:
        self.calls.append(options)
        answer = self.answer.pop(0) if isinstance(self.answer, list) else self.answer
        if isinstance(answer, Exception):
            raise answer
        return item(key, value)


class OnlyOnce(asyncio.Event):
    """Tells a client to stop after one operation."""

    def is_set(self) -> bool:
        before, _ = super().is_set(), self.set()
        return before


async def recorded(kv: Any, monkeypatch: pytest.MonkeyPatch, f: str = "write", seed: int = 1) -> Any:
    """Let a client do one operation, and return how it was recorded."""
    monkeypatch.setattr(workload, "PAUSE_S", 0)
    monkeypatch.setattr(workload, "BURSTS", (1,))
    go = asyncio.Event()
    go.set()
    recorder, ticks = Recorder(iter(range(1000)).__next__), random.Random(seed)
    temper = Temper({"register": {f: 1}})
    await Client("c1", kv, Keys(), recorder, ticks, temper=temper).run(OnlyOnce(), go)
    (operation,) = recorder.operations
    return operation


@pytest.mark.parametrize(
    ("answer", "status", "result"),
    [
        (None, "ok", True),
        (EtagMismatch("lost", None), "ok", False),
        (DeadlineExceeded("late"), "fail", True),
        (OutcomeUnknown("who knows"), "info", True),
    ],
)
async def test_an_answer_is_recorded_as_what_it_says(
    monkeypatch: pytest.MonkeyPatch, answer: Any, status: str, result: bool
) -> None:
    operation = await recorded(ScriptedKv(answer), monkeypatch)
    assert (operation.f, operation.value, operation.status, operation.result) == ("write", "c1-1", status, result)


async def test_a_refused_create_shows_what_stands_there(monkeypatch: pytest.MonkeyPatch) -> None:
    operation = await recorded(ScriptedKv(EtagMismatch("lost", item("k", "x"))), monkeypatch, "create")
    assert (operation.f, operation.is_ok, operation.result) == ("create", True, False)
    assert operation.saw_etag == item("k", "x").etag


async def test_an_unknown_outcome_that_is_settled_under_its_id_is_one_operation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R23: asked again with the same operation id; half of the unknown ones are."""
    seen: Counter[str] = Counter()
    for seed in range(20):
        kv = ScriptedKv([OutcomeUnknown("who knows", "id-7"), None])
        operation = await recorded(kv, monkeypatch, seed=seed)
        seen[operation.status] += 1
        assert len(kv.calls) == (2 if operation.status == "ok" else 1)
        assert kv.calls[-1].get("operation_id") == ("id-7" if operation.status == "ok" else None)
    assert seen["ok"]
    assert seen["info"]


async def test_a_worn_key_makes_place_for_another_and_is_quiet_once_nobody_uses_it() -> None:
    keys, rng = Keys(), random.Random(1)
    first = keys.draw("register", rng)
    assert first is not None
    first.unknown = UNKNOWN_MAX
    for _ in range(200):
        key = keys.draw("register", rng)
        assert key is not None
        assert key is not first
        assert key.operations <= OPERATIONS_MAX + 1
        keys.release(key)
    assert len(keys.names) == 4 * KEYS_PER_KIND + 1
    assert keys.take_quiet() == []
    assert not keys.idle.is_set()
    keys.release(first)
    assert keys.idle.is_set()
    assert keys.take_quiet() == [first.name]
    assert keys.take_quiet() == []


async def test_a_key_has_few_operations_in_flight() -> None:
    """Each may come to have an unknown outcome, and a checker considers every order of these."""
    keys, rng = Keys(), random.Random(1)
    drawn = Counter(key.name if key else "" for key in (keys.draw("counter", rng) for _ in range(500)))
    del drawn[""]
    assert set(drawn.values()) == {IN_FLIGHT_MAX}


def test_strong_clients_ask_for_nothing_eventual() -> None:
    assert not [what for shares in STRONG.mix.values() for what in shares if "eventual" in what]
