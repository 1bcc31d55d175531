"""Whether there is a quorum for every partition, from what nodes say about each other."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

import kvclient
from kvclient.health import Health, judge
from kvclient.routing import Table
from kvclient.wire import messages as m

NAMES = ["n1", "n2", "n3", "n4", "n5"]
LIMITS = {"value_bytes_max": 1, "timeout_s": 1, "timeout_s_max": 1, "scan_page_max": 1}


def table(nodes: int, **stores: dict[str, int]) -> Table:
    orders = [[*range(first, nodes), *range(first)] for first in range(nodes)]
    return Table(
        {
            "name": "n1",
            "cluster": "test",
            "epoch": 0,
            "partitions": nodes,
            "preference": orders,
            "nodes": [[name, "127.0.0.1", 1] for name in NAMES[:nodes]],
            "stores": {"default": {"replicas": min(3, nodes), "q1": 2, "q2": 2}, **stores},
            "limits": LIMITS,
        }
    )


def serving(names: str, sees: str | None = None) -> dict[str, dict[str, Any]]:
    """Nodes that serve, each connected to those in `sees`."""
    peers = {f"n{digit}": "up" for digit in (names if sees is None else sees)}
    return {f"n{digit}": {"state": "serving", "peers": peers} for digit in names}


def check(table: Table, facts: dict[str, dict[str, Any]], *stores: str) -> Health:
    return judge(table, stores or ("default",), facts)


def test_all_nodes_up_is_healthy_and_says_nothing() -> None:
    health = check(table(3), serving("123"))
    assert health == Health(True, 3, 0, dict.fromkeys(NAMES[:3], "serving"), "")


@pytest.mark.parametrize("up", ["12", "13", "23"])
def test_a_majority_is_enough(up: str) -> None:
    assert check(table(3), serving(up)).ok


@pytest.mark.parametrize("up", ["1", "2", "3", ""])
def test_a_minority_is_not(up: str) -> None:
    health = check(table(3), serving(up))
    assert (health.ok, health.without_quorum) == (False, 3)
    assert "is unreachable" in health.reason


def test_nodes_that_are_up_but_cut_off_from_each_other_have_no_quorum() -> None:
    facts = {name: {"state": "serving", "peers": {}} for name in NAMES[:3]}
    health = check(table(3), facts)
    assert not health.ok
    assert "not connected to each other" in health.reason


@pytest.mark.parametrize("state", ["silent", "down"])
def test_a_peer_under_suspicion_does_not_count(state: str) -> None:
    facts = {"n1": {"state": "serving", "peers": {"n2": state, "n3": "down"}}}
    assert not check(table(3), facts).ok
    facts["n1"]["peers"]["n3"] = "up"
    assert check(table(3), facts).ok


def test_one_node_that_sees_a_majority_is_enough_even_if_this_client_sees_only_it() -> None:
    assert check(table(3), {"n3": {"state": "serving", "peers": {"n1": "up"}}}).ok


@pytest.mark.parametrize("state", ["joining", "draining", "unreachable"])
def test_a_node_that_does_not_serve_takes_no_requests(state: str) -> None:
    facts = {name: {"state": state, "peers": dict.fromkeys(NAMES, "up")} for name in NAMES[:3]}
    health = check(table(3), facts)
    assert not health.ok
    assert health.nodes["n1"] == state


def test_each_partition_has_owners_of_its_own() -> None:
    for up in itertools.combinations("12345", 3):
        health = check(table(5), serving("".join(up)))
        orders = [{(first + step) % 5 + 1 for step in range(3)} for first in range(5)]
        assert health.without_quorum == sum(len(order & {int(digit) for digit in up}) < 2 for order in orders)


def test_each_store_has_quorums_of_its_own() -> None:
    cluster = table(3, all={"replicas": 3, "q1": 1, "q2": 3}, one={"replicas": 1, "q1": 1, "q2": 1})
    facts = serving("12")
    assert check(cluster, facts).ok
    assert not check(cluster, facts, "default", "all").ok
    assert check(cluster, facts, "one").without_quorum == 1
    assert check(cluster, facts, "a store that the cluster does not name").ok


async def test_a_client_asks_every_node(cluster: Any, kv: kvclient.Kv) -> None:
    assert (await kv.health()).ok
    assert len(cluster.requests(m.STATUS)) == 3
    await cluster.nodes[2].stop()
    for node in cluster.nodes[:2]:
        node.rule = lambda message: (m.RESULT, message[1], {"state": "serving", "peers": {"n1": "up", "n2": "up"}})
    assert (await kv.health()).ok
    cluster.nodes[1].rule = lambda message: "hold"
    cluster.nodes[0].rule = lambda message: (m.RESULT, message[1], {"state": "serving", "peers": {"n2": "silent"}})
    health = await kv.health(["default", "users"], timeout=0.05)
    assert not health.ok
    assert health.nodes == {"n1": "serving", "n2": "unreachable", "n3": "unreachable"}
