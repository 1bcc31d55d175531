"""`kvnode up --proxied`, `partition` and `heal`: the network between real nodes is cut, slowed, broken and mended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import kvclient
from kvclient.errors import KvError
from kvnode.cli import probe
from kvnode.local import statefile
from kvnode.local.statefile import LocalError


@pytest.fixture
def proxied(new_cluster: Callable[..., Any]) -> Iterator[Any]:
    """Three nodes that reach each other through proxies, and that soon notice silence."""
    with new_cluster("proxied", proxied=True, heartbeat_s=0.2, link_silence_s=0.6) as running:
        yield running


async def peers(cluster: Any, name: str) -> dict[str, str]:
    node = cluster.config.node(name)
    facts: dict[str, Any] = await probe.status(node.host, node.port)
    return dict(facts["peers"])


async def until_peers_of(cluster: Any, name: str, **wanted: str) -> None:
    async with asyncio.timeout(30):
        while await peers(cluster, name) != wanted:
            await asyncio.sleep(0.05)


@asynccontextmanager
async def strong(cluster: Any) -> AsyncIterator[kvclient.Kv]:
    async with kvclient.connect(cluster.addresses, consistency="strong", timeout=20) as kv:
        yield kv


async def test_a_majority_goes_on_through_a_partition_and_the_rest_catches_up_after_it(proxied: Any) -> None:
    """Section 3: the side with two of three replicas serves; the other never shows what is out of date."""
    async with strong(proxied) as kv:
        await kv.put("k", "before")
        said = await asyncio.to_thread(proxied.kvnode, "partition", "n1,n2/n3")
        assert said.returncode == 0
        assert said.stdout.startswith("cut: n1 | n3, n2 | n3")
        await until_peers_of(proxied, "n3", n1="down", n2="down")
        for number in range(60):  # of every primary
            await kv.put(f"k{number}", number)
        await kv.put("k", "during")
        assert (await kv.get("k")).value == "during"  # type: ignore[union-attr]
        await until_peers_of(proxied, "n1", n2="up", n3="down")
        said = await asyncio.to_thread(proxied.kvnode, "heal")
        assert said.returncode == 0
        await until_peers_of(proxied, "n3", n1="up", n2="up")
        assert (await kv.get("k")).value == "during"  # type: ignore[union-attr]


async def test_a_bridge_serves_though_the_sides_do_not_hear_each_other(proxied: Any) -> None:
    """No stable leader is needed: n2 reaches a quorum with either side."""
    await asyncio.to_thread(proxied.kvnode, "partition", "n1,n2/n2,n3")
    await until_peers_of(proxied, "n1", n2="up", n3="down")
    await until_peers_of(proxied, "n3", n1="down", n2="up")
    async with strong(proxied) as kv:
        for number in range(60):
            await kv.put(f"k{number}", number)
            assert (await kv.get(f"k{number}")).value == number  # type: ignore[union-attr]


async def test_a_one_way_cut_is_noticed_by_both_sides(proxied: Any) -> None:
    await asyncio.to_thread(proxied.kvnode, "partition", "--one-way", "n1")
    await until_peers_of(proxied, "n1", n2="down", n3="down")
    await until_peers_of(proxied, "n2", n1="down", n3="up")
    async with strong(proxied) as kv:
        await kv.put("k", 1)


async def test_under_resets_of_every_link_each_operation_happens_once_or_says_that_it_did_not(proxied: Any) -> None:
    """R21-R23: nothing is lost, nothing happens twice, and whoever is refused knows it."""
    links = [[one.id, other.id] for one in proxied.config.nodes for other in proxied.config.nodes if one is not other]
    async with strong(proxied) as kv:
        updates = (kv.update("n", lambda n: n + 1, default=0) for _ in range(50))
        counting = asyncio.gather(*updates, return_exceptions=True)
        while not counting.done():
            await asyncio.to_thread(statefile.ask, proxied.directory, 10, do="reset", links=links)
            await asyncio.sleep(0.05)
        refused = [error for error in await counting if isinstance(error, KvError)]
        assert {error.outcome for error in refused} <= {"not applied"}
        assert (await kv.get("n")).value == 50 - len(refused)  # type: ignore[union-attr]


async def test_a_node_alone_with_its_clients_never_shows_what_it_cannot_prove(proxied: Any) -> None:
    await asyncio.to_thread(proxied.kvnode, "partition", "n1/n2/n3")
    for name in ("n1", "n2", "n3"):
        await until_peers_of(proxied, name, **dict.fromkeys({"n1", "n2", "n3"} - {name}, "down"))
    async with strong(proxied) as kv:
        with pytest.raises(KvError) as refused:
            await kv.get("k", timeout=1)
        assert refused.value.outcome == "not applied"
        await kv.put("k", "from one", consistency="eventual", w=1)
        assert (await kv.get("k", consistency="eventual", r=1)) is not None


async def test_nodes_come_back_to_a_partition_that_stands(proxied: Any) -> None:
    await asyncio.to_thread(proxied.kvnode, "partition", "n3")
    await asyncio.to_thread(proxied.tell, "restart", "n1")
    await until_peers_of(proxied, "n1", n2="up", n3="down")


def test_what_cannot_be_cut_is_refused_in_one_sentence(proxied: Any) -> None:
    unknown = proxied.kvnode("partition", "n1/n9")
    assert unknown.returncode == 2
    assert 'no node "n9"; the nodes are n1, n2, n3' in unknown.stderr
    assert proxied.kvnode("partition", "n1,n2,n3").returncode == 2
    with pytest.raises(LocalError, match="not a control request"):
        statefile.ask(proxied.directory, 10, do="slow", links=[])


def test_without_proxies_the_network_cannot_be_cut(shared_cluster: Any) -> None:
    said = shared_cluster.kvnode("partition", "n1")
    assert said.returncode == 1
    assert "`kvnode up --proxied`" in said.stderr
