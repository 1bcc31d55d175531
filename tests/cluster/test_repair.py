"""A node that was away is repaired without a read, by itself and on demand, and people can see it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

import kvclient

KEYS = 40


async def _write(cluster: Any, value: str) -> None:
    async with kvclient.connect(cluster.addresses) as kv:
        for number in range(KEYS):
            consistency: Any = "strong" if number % 2 else "eventual"
            await kv.put(f"k{number}", value, consistency=consistency, timeout=20)


def _explained(cluster: Any, key: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(cluster.kvnode("explain", key, "--json").stdout)
    return facts


def _repaired(cluster: Any) -> dict[str, Any]:
    done = cluster.kvnode("repair", "--json")
    assert done.returncode == 0, done
    facts: dict[str, Any] = json.loads(done.stdout)
    assert facts["complete"]
    return facts


def test_repair_brings_a_node_up_to_date_that_was_down(cluster: Any) -> None:
    asyncio.run(_write(cluster, "old"))
    cluster.tell("kill", "n3")
    asyncio.run(_write(cluster, "new"))
    cluster.tell("restart", "n3")
    facts = _repaired(cluster)
    assert {node["node"] for node in facts["nodes"]} == {"n1", "n2", "n3"}
    for number in range(KEYS):
        explained = _explained(cluster, f"k{number}")
        shown = {json.dumps([one["committed"], one["overlay"]]) for one in explained["replicas"]}
        assert len(shown) == 1, explained
    again = _repaired(cluster)  # equal replicas stay as they are
    assert sum(node["repaired"] for node in again["nodes"]) == 0
    (text,) = [line for line in cluster.kvnode("repair").stdout.splitlines() if "repaired;" in line]
    assert text.startswith("0 keys repaired; 0 of 768 ranges differed")
    named = cluster.kvnode("repair", "--store", "users").stdout
    assert "0 keys of store 'users' repaired; " in named  # one that is mistyped is seen
    status = json.loads(cluster.kvnode("status", "--json").stdout)
    assert all(node["anti_entropy"]["trees"] == 1 for node in status["nodes"])
    assert len({node["anti_entropy"]["roots"]["3"] for node in status["nodes"]}) == 1


def test_repair_says_whom_it_could_not_compare(cluster: Any) -> None:
    cluster.tell("kill", "n2")
    done = cluster.kvnode("repair")
    assert done.returncode == 1
    assert any(line.split()[:3] == ["n1", "n3", "n2"] for line in done.stdout.splitlines())
    assert "n2: nobody listens on" in done.stdout
    assert "; not all copies were compared; " in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("store", "said"), [("x" * 129, "1 to 128 bytes"), (b"\xff", "not valid Unicode")])
def test_what_is_no_name_of_a_store_is_refused(shared_cluster: Any, store: str | bytes, said: str) -> None:
    done = shared_cluster.kvnode("repair", "--store", store)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
