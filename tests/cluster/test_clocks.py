"""Real nodes whose clocks jump while they run (KVNODE_FAULTS), and are set right again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kvclient
from kvclient.errors import KvError
from kvnode.local import statefile
from kvnode.process import FAULTS_VARIABLE


class Clocks:
    """A cluster whose clocks can be set."""

    def __init__(self, cluster: Any, faults: Path) -> None:
        self.cluster = cluster
        self._faults = faults

    def set(self, node: str, offset_ms: int) -> None:
        facts = json.dumps({"clock_offset_ms": offset_ms})
        statefile.write_atomically(self._faults / f"{node}.json", facts)

    async def tell(self, what: str, node: str) -> None:
        await asyncio.to_thread(self.cluster.tell, what, node)


@pytest.fixture
def clocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_cluster: Callable[..., Any]) -> Iterator[Clocks]:
    faults = tmp_path / "faults"
    faults.mkdir()
    monkeypatch.setenv(FAULTS_VARIABLE, str(faults))
    with new_cluster("clocks") as cluster:
        yield Clocks(cluster, faults)


async def put_for(kv: kvclient.Kv, seconds: float) -> tuple[int, int]:
    """Put strongly for a while; return how often it succeeded and how often not."""
    done = failed = 0
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while loop.time() < until:
        try:
            await kv.put(f"k{(done + failed) % 50}", done, consistency="strong", timeout=2)
            done += 1
        except KvError:
            failed += 1
        await asyncio.sleep(0.005)
    return done, failed


async def test_strong_writes_go_on_while_one_clock_is_minutes_ahead_and_after_its_node_restarts(clocks: Clocks) -> None:
    """R4: strong operations continue; at most what meets the node itself is refused for a moment."""
    async with kvclient.connect(clocks.cluster.addresses) as kv:
        clocks.set("n2", 300_000)
        assert (await put_for(kv, 2))[0] > 20
        clocks.set("n2", 0)
        assert (await put_for(kv, 1))[0] > 10
        await clocks.tell("kill", "n2")
        await clocks.tell("restart", "n2")
        assert (await put_for(kv, 1))[0] > 10


async def test_two_clocks_that_were_ahead_one_after_the_other_leave_strong_writes_possible(clocks: Clocks) -> None:
    """Each goes on from the time before its clock leapt, so it neither promises nor stamps what outlasts the leap."""
    async with kvclient.connect(clocks.cluster.addresses) as kv:
        for node, ahead_ms in (("n2", 300_000), ("n3", 240_000)):
            await put_for(kv, 1)
            clocks.set(node, ahead_ms)
            await put_for(kv, 2)
            clocks.set(node, 0)
            await put_for(kv, 1)
            await clocks.tell("kill", node)
            await clocks.tell("restart", node)
        done, failed = await put_for(kv, 6)
        assert done > failed
