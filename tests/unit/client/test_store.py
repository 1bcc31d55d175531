"""What each call sends and what it gives back, against a correct scripted cluster."""

from __future__ import annotations

import asyncio
import copy
import pickle
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

import kvclient
from kvclient.wire import messages as m
from kvclient.wire.values import TTL_MS_MAX, Version, body_pack


async def test_what_was_put_is_got(cluster: Any, kv: kvclient.Kv) -> None:
    put = await kv.put("k", {"a": [1, None]})
    got = await kv.get("k")
    assert got == put
    assert got.value == put.value == {"a": [1, None]}
    assert got.etag == put.etag
    assert await kv.get("absent") is None


@pytest.mark.parametrize("consistency", ["eventual", "quorum", "strong"])
async def test_a_put_returns_the_item_that_a_get_would(cluster: Any, kv: kvclient.Kv, consistency: Any) -> None:
    """R63: times follow from the stamp or the time of issue, so no second round trip is needed."""
    put = await kv.put("k", "v", ttl=60, consistency=consistency)
    got = await kv.get("k")
    assert (put.version, put.created_at, put.expires_at) == (got.version, got.created_at, got.expires_at)
    assert put.expires_at - put.created_at == timedelta(seconds=60)
    assert abs(put.created_at - datetime.now(UTC)) < timedelta(seconds=30)
    assert (await kv.put("k", "v")).expires_at is None


async def test_times_are_the_servers(cluster: Any) -> None:
    """R24: times of operations are server time, learnt at the handshake."""
    cluster.clock_ahead_ms = -7_200_000
    kv = await cluster.connect()
    await kv.put("k", 1, consistency="strong")
    (request,) = cluster.requests(m.MUTATE)
    assert abs(request[7] - cluster.now_ms()) < 10_000
    assert request[8] - request[7] == 5000


async def test_an_item_is_frozen(kv: kvclient.Kv) -> None:
    item = await kv.put("k", 1)
    for name in ("key", "value", "etag", "version", "expires_at", "created_at", "explain", "other"):
        with pytest.raises(AttributeError):
            setattr(item, name, 1)


async def test_an_item_can_be_pickled_and_copied(kv: kvclient.Kv) -> None:
    item = await kv.put("k", {"a": 1}, ttl=5)
    for twin in (pickle.loads(pickle.dumps(item)), copy.copy(item)):
        assert (twin, twin.value, twin.expires_at, hash(twin)) == (item, item.value, item.expires_at, hash(item))
    assert item != await kv.put("k", {"a": 1})
    assert item != "k"


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, m.WRITE),
        ({"consistency": "quorum"}, m.WRITE),
        ({"consistency": "strong"}, m.MUTATE),
        ({"create": True}, m.MUTATE),
        ({"create": True, "consistency": "eventual", "w": 1}, m.MUTATE),
        ({"concurrency": "first-write"}, m.MUTATE),
        ({"etag": "x"}, m.MUTATE),
        ({"etag": "x", "concurrency": "last-write"}, m.MUTATE),
    ],
)
async def test_a_checked_write_is_strong_whatever_the_consistency_says(
    cluster: Any, kv: kvclient.Kv, options: dict[str, Any], kind: int
) -> None:
    """Section 2 of the protocol."""
    try:
        await kv.put("new", 1, **options)
    except kvclient.EtagMismatch:
        assert "etag" in options
    (request,) = cluster.requests(m.MUTATE, m.WRITE)
    assert request[0] == kind


async def test_a_lost_check_carries_what_stands_there(cluster: Any, kv: kvclient.Kv) -> None:
    first = await kv.put("k", 1, create=True)
    second = await kv.put("k", 2, etag=first.etag)
    for options in ({"etag": first.etag}, {"create": True}, {"etag": "\ud800 no etag"}, {"etag": ""}):
        with pytest.raises(kvclient.EtagMismatch) as lost:
            await kv.put("k", 3, **options)
        assert lost.value.current == second
        assert lost.value.current.value == 2
        assert lost.value.outcome == "not applied"
    with pytest.raises(kvclient.EtagMismatch) as lost:
        await kv.delete("absent", etag=first.etag)
    assert lost.value.current is None


async def test_delete_is_idempotent_and_checks_an_etag(cluster: Any, kv: kvclient.Kv) -> None:
    item = await kv.put("k", 1, consistency="strong")
    with pytest.raises(kvclient.EtagMismatch):
        await kv.delete("k", etag="AAAA")
    await kv.delete("k", etag=item.etag)
    assert await kv.get("k") is None
    await kv.delete("k")
    await kv.delete("k", consistency="strong")
    with pytest.raises(kvclient.InvalidRequest):
        await kv.delete("k", concurrency="first-write")


async def test_defaults_of_client_store_and_cluster_are_used_in_that_order(cluster: Any) -> None:
    cluster.stores["careful"] = {**cluster.stores["default"], "consistency": "strong", "ttl_s": 7, "r": 2}
    kv = await cluster.connect(timeout=3, ttl=9)
    await kv.store("careful").put("k", 1)
    await kv.store("careful").get("k")
    await kv.store("careful", consistency="eventual", ttl="never").put("k", 1)
    await kv.store("careful").put("k", 1, ttl=1, timeout=2)
    mutate, write, last = cluster.requests(m.MUTATE)[0], cluster.requests(m.WRITE)[0], cluster.requests(m.MUTATE)[1]
    assert (mutate[13], mutate[8] - mutate[7]) == (9000, 3000)
    assert cluster.requests(m.GET)[0][3:6] == [1, 0, 3000]
    assert (write[6], write[4]) == (0, 3000)
    assert (last[13], last[8] - last[7]) == (1000, 2000)


async def test_a_changed_table_changes_the_defaults(cluster: Any, kv: kvclient.Kv) -> None:
    store = kv.store("s")
    cluster.stores["s"] = {**cluster.stores["default"], "consistency": "strong"}
    node = cluster.nodes[0]
    await node.stop()
    await node.start()
    while len(node.hellos) < 2 or not kv._cluster.links.get("n1"):
        await kv._cluster.wait_for_change(1)
    await store.put("k", 1)
    assert cluster.requests(m.MUTATE)


@pytest.mark.parametrize(
    "call",
    [
        lambda kv: kv.get(""),
        lambda kv: kv.get(b"k"),
        lambda kv: kv.get("k" * 1025),
        lambda kv: kv.get("\ud800"),
        lambda kv: kv.get("k", r=4),
        lambda kv: kv.get("k", r=-1),
        lambda kv: kv.get("k", timeout=0),
        lambda kv: kv.get("k", timeout=float("nan")),
        lambda kv: kv.get("k", timeout=1e9),
        lambda kv: kv.get("k", consistency="srtong"),
        lambda kv: kv.put("k", float("nan")),
        lambda kv: kv.put("k", b"x" * ((1 << 20) + 1)),
        lambda kv: kv.put("k", 1, w=4),
        lambda kv: kv.put("k", 1, ttl=-1),
        lambda kv: kv.put("k", 1, ttl=TTL_MS_MAX),
        lambda kv: kv.put("k", 1, ttl=3_153_600_001),
        lambda kv: kv.put("k", 1, r=4),
        lambda kv: kv.put("k", 1, r="any"),
        lambda kv: kv.delete("k", r=0),
        lambda kv: kv.update("k", lambda value: 1, r=4),
        lambda kv: kv.get_many("abc"),
        lambda kv: kv.get_many(b"abc"),
        lambda kv: kv.put("k", 1, etag=1),
        lambda kv: kv.put("k", 1, etag="x", create=True),
        lambda kv: kv.put("k", 1, operation_id="nonsense"),
        lambda kv: kv.delete("k", w="some"),
        lambda kv: kv.update("k", lambda value: {1, 2}),
        lambda kv: kv.update("k", lambda value: b"x" * ((1 << 20) + 1)),
        lambda kv: kv.transact("k", []),
        lambda kv: kv.transact("k", ["put"]),
        lambda kv: kv.transact("k", [kvclient.Put(1, etag="x", create=True)]),
        lambda kv: kv.transact("k", [kvclient.Put(b"x" * (1 << 19))] * 3),
    ],
)
async def test_what_is_out_of_bounds_is_never_sent(cluster: Any, kv: kvclient.Kv, call: Any) -> None:
    with pytest.raises(kvclient.InvalidRequest) as refused:
        await call(kv)
    assert refused.value.outcome == "not applied"
    assert not cluster.requests(m.MUTATE, m.WRITE)


async def test_writes_take_the_options_of_reads_and_update_reads_with_r(cluster: Any, kv: kvclient.Kv) -> None:
    options: Any = {"r": 2, "w": 2}
    await kv.put("k", 1, **options)
    assert not any(map(cluster.requests, (m.GET, m.STAMP)))
    await kv.update("k", lambda value: value + 1, r=3)
    assert [request[4] for request in cluster.requests(m.GET)] == [3]
    assert isinstance((await kv.put_many({"a": 1}, **options))["a"], kvclient.Item)
    assert isinstance((await kv.put_many({"a": 1}, r=4))["a"], kvclient.InvalidRequest)
    await kv.delete("k", **options)


async def test_the_longest_ttl_is_the_one_of_the_configuration_and_said_plainly(kv: kvclient.Kv) -> None:
    item = await kv.put("k", 1, ttl=3_153_600_000)
    assert item.expires_at is not None
    with pytest.raises(kvclient.InvalidRequest, match="at most 3153600000 seconds"):
        await kv.put("k", 1, ttl=3_153_600_001)


async def test_a_create_that_lost_says_that_the_key_exists(kv: kvclient.Kv) -> None:
    item = await kv.put("ada", 1, consistency="strong")
    with pytest.raises(kvclient.EtagMismatch, match=rf"^'ada' in store 'default' exists already \(ETag {item.etag}\)"):
        await kv.put("ada", 2, create=True)


async def test_a_value_at_the_limit_is_taken(kv: kvclient.Kv) -> None:
    value = b"x" * (1 << 20)
    await kv.put("k", value)
    assert (await kv.get("k")).value == value


async def test_an_eventual_write_carries_the_greatest_version_seen(cluster: Any, kv: kvclient.Kv) -> None:
    """Section 4a: so it never loses to a value that its client had seen."""
    strong = await kv.put("k", 1, consistency="strong")
    await kv.put("k", 2)
    assert cluster.requests(m.WRITE)[-1][7] == strong.version
    other = await cluster.connect()
    await kv.put("k", 3, consistency="strong")
    seen = await other.get("k")
    await other.put("k", 4)
    assert cluster.requests(m.WRITE)[-1][7] == seen.version
    newest = await kv.put("k", 5, consistency="strong")
    with pytest.raises(kvclient.EtagMismatch):
        await other.put("k", 6, create=True)
    await other.put("k", 7)
    assert cluster.requests(m.WRITE)[-1][7] == newest.version


async def test_exactly_once_fetches_a_stamp_and_sends_it(cluster: Any, kv: kvclient.Kv) -> None:
    """R25."""
    item = await kv.put("k", 1, exactly_once=True)
    (write,) = cluster.requests(m.WRITE)
    assert len(cluster.requests(m.STAMP)) == 1
    assert write[8][1:] == item.version


async def test_a_superseded_write_says_so(cluster: Any, kv: kvclient.Kv) -> None:
    cluster.everywhere(lambda message: (m.APPLIED, message[1], bytes(44), 1) if message[0] == m.WRITE else None)
    assert (await kv.put("k", 1)).explain == {"superseded": True}


async def test_explanations_come_only_when_asked_for(cluster: Any, kv: kvclient.Kv) -> None:
    await kv.put("k", 1)
    assert (await kv.get("k")).explain is None
    assert (await kv.get("k", explain=True)).explain == {"asked": 1}
    assert (await kv.explain("k"))["agree"] is True


async def test_update_applies_to_the_current_value_until_it_wins(cluster: Any, kv: kvclient.Kv) -> None:
    await asyncio.gather(*(kv.update("n", lambda value: value + 1, default=0) for _ in range(20)))
    assert (await kv.get("n")).value == 20


async def test_update_of_an_absent_key_passes_the_default_unharmed(cluster: Any, kv: kvclient.Kv) -> None:
    def append(value: list[int]) -> list[int]:
        value.append(1)
        return value

    default: list[int] = []
    item = await kv.update("k", append, default=default)
    assert (item.value, default) == ([1], [])
    seen: list[Any] = []
    await kv.update("other", lambda value: seen.append(value) or 1)
    assert seen == [None]


async def test_an_update_that_raises_changes_nothing(cluster: Any, kv: kvclient.Kv) -> None:
    with pytest.raises(ZeroDivisionError):
        await kv.update("k", lambda value: 1 // 0)
    assert not cluster.requests(m.MUTATE)


async def test_an_update_that_loses_every_race_ends_at_the_deadline_as_not_applied(
    cluster: Any, kv: kvclient.Kv, monkeypatch: pytest.MonkeyPatch
) -> None:
    await kv.put("k", 1)
    stands = cluster.rows[b"default\0k"]
    time_left = iter([True, True, False])
    now_s = asyncio.get_running_loop().time

    def lose(message: Any) -> Any:
        if message[0] != m.MUTATE:
            return None
        if not next(time_left):
            monkeypatch.setattr(kv._cluster, "loop", SimpleNamespace(time=lambda: now_s() + 1000))
        return (m.CONFLICT, message[1], stands)

    cluster.everywhere(lose)
    with pytest.raises(kvclient.DeadlineExceeded) as late:
        await kv.update("k", lambda value: value + 1, timeout=60)
    assert late.value.outcome == "not applied"
    assert isinstance(late.value.__cause__, kvclient.EtagMismatch)
    sequences = [request[4] for request in cluster.requests(m.MUTATE)]
    assert len(set(sequences)) == len(sequences) == 3


async def test_transact_is_one_change_and_returns_what_stands(cluster: Any, kv: kvclient.Kv) -> None:
    item = await kv.transact("k", [kvclient.Put(1, create=True), kvclient.Put({"x": 2}, ttl=60)])
    assert item == await kv.get("k")
    assert (item.value, item.expires_at) == ({"x": 2}, (await kv.get("k")).expires_at)
    with pytest.raises(kvclient.EtagMismatch) as lost:
        await kv.transact("k", [kvclient.Put(3), kvclient.Delete(etag="none")])
    assert lost.value.current == item
    assert await kv.transact("k", [kvclient.Put(3, etag=item.etag), kvclient.Delete()]) is None
    assert await kv.get("k") is None


async def test_many_answer_each_key_for_itself(cluster: Any, kv: kvclient.Kv) -> None:
    values = {f"k{number}": number for number in range(500)}
    done = await kv.put_many({**values, "": 0, "bad": float("inf")}, consistency="strong")
    assert list(done) == [*values, "", "bad"]
    assert all(done[key].value == value for key, value in values.items())
    assert isinstance(done[""], kvclient.InvalidRequest)
    assert isinstance(done["bad"], kvclient.InvalidRequest)
    got = await kv.get_many([*values, "absent", "k1", ""])
    assert {key: got[key].value for key in values} == values
    assert got["absent"] is None
    assert isinstance(got[""], kvclient.InvalidRequest)
    assert await kv.get_many([]) == {}


async def test_many_find_their_pace_under_a_small_limit(cluster: Any) -> None:
    cluster.limits["link_requests_max"] = 2
    kv = await cluster.connect()
    done = await kv.put_many({f"k{number}": number for number in range(200)})
    assert all(isinstance(item, kvclient.Item) for item in done.values())


async def test_status_tells_of_every_node(cluster: Any, kv: kvclient.Kv) -> None:
    await cluster.nodes[2].stop()
    while "n3" in kv._cluster.links:
        await kv._cluster.wait_for_change(1)
    status = await kv.status()
    assert [facts["state"] for facts in status.values()] == ["serving", "serving", "unreachable"]
    assert list(status) == ["n1", "n2", "n3"]


async def test_the_version_of_a_deleted_key_is_a_token_too(cluster: Any, kv: kvclient.Kv) -> None:
    """An eventual write must not lose to a delete that its client has seen (protocol section 3)."""
    deleted, deleted_again = (Version(bytes([first]) + bytes(43)) for first in (100, 200))
    cluster.rows[b"default\0k"] = body_pack(deleted, 0, 1, b"")
    assert await kv.get("k") is None
    await kv.put("k", 1)
    cluster.rows[b"default\0k"] = body_pack(deleted_again, 0, 1, b"")
    with pytest.raises(kvclient.EtagMismatch) as lost:
        await kv.put("k", 2, etag="other")
    assert lost.value.current is None
    await kv.put("k", 3)
    assert [request[7] for request in cluster.requests(m.WRITE)] == [deleted, deleted_again]
