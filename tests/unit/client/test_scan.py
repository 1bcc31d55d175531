"""Scans: all partitions in one order, page by page, through the loss of a node."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kvclient
from kvclient.wire import messages as m


async def fill(kv: kvclient.Kv, count: int) -> list[str]:
    keys = [f"k{number:04}" for number in range(count)]
    await kv.put_many({key: key for key in keys})
    return keys


async def test_a_scan_merges_all_partitions_in_key_order(cluster: Any, kv: kvclient.Kv) -> None:
    cluster.limits["scan_page_max"] = 7
    kv = await cluster.connect()
    keys = await fill(kv, 100)
    items = [item async for item in kv.scan()]
    assert [item.key for item in items] == keys
    assert [item.value for item in items] == keys
    assert max(request[6] for request in cluster.requests(m.SCAN)) == 7
    assert [item.key async for item in kv.scan("k003")] == keys[30:40]
    assert [item.key async for item in kv.scan("nothing")] == []
    assert [item.key async for item in kv.store("other").scan()] == []


@pytest.mark.parametrize("limit", [0, 1, 8, 100, 101])
async def test_a_limit_ends_a_scan_and_small_ones_ask_for_little(cluster: Any, kv: kvclient.Kv, limit: int) -> None:
    keys = await fill(kv, 100)
    assert [item.key async for item in kv.scan(limit=limit)] == keys[:limit]
    assert all(request[6] <= limit for request in cluster.requests(m.SCAN))


@pytest.mark.parametrize(
    ("after", "first"), [("", 0), ("k", 0), ("k0000", 1), ("k0041x", 42), ("k0099", 100), ("z", 100)]
)
async def test_a_scan_goes_on_after_a_key(cluster: Any, kv: kvclient.Kv, after: str, first: int) -> None:
    keys = await fill(kv, 100)
    assert [item.key async for item in kv.scan(after=after)] == keys[first:]
    assert [item.key async for item in kv.scan("k00", after=after, limit=3)] == keys[first : first + 3]


@pytest.mark.parametrize("after", [None, 1, b"k", "k" * 1025, "\ud800"])
def test_what_is_no_key_is_refused_at_once_as_the_place_to_go_on(kv: kvclient.Kv, after: Any) -> None:
    with pytest.raises(kvclient.InvalidRequest, match="after"):
        kv.scan(after=after)


async def test_a_scan_without_values_fills_only_keys(cluster: Any, kv: kvclient.Kv) -> None:
    await fill(kv, 3)
    items = [item async for item in kv.scan(values=False)]
    assert [(item.key, item.value, item.created_at) for item in items] == [(f"k000{n}", None, None) for n in range(3)]


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lost=st.integers(0, 2), after_pages=st.integers(0, 4), page=st.integers(1, 20))
async def test_a_node_lost_in_the_middle_neither_loses_nor_repeats_a_key(
    make_cluster: Any, lost: int, after_pages: int, page: int
) -> None:
    cluster = make_cluster()
    cluster.limits["scan_page_max"] = page
    await cluster.start()
    kv = await cluster.connect()
    keys = await fill(kv, 60)
    node, pages = cluster.nodes[lost], 0

    def rule(message: list[Any]) -> Any:
        nonlocal pages
        if message[0] == m.SCAN:
            pages += 1
            if pages > after_pages:
                return node.DROP
        return None

    node.rule = rule
    assert [item.key async for item in kv.scan()] == keys
    await cluster.close()


async def test_a_scan_that_every_owner_refuses_ends_with_the_reason(cluster: Any, kv: kvclient.Kv) -> None:
    cluster.everywhere(lambda message: cluster.nodes[0].failed(message, "overloaded"))
    with pytest.raises(kvclient.Overloaded):
        _ = [item async for item in kv.scan()]


async def test_a_page_that_leads_nowhere_is_an_error_and_not_an_end(cluster: Any, kv: kvclient.Kv) -> None:
    cluster.everywhere(lambda message: (m.PAGE, message[1], [], 1))
    with pytest.raises(kvclient.KvError, match="empty page"):
        _ = [item async for item in kv.scan()]
    cluster.everywhere(lambda message: (m.PAGE, message[1], [["k", "not bytes"]], 0))
    with pytest.raises(kvclient.KvError, match="no key and body"):
        _ = [item async for item in kv.scan()]


async def test_absurd_arguments_of_a_scan_are_refused_at_once(kv: kvclient.Kv) -> None:
    for arguments in (
        {"limit": -1},
        {"limit": 1.5},
        {"limit": True},
        {"prefix": 1},
        {"prefix": "\ud800"},
        {"timeout": 0},
    ):
        with pytest.raises(kvclient.InvalidRequest):
            kv.scan(**arguments)
