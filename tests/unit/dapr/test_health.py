"""The cluster is asked for its health at most once a second, however many ask."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import kvclient
from kvclient.wire import messages as m
from kvnode.dapr import health
from kvnode.dapr.health import Quorums


@pytest.fixture
def quorums(kv: kvclient.Kv) -> Quorums:
    return Quorums(kv, ["users", "default", "users"])


async def test_many_callers_cause_one_question_to_each_node(cluster: Any, quorums: Quorums) -> None:
    assert await asyncio.gather(*(quorums.missing() for _ in range(50))) == [""] * 50
    assert await quorums.missing() == ""
    assert len(cluster.requests(m.STATUS)) == 3


async def test_what_is_missing_is_said(cluster: Any, quorums: Quorums, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "FRESH_S", 0.0)
    alone = {"state": "serving", "peers": {}}
    cluster.everywhere(lambda message: (m.RESULT, message[1], alone))
    assert "no quorum" in await quorums.missing()
    cluster.everywhere(None)
    assert await quorums.missing() == ""


async def test_a_caller_that_gives_up_leaves_the_others_their_answer(cluster: Any, quorums: Quorums) -> None:
    cluster.everywhere(lambda message: "hold")
    first = asyncio.ensure_future(quorums.missing())
    await cluster.nodes[0].received(1, m.STATUS)
    others = [asyncio.ensure_future(quorums.missing()) for _ in range(3)]
    first.cancel()
    cluster.everywhere(None)
    assert await asyncio.gather(*others) == [""] * 3
