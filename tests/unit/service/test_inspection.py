"""Scans, explanations, status: what people see of a node."""

from __future__ import annotations

from typing import Any

import pytest
from schedule import apart, catch, propose_and_die, put, settle, trio
from world import Call, World, name_of

from kvclient.wire import messages as m
from kvclient.wire.values import body_content
from kvnode.config import StoreConfig
from kvnode.service.age import PERIOD_S

KEYS = ["", "a", "a/1", "a/2", "ab", "b", "é", "éa", "ê", "z", "\U0001f600", "\U0001f600x"]


def scanned(world: World, prefix: str = "", *, at: int = 0, after: str = "", limit: int = 1000) -> list[str]:
    """Return the keys of all pages of a scan at one node, over all partitions."""
    keys: list[str] = []
    while True:
        page = page_of(world, prefix, at=at, after=after, limit=limit)
        assert page.answer is not None
        _, _, rows, more = page.answer
        assert len(rows) <= limit
        keys += [key for key, _ in rows]
        if not more:
            return keys
        after = keys[-1]


def page_of(
    world: World, prefix: str = "", *, at: int = 0, after: str = "", limit: int = 1000, values: int = 1
) -> Call:
    call = world.ask(at, m.SCAN, "default", prefix, list(range(16)), after, limit, values)
    world.run()
    assert call.kind == m.PAGE
    return call


def filled() -> World:
    world = World(3)
    for key in KEYS[1:]:
        put(world, key.encode(), 0, key)
    settle(world)
    return world


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
@pytest.mark.parametrize("prefix", ["", "a", "a/", "é", "\U0001f600", "z", "nothing"])
def test_pages_merge_the_partitions_in_key_order(prefix: str, limit: int) -> None:
    world = filled()
    expected = sorted((key for key in KEYS[1:] if key.startswith(prefix)), key=str.encode)
    for at in range(3):
        assert scanned(world, prefix, at=at, limit=limit) == expected


def test_a_scan_goes_on_after_a_key_that_need_not_exist() -> None:
    world = filled()
    assert scanned(world, after="a/15") == sorted((k for k in KEYS[1:] if k.encode() > b"a/15"), key=str.encode)
    assert scanned(world, "a", after="0") == ["a", "a/1", "a/2", "ab"]
    assert scanned(world, "a", after="zz") == []


def test_a_scan_shows_values_only_if_asked() -> None:
    world = filled()
    assert all(body_content(body) for _, body in page_of(world).answer[2])  # type: ignore[index]
    assert not any(body for _, body in page_of(world, values=0).answer[2])  # type: ignore[index]


def test_a_scan_keeps_to_its_store() -> None:
    world = World(3)
    for store in ("default", "defaul", "default2"):
        now = world.now_ms()
        name = f"{store}\0k-{store}".encode()
        world.ask(0, m.MUTATE, name, b"session1", 1, 1, 0, now, now + 1000, m.PUT, 0, "", b"\0v", 0, 0)
        world.run()
    assert scanned(world) == ["k-default"]


def test_deleted_and_expired_keys_are_hidden() -> None:
    world = filled()
    put(world, b"v", 0, "short", ttl_ms=1000)
    world.delete("a", 0)
    world.write("b", None, 0, w=3)
    settle(world)
    assert not {"a", "b"} & set(scanned(world))
    assert "short" in scanned(world)
    world.run(2.0)
    assert "short" not in scanned(world)


def test_a_scan_shows_the_overlay_and_commits_that_no_row_has() -> None:
    world = filled()
    world.write("e", b"eventual", 0, w=3)
    put(world, b"new", 0, "a")
    settle(world)
    rows = dict(page_of(world, at=1).answer[2])  # type: ignore[index]
    assert body_content(rows["e"]) == b"\0eventual"
    assert body_content(rows["a"]) == b"\0new"


def test_a_scan_never_shows_an_undecided_proposal() -> None:
    world = filled()
    propose_and_die(world, 1, lambda: world.put("fresh", b"v", 1))
    assert "fresh" not in scanned(world, at=1)


def test_a_scan_shows_what_a_repair_brought() -> None:
    world, a, _, c = trio()
    with apart(world, c):
        put(world, b"v", a)
        settle(world)
    assert scanned(world, at=c) == []
    assert world.read("k", c) == b"v"
    settle(world)
    assert scanned(world, at=c) == ["k"]


def test_a_page_of_large_values_ends_early_and_goes_on() -> None:
    world = World(3)
    for number in range(8):
        put(world, bytes(300_000), 0, f"k{number}")
    settle(world)
    first = page_of(world)
    assert first.answer is not None
    assert len(first.answer[2]) < 8
    assert first.answer[3] == 1
    assert scanned(world) == [f"k{number}" for number in range(8)]


# -- explain


def explained(world: World, at: int = 0) -> dict[str, Any]:
    call = world.ask(at, m.EXPLAIN, name_of("k"))
    world.run(1.2)
    assert call.kind == m.RESULT
    assert call.answer is not None
    facts: dict[str, Any] = call.answer[2]
    return facts


def test_an_explanation_shows_every_replica_and_whether_they_agree() -> None:
    world, a, _, _ = trio()
    facts = explained(world)
    assert (facts["key"], facts["store"], facts["agree"]) == ("k", "default", True)
    assert "absent" in facts["strong_read"]
    put(world, b"v", a)
    settle(world)
    facts = explained(world)
    assert facts["agree"]
    assert "at once" in facts["strong_read"]
    assert [bool(replica["committed"]) for replica in facts["replicas"]] == [True] * 3
    assert [replica["settled"] for replica in facts["replicas"]] == [False] * 3
    assert not facts["strong_read"].endswith("deleted")
    world.delete("k", a)
    settle(world)
    assert explained(world)["strong_read"].endswith(": deleted")


def test_an_explanation_names_who_does_not_answer() -> None:
    world, a, b, c = trio()
    put(world, b"v", a)
    world.crash(b)
    catch(world, m.READ, target=c)
    facts = explained(world, a)
    names = [world.config.nodes[index].id for index in (a, b, c)]
    by_name = {replica["node"]: replica for replica in facts["replicas"]}
    assert by_name[names[1]]["error"] == "not connected"
    assert by_name[names[2]]["error"] == "no answer in time"
    assert (facts["agree"], facts["differ"]) == (False, False)
    assert "too few" in facts["strong_read"]


def test_an_explanation_without_an_answer_in_time_is_no_agreement() -> None:
    world, a, _, c = trio()
    put(world, b"v", a)
    settle(world)
    catch(world, m.READ, target=c)
    facts = explained(world, a)
    assert (facts["agree"], facts["differ"]) == (False, False)


def test_an_explanation_tells_of_an_overlay_and_of_undecided_proposals() -> None:
    world, a, _, c = trio()
    put(world, b"old", a)
    settle(world)
    world.write("k", b"w", a, w=3)
    world.run()
    assert "overlay" in explained(world)["strong_read"]
    propose_and_die(world, c, lambda: world.put("k", b"maybe", c))
    facts = explained(world)
    assert (facts["agree"], facts["differ"]) == (False, True)
    assert sum(replica["accepted"] is not None for replica in facts["replicas"]) == 1


def test_an_explanation_tells_how_large_a_value_is_and_when_it_expires() -> None:
    world, a, _, _ = trio()
    world.write("k", b"v", a, w=3, ttl_ms=5000)
    world.run()
    now_ms = world.hosts[a].clock.wall_ms()
    overlay = explained(world)["replicas"][0]["overlay"]
    assert overlay["value"] == "1 byte"
    assert 0 < overlay["expires_ms"] - now_ms <= 5000
    put(world, b"old", a)
    settle(world)
    committed = explained(world)["replicas"][0]["committed"]
    assert (committed["value"], "expires_ms" in committed) == ("3 bytes", False)


def test_an_explanation_changes_nothing() -> None:
    world, a, _, _ = trio()
    put(world, b"v", a)
    settle(world)
    world.run(PERIOD_S)
    before = [host.engine.disk.rows.copy() for host in world.hosts]
    explained(world)
    assert [host.engine.disk.rows for host in world.hosts] == before


# -- status


def test_status_counts_what_was_done() -> None:
    world = World(3, store=StoreConfig("default", replicas=3))
    a = world.owners("k")[0]
    put(world, b"v", a)
    world.read("k", a)
    world.crash((a + 1) % 3)
    call = world.ask(a, m.STATUS)
    world.run()
    assert call.answer is not None
    facts = call.answer[2]
    assert facts["ops"]["strong put"] == 1
    assert facts["ops"]["strong get"] == 1
    assert sorted(facts["peers"].values()) == ["down", "up"]
    assert facts["syncs"] > 0
    assert facts["in_flight"] == 1  # this request


def test_questions_for_the_status_are_no_operations() -> None:
    world = World(3)
    for _ in range(20):
        call = world.ask(0, m.STATUS)
        world.run(1.0)
    assert call.answer is not None
    facts = call.answer[2]
    assert (facts["ops"], facts["ops_per_s"]) == ({}, 0.0)
    assert world.hosts[0].node.statistics.answered == 0
