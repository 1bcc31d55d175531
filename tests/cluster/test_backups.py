"""A real node whose data directory is put back to an earlier copy is refused, and says why and what to do (R1, R44)."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

import kvclient
from kvnode.local.statefile import LocalError


def directory(cluster: Any) -> Path:
    return Path(cluster.directory) / "n1"


def put_back(cluster: Any, copy: Path) -> None:
    shutil.rmtree(directory(cluster))
    shutil.copytree(copy, directory(cluster))


async def write_for(kv: kvclient.Kv, seconds: float) -> int:
    """Put strongly for a while; return the last value."""
    loop = asyncio.get_running_loop()
    value, until_s = 0, loop.time() + seconds
    while loop.time() < until_s:
        value += 1
        await kv.put("k", value, consistency="strong")
        await asyncio.sleep(0.05)
    return value


async def refusal_of(cluster: Any) -> str:
    """Start n1 and return what it says; it must not serve."""
    with pytest.raises(LocalError, match="does not serve") as refused:
        await asyncio.to_thread(cluster.tell, "restart", "n1")
    return str(refused.value)


async def test_a_copy_of_a_stopped_node_is_refused_once_the_node_went_on(cluster: Any, tmp_path: Path) -> None:
    await asyncio.to_thread(cluster.tell, "kill", "n1")
    shutil.copytree(directory(cluster), tmp_path / "copy")
    await asyncio.to_thread(cluster.tell, "restart", "n1")
    async with kvclient.connect(cluster.addresses) as kv:
        last = await write_for(kv, 0.5)
        await asyncio.to_thread(cluster.tell, "kill", "n1")
        put_back(cluster, tmp_path / "copy")
        assert "a copy or an old backup" in await refusal_of(cluster)
        item = await kv.get("k", consistency="strong")
        assert item is not None
        assert item.value == last


async def test_a_snapshot_of_a_running_node_is_refused_once_the_node_went_on(cluster: Any, tmp_path: Path) -> None:
    """Its incarnation alone does not tell: the next start has the next number, as it should."""
    async with kvclient.connect(cluster.addresses) as kv:
        await write_for(kv, 0.5)
        await asyncio.to_thread(cluster.tell, "pause", "n1")
        shutil.copytree(directory(cluster), tmp_path / "copy")
        await asyncio.to_thread(cluster.tell, "resume", "n1")
        last = await write_for(kv, 2.5)
        await asyncio.to_thread(cluster.tell, "kill", "n1")
        put_back(cluster, tmp_path / "copy")
        text = await refusal_of(cluster)
        assert "it is a backup, or its machine went back to a snapshot" in text
        assert "put the newest copy back, or leave it down" in text
        item = await kv.get("k", consistency="strong")
        assert item is not None
        assert item.value == last


async def test_a_snapshot_of_a_node_that_did_not_change_since_serves(cluster: Any, tmp_path: Path) -> None:
    async with kvclient.connect(cluster.addresses) as kv:
        await write_for(kv, 0.5)
        await asyncio.sleep(2.5)
        await asyncio.to_thread(cluster.tell, "pause", "n1")
        shutil.copytree(directory(cluster), tmp_path / "copy")
        await asyncio.to_thread(cluster.tell, "kill", "n1")
        put_back(cluster, tmp_path / "copy")
        await asyncio.to_thread(cluster.tell, "restart", "n1")  # returns once it serves
