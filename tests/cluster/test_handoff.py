"""A real node that was away gets what it missed, without a read, also from a coordinator that was restarted (R32)."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import kvclient

KEYS = 150
PATIENCE_S = 60.0


async def hints(kv: kvclient.Kv, *names: str) -> dict[str, int]:
    """Return how many hints each of these nodes holds."""
    facts = await kv.status()
    return {name: facts[name].get("hints", -1) for name in names}


async def handed_over(kv: kvclient.Kv, *names: str) -> None:
    """Wait until these nodes owe nothing."""
    end_s = asyncio.get_running_loop().time() + PATIENCE_S
    while any(left := await hints(kv, *names)) and set(left.values()) != {0}:
        assert asyncio.get_running_loop().time() < end_s, f"still owed: {left}"
        await asyncio.sleep(0.1)


async def test_a_node_that_was_away_is_handed_what_it_missed(cluster: Any) -> None:
    tell = cluster.tell
    await asyncio.to_thread(tell, "kill", "n3")
    async with kvclient.connect(cluster.addresses) as kv:
        for number in range(KEYS):
            consistency = "strong" if number % 3 == 0 else "eventual"
            for value in ("old", "new"):
                await kv.put(f"key{number}", f"{value}{number}", consistency=consistency)
    await asyncio.to_thread(tell, "kill", "n1")
    await asyncio.to_thread(tell, "restart", "n1")
    async with kvclient.connect(cluster.addresses) as kv:
        owed = await hints(kv, "n1", "n2")
        assert sum(owed.values()) >= KEYS, "one for each key, however often it was written"
        shown = await asyncio.to_thread(cluster.kvnode, "status")
        assert "n1 owes hints: n3 " in shown.stdout
        facts = json.loads((await asyncio.to_thread(cluster.kvnode, "status", "--json")).stdout)
        assert set(facts["nodes"][0]["hints_owed"]) == {"n3"}
        await asyncio.to_thread(tell, "restart", "n3")
        await handed_over(kv, "n1", "n2")
    for name in ("n1", "n2"):
        await asyncio.to_thread(tell, "kill", name)
    async with kvclient.connect([cluster.addresses[2]]) as kv:
        for number in range(KEYS):
            item = await kv.get(f"key{number}", consistency="eventual")
            assert item is not None, f"key{number}"
            assert item.value == f"new{number}"


async def test_what_a_paused_node_lost_with_its_connection_is_handed_over(cluster: Any) -> None:
    """It stands still under load, is suspected, and is killed: what waited in its sockets is gone."""
    written = []
    async with kvclient.connect(cluster.addresses) as kv:
        await asyncio.to_thread(cluster.tell, "pause", "n3")
        for number in range(KEYS // 5):
            with contextlib.suppress(kvclient.OutcomeUnknown):  # those that the client asks n3 for
                await kv.put(f"key{number}", number, consistency="eventual", timeout=0.5)
                written.append(number)
        await asyncio.to_thread(cluster.tell, "kill", "n3")
        await asyncio.to_thread(cluster.tell, "restart", "n3")
        await handed_over(kv, "n1", "n2")
    assert written
    for name in ("n1", "n2"):
        await asyncio.to_thread(cluster.tell, "kill", name)
    async with kvclient.connect([cluster.addresses[2]]) as kv:
        for number in written:
            item = await kv.get(f"key{number}", consistency="eventual")
            assert item is not None, f"key{number}"
            assert item.value == number
