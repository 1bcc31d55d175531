"""What the operations mean, against a scripted cluster: every row of the table of ETags, bulk calls, pages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import pytest

import kvclient
from kvclient import RawJson
from kvclient.wire import messages as m
from kvnode.dapr import errors
from kvnode.dapr import state as states
from kvnode.dapr.errors import Call, Kind, StateError
from kvnode.dapr.options import ITEMS_MAX, Delete, Save
from kvnode.dapr.settings import DaprStore, GatewaySettings
from kvnode.dapr.state import Entry, States, StateStore


def settings(stores: Mapping[str, DaprStore]) -> GatewaySettings:
    return GatewaySettings(seeds=(), cluster="test", stores=stores, app_id="app")


@pytest.fixture
def store(kv: kvclient.Kv) -> StateStore:
    return StateStore(kv, DaprStore("dapr", "users"))


async def refused(work: Any, kind: Kind) -> StateError:
    with pytest.raises(StateError) as caught:
        await work
    assert caught.value.kind is kind, caught.value
    return caught.value


# -- stores


def test_an_unknown_store_is_not_found_and_without_any_store_it_is_not_configured() -> None:
    with pytest.raises(StateError) as caught:
        States(None, settings({})).store("x")  # type: ignore[arg-type]
    assert caught.value.kind is Kind.NOT_CONFIGURED


async def test_stores_have_the_names_that_users_say(kv: kvclient.Kv) -> None:
    states = States(kv, settings({"statestore": DaprStore("statestore", "users"), "b": DaprStore("b", "users", "b||")}))
    await states.store("statestore").save(Save("k", b"1"))
    await states.store("b").save(Save("k", b"2"))
    users = kv.store("users")
    found = [await users.get(key) for key in ("k", "b||k")]
    assert [item and item.value for item in found] == [b"1", b"2"]
    with pytest.raises(StateError) as caught:
        states.store("users")
    assert caught.value.kind is Kind.NOT_FOUND
    assert caught.value.metadata == {"appID": "app"}


# -- one value


@pytest.mark.parametrize("value", [b"", b"\x00\xff", RawJson('{"b": 1.0,  "a":12345678901234567890}'), RawJson("null")])
async def test_a_value_comes_back_as_it_was(store: StateStore, value: bytes | RawJson) -> None:
    etag = await store.save(Save("k", value))
    entry = await store.get("k")
    assert entry is not None
    assert (entry.key, entry.etag, entry.expires_at) == ("k", etag, None)
    assert entry.data == (value if isinstance(value, bytes) else value.encode())
    assert entry.is_json == isinstance(value, RawJson)


async def test_what_is_absent_is_none_and_deleting_it_is_no_failure(store: StateStore) -> None:
    assert await store.get("k") is None
    await store.delete(Delete("k"))


@pytest.mark.parametrize("consistency", [None, "eventual", "quorum", "strong"])
@pytest.mark.parametrize("concurrency", [None, "last-write", "first-write"])
async def test_every_row_of_the_etag_table_for_saves(store: StateStore, concurrency: Any, consistency: Any) -> None:
    def save(key: str, value: bytes, etag: str = "") -> Any:
        return store.save(Save(key, value, etag, concurrency, consistency))

    await refused(save("k", b"0", "unparsable"), Kind.ETAG_MISMATCH)  # no insert over a missing key
    etag = await save("k", b"1")
    if concurrency == "first-write":  # without an ETag it creates
        await refused(save("k", b"2"), Kind.ETAG_MISMATCH)
    else:
        etag = await save("k", b"2")
    await refused(save("k", b"3", "unparsable"), Kind.ETAG_MISMATCH)
    newer = await save("k", b"4", etag)
    await refused(save("k", b"5", etag), Kind.ETAG_MISMATCH)  # also under last-write
    entry = await store.get("k")
    assert entry is not None
    assert (entry.data, entry.etag) == (b"4", newer)


@pytest.mark.parametrize("concurrency", [None, "last-write", "first-write"])
async def test_every_row_of_the_etag_table_for_deletes(store: StateStore, concurrency: Any) -> None:
    def delete(etag: str = "") -> Any:
        return store.delete(Delete("k", etag, concurrency))

    await delete()
    await refused(delete("unparsable"), Kind.ETAG_MISMATCH)
    old = await store.save(Save("k", b"1"))
    etag = await store.save(Save("k", b"2"))
    await refused(delete(old), Kind.ETAG_MISMATCH)
    await delete(etag)
    assert await store.get("k") is None
    await store.save(Save("k", b"3"))
    if concurrency == "first-write":
        await refused(delete(), Kind.ETAG_MISMATCH)
        assert await store.get("k") is not None
    else:
        await delete()
        assert await store.get("k") is None


async def test_what_a_request_does_not_say_is_the_stores(cluster: Any, kv: kvclient.Kv) -> None:
    strong = StateStore(kv, DaprStore("s", "users", consistency="strong", ttl_s=60))
    await strong.save(Save("k", b"1"))
    await strong.get("k")
    assert cluster.requests(m.MUTATE)[-1][13] == 60_000
    assert cluster.requests(m.GET)[-1][3] == 1
    await strong.save(Save("k", b"1", consistency="eventual", ttl="never"))
    await strong.get("k", "eventual")
    assert cluster.requests(m.WRITE)[-1][6] == 0
    assert cluster.requests(m.GET)[-1][3] == 0


async def test_a_store_whose_values_never_expire_says_so(cluster: Any, kv: kvclient.Kv) -> None:
    cluster.stores["default"]["ttl_s"] = 60
    kv = await cluster.connect()
    for ttl_s, ttl_ms in ((None, 60_000), (0, 0), (5, 5_000)):
        await StateStore(kv, DaprStore("s", "users", ttl_s=ttl_s)).save(Save("k", b"1"))
        assert cluster.requests(m.WRITE)[-1][6] == ttl_ms


async def test_a_failure_says_whether_it_was_applied(cluster: Any, store: StateStore) -> None:
    cluster.everywhere(lambda message: cluster.nodes[0].failed(message, "quorum-unreachable"))
    for work in (store.get("k"), store.save(Save("k", b"1")), store.delete(Delete("k"))):
        assert (await refused(work, Kind.UNAVAILABLE)).outcome == "not applied"
    cluster.everywhere(lambda message: cluster.nodes[0].failed(message, "outcome-unknown", "unknown", 1))
    for work in (store.save(Save("k", b"1")), store.delete(Delete("k")), store.transact([Delete("k")])):
        assert (await refused(work, Kind.UNKNOWN)).outcome == "unknown"


async def test_no_message_shows_what_only_the_cluster_calls_by_name(cluster: Any, kv: kvclient.Kv) -> None:
    store = StateStore(kv, DaprStore("dapr", "inside", "hidden||"))
    etag = await store.save(Save("k", b"1"))
    texts = [
        (await refused(work, kind)).message
        for kind, work in [
            (Kind.ETAG_MISMATCH, store.save(Save("k", b"2", concurrency="first-write"))),
            (Kind.ETAG_MISMATCH, store.delete(Delete("k", concurrency="first-write"))),
            (Kind.ETAG_MISMATCH, store.save(Save("k", b"2", "stale"))),
            (Kind.ETAG_MISMATCH, store.transact([Delete("k", "stale")])),
        ]
    ]
    assert all(f"'k' has the ETag {etag}" in text for text in texts)
    texts.append((await refused(store.save(Save("none", b"2", "stale")), Kind.ETAG_MISMATCH)).message)
    assert "'none' is absent" in texts[-1]
    texts.append((await refused(store.save(Save("k" * 1020, b"2")), Kind.MALFORMED)).message)
    assert f"at most {1024 - len('hidden||')} bytes" in texts[-1]
    texts.append((await refused(store.save(Save("\ud800", b"2")), Kind.MALFORMED)).message)
    cluster.everywhere(lambda message: cluster.nodes[0].failed(message, "outcome-unknown", "unknown", 1))
    texts.append((await refused(store.save(Save("k", b"1", etag)), Kind.UNKNOWN)).message)
    assert "read the key" in texts[-1]
    for text in texts:
        assert all(word not in text for word in ("hidden", "inside", "operation id")), text


async def test_json_that_is_none_is_refused(store: StateStore) -> None:
    await refused(store.save(Save("k", RawJson("{"))), Kind.MALFORMED)


async def test_a_sidecars_keys_may_hold_the_separator(kv: kvclient.Kv) -> None:
    behind = StateStore(kv, DaprStore("s", "users"), has_prefixed_keys=True)
    await behind.save(Save("app||type||id||k", b"1"))
    assert await behind.get("app||type||id||k") is not None
    assert await behind.keys() == (["app||type||id||k"], "")


# -- bulk


async def test_a_bulk_save_tells_what_became_of_each_item(store: StateStore) -> None:
    await store.save(Save("b", b"0"))
    results = await store.save_many([Save("a", b"1"), Save("b", b"2", "stale"), Save("c", b"3")])
    assert [type(result) for result in results] == [str, StateError, str]
    entries = [await store.get(key) for key in "abc"]
    assert [entry and entry.data for entry in entries] == [b"1", b"0", b"3"]
    assert [entry.etag for entry in entries if entry][::2] == results[::2]


async def test_one_illegal_key_refuses_a_bulk_call_before_anything_is_written(cluster: Any, store: StateStore) -> None:
    await refused(store.save_many([Save("a", b"1"), Save("b||c", b"2")]), Kind.ILLEGAL_KEY)
    await refused(store.delete_many([Delete("a"), Delete("")]), Kind.MALFORMED)
    await refused(store.get_many(["a", "b||c"]), Kind.ILLEGAL_KEY)
    await refused(store.transact([Save("a", b"1"), Delete("b||c")]), Kind.ILLEGAL_KEY)
    assert cluster.requests(m.WRITE, m.MUTATE, m.GET) == []


async def test_the_last_of_several_writes_of_one_key_stands(store: StateStore) -> None:
    results = await store.save_many([Save(f"k{n % 2}", b"%d" % n) for n in range(11)])
    for number, key in ((10, "k0"), (9, "k1")):
        entry = await store.get(key)
        assert entry is not None
        assert (entry.data, entry.etag) == (b"%d" % number, results[number])


async def test_a_bulk_delete_tells_what_became_of_each_item(store: StateStore) -> None:
    etag = await store.save(Save("a", b"1"))
    results = await store.delete_many([Delete("a", "stale"), Delete("b"), Delete("a", etag)])
    assert [type(result) for result in results] == [StateError, type(None), type(None)]
    assert await store.get("a") is None
    assert await store.save_many([]) == await store.delete_many([]) == await store.get_many([]) == []


async def test_a_bulk_get_keeps_the_order_of_the_request_and_its_repetitions(cluster: Any, store: StateStore) -> None:
    await store.save_many([Save("a", b"1"), Save("b", b"2")])
    before = len(cluster.requests(m.GET))
    entries = await store.get_many(["b", "missing", "a", "b"])
    assert [entry.data if hasattr(entry, "data") else entry for entry in entries] == [b"2", None, b"1", b"2"]
    assert len(cluster.requests(m.GET)) - before == 3
    assert await store.get_many(["a"], 1, "strong") == [await store.get("a")]
    assert cluster.requests(m.GET)[-2][3] == 1


async def test_a_bulk_get_reports_a_failed_read_beside_the_others(cluster: Any, store: StateStore) -> None:
    await store.save_many([Save("a", b"1"), Save("b", b"2")])

    def rule(message: list[Any]) -> Any:
        return cluster.nodes[0].failed(message, "quorum-unreachable") if message[2].endswith(b"\0b") else None

    cluster.everywhere(rule)
    good, bad = await store.get_many(["a", "b"])
    assert isinstance(bad, StateError)
    assert (bad.kind, bad.code) == (Kind.UNAVAILABLE, "ERR_STATE_GET")
    assert good is not None
    assert not isinstance(good, StateError)


@pytest.mark.parametrize(("parallelism", "most"), [(1, 1), (3, 3), (0, 20), (-5, 20), (10**9, 20)])
async def test_a_bulk_get_has_no_more_reads_under_way_than_it_was_told(
    cluster: Any, store: StateStore, parallelism: int, most: int
) -> None:
    cluster.everywhere(lambda message: "hold")
    work = asyncio.ensure_future(store.get_many([f"k{n}" for n in range(20)], parallelism))
    for _ in range(50):
        await asyncio.sleep(0)
    await asyncio.gather(*(node.received(len(node.kinds(m.GET)), m.GET) for node in cluster.nodes))
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert len(cluster.requests(m.GET)) <= most


async def test_a_value_that_cannot_be_stored_refuses_a_bulk_save_before_anything_is_written(
    cluster: Any, store: StateStore
) -> None:
    for value in (RawJson("{"), RawJson('"' + "x" * (1 << 20) + '"'), b"x" * ((1 << 20) + 1)):
        error = await refused(store.save_many([Save("a", b"1"), Save("b", value), Save("c", b"1")]), Kind.MALFORMED)
        assert "'b'" in error.message
    assert cluster.requests(m.WRITE, m.MUTATE) == []


async def test_a_bulk_get_that_finds_no_room_ends_without_reading_on(cluster: Any, store: StateStore) -> None:
    await store.save_many([Save(f"k{number}", b"x" * 1000) for number in range(100)])
    held: list[int] = []

    def hold(size: int, call: Call) -> None:
        if sum(held) + size > 10_000:
            raise errors.of_kind(Kind.UNAVAILABLE, call, "dapr", "", "no room")
        held.append(size)

    error = await refused(store.get_many([f"k{number}" for number in range(100)], 2, None, hold), Kind.UNAVAILABLE)
    assert error.code == "ERR_STATE_BULK_GET"
    assert len(cluster.requests(m.GET)) < 15
    held.clear()
    await refused(
        store.get_many(["k0"] * 11, hold=hold), Kind.UNAVAILABLE
    )  # what stands twice in the answer counts twice
    held.clear()
    assert await store.get_many(["k0"] * 10, hold=hold)


async def test_a_bulk_call_ends_though_every_item_of_it_waits(
    cluster: Any, kv: kvclient.Kv, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvnode.dapr.state.BULK_S_MAX", 0.2)

    def slow(message: list[Any]) -> Any:
        time.sleep(0.01)
        return None

    cluster.everywhere(slow)
    results = await StateStore(kv, DaprStore("s", "users")).save_many([Save("k", b"%d" % n) for n in range(1000)])
    assert isinstance(results[0], str)
    late = [result for result in results if isinstance(result, StateError)]
    assert len(late) > 900
    assert {(error.kind, error.outcome) for error in late} == {(Kind.UNAVAILABLE, "not applied")}
    assert len(cluster.requests(m.WRITE, m.MUTATE)) == len(results) - len(late)


# -- transactions


async def test_a_transaction_on_one_key_is_one_change(cluster: Any, store: StateStore) -> None:
    await store.transact([Save("k", b"1"), Delete("k"), Save("k", RawJson("2"), concurrency="first-write")])
    entry = await store.get("k")
    assert entry is not None
    assert (entry.data, entry.is_json) == (b"2", True)
    assert [request[9] for request in cluster.requests(m.MUTATE, m.WRITE)] == [m.TRANSACT]
    await store.transact([Delete("k", entry.etag)])
    assert await store.get("k") is None


async def test_a_failed_check_undoes_a_whole_transaction(store: StateStore) -> None:
    etag = await store.save(Save("k", b"1"))
    for last in (Save("k", b"3", "stale"), Delete("k", "stale"), Delete("k", "", "first-write")):
        await refused(store.transact([Save("k", b"2"), last]), Kind.ETAG_MISMATCH)
    entry = await store.get("k")
    assert entry is not None
    assert (entry.data, entry.etag) == (b"1", etag)


async def test_a_store_whose_writes_create_does_so_in_a_transaction_too(cluster: Any) -> None:
    cluster.stores["default"]["concurrency"] = "first-write"
    store = StateStore(await cluster.connect(), DaprStore("dapr", "users"))
    await store.transact([Save("k", b"1")])
    await refused(store.transact([Save("k", b"2")]), Kind.ETAG_MISMATCH)
    await refused(store.transact([Delete("k"), Save("k", b"2"), Save("k", b"3")]), Kind.ETAG_MISMATCH)
    entry = await store.get("k")
    assert entry is not None
    assert entry.data == b"1"
    await store.transact([Save("k", b"4", entry.etag), Save("k", b"5", concurrency="last-write")])
    await store.transact([Delete("k"), Save("k", b"6")])
    entry = await store.get("k")
    assert entry is not None
    assert entry.data == b"6"


async def test_deleting_what_is_absent_is_fine_in_a_transaction_too(store: StateStore) -> None:
    await store.transact([Delete("k"), Delete("k", "", "first-write")])
    assert await store.get("k") is None


async def test_what_cannot_be_one_transaction_is_refused_and_not_faked(cluster: Any, store: StateStore) -> None:
    await store.transact([])
    error = await refused(store.transact([Save("a", b"1"), Delete("b")]), Kind.NOT_SUPPORTED_TRANSACTION)
    assert error.message.startswith("state store dapr doesn't support transactions")
    await refused(store.transact([Save("a", b"1")] * 129), Kind.TOO_MANY_OPERATIONS)
    assert cluster.requests(m.WRITE, m.MUTATE) == []


# -- pages


async def test_keys_come_in_pages(store: StateStore) -> None:
    await store.save_many([Save(f"k{n:03}", b"") for n in range(120)] + [Save("other", b"")])
    every, sizes, token = [], [], ""
    while not sizes or token:
        keys, token = await store.keys("k", 50, token)
        every += keys
        sizes.append(len(keys))
    assert sizes == [50, 50, 20]
    assert every == [f"k{n:03}" for n in range(120)]
    assert await store.keys("k", 120) == (every, "")
    assert await store.keys("nothing") == ([], "")
    assert (await store.keys("", 10**9))[1] == ""


async def test_a_key_prefix_is_taken_off_and_others_keys_are_not_shown(kv: kvclient.Kv) -> None:
    mine, plain = StateStore(kv, DaprStore("s", "users", "app||")), StateStore(kv, DaprStore("s", "users"))
    await mine.save_many([Save(f"k{n}", b"") for n in range(5)])
    await plain.save_many([Save(f"a{n}", b"") for n in range(5)])
    keys, token = await mine.keys(limit=3)
    assert keys == ["k0", "k1", "k2"]
    assert await mine.keys(token=token) == (["k3", "k4"], "")
    keys, token = await plain.keys(limit=4)
    assert keys == ["a0", "a1", "a2", "a3"]
    assert await plain.keys(token=token) == (["a4"], "")


async def test_the_keys_of_others_are_passed_over_and_not_read_one_by_one(cluster: Any, kv: kvclient.Kv) -> None:
    cluster.limits["scan_page_max"] = 20
    kv = await cluster.connect()
    others, plain = (StateStore(kv, DaprStore("s", "users", prefix)) for prefix in ("app||", ""))
    await others.save_many([Save(f"k{n}", b"") for n in range(500)] + [Save("\U0010ffff\U0010ffff", b"")])
    await kv.store("users").put("z" * 1020 + "||z", b"")
    await plain.save_many([Save(key, b"") for key in ("a", "app", "app|", "app|z", "b", "zz")])
    before = len(cluster.requests(m.SCAN))
    assert await plain.keys() == (["a", "app", "app|", "app|z", "b", "zz"], "")
    assert len(cluster.requests(m.SCAN)) - before < 20


@pytest.mark.parametrize("token", ["!", "é", "====", "_w", "a"])
async def test_a_token_that_no_page_gave_is_refused(store: StateStore, token: str) -> None:
    await refused(store.keys(token=token), Kind.MALFORMED)


async def test_a_page_must_have_room(store: StateStore) -> None:
    await refused(store.keys(limit=0), Kind.MALFORMED)


# -- a caller's time


async def test_a_request_that_waits_so_long_is_given_no_more_by_the_cluster(cluster: Any, store: StateStore) -> None:
    limited = store.within(2.0)
    assert store.within(None) is store
    await limited.get("k")
    await limited.save(Save("k", b"1"))
    await limited.save_many([Save("k", b"2"), Save("k", b"3")])
    await limited.delete(Delete("k"))
    await limited.transact([Save("k", b"5")])
    limits_ms = [request[5] for request in cluster.requests(m.GET)]
    limits_ms += [request[4] for request in cluster.requests(m.WRITE)]
    limits_ms += [request[8] - request[7] for request in cluster.requests(m.MUTATE)]
    assert len(limits_ms) == 6
    assert all(0 < limit_ms <= 2000 for limit_ms in limits_ms)
    await store.within(100_000.0).get("k")  # more than the cluster takes
    assert cluster.requests(m.GET)[-1][5] == 3_600_000


async def test_what_begins_after_the_callers_time_is_not_sent(cluster: Any, store: StateStore) -> None:
    late = store.within(0.0)
    for work in (late.get("k"), late.save(Save("k", b"1")), late.delete(Delete("k")), late.transact([Save("k", b"1")])):
        assert (await refused(work, Kind.UNAVAILABLE)).outcome == "not applied"
    results = await late.save_many([Save("a", b"1"), Save("b", b"1")])
    assert all(isinstance(result, StateError) for result in results)
    assert not cluster.requests()


# -- what one request can ask for


@pytest.mark.parametrize("copies", [1, 2])
async def test_one_answer_has_no_more_bytes_than_the_most(
    store: StateStore, monkeypatch: pytest.MonkeyPatch, copies: int
) -> None:
    monkeypatch.setattr(states, "BULK_BYTES_MAX", 1000)
    for number in range(6):
        await store.save(Save(f"k{number}", b"x" * 300))
    keys = [f"k{number}" for number in range(6)] if copies == 1 else ["k0"] * 6
    found = await store.get_many([*keys, "absent"], 1)
    assert [isinstance(entry, Entry) for entry in found[:6]] == [True] * 3 + [False] * 3
    assert isinstance(found[5], StateError)
    assert "get this key alone" in found[5].message
    assert isinstance(found[6], StateError) if copies == 1 else found[6] is None  # it was not read, or it was


async def test_a_bulk_call_has_no_more_items_than_the_most(cluster: Any, store: StateStore) -> None:
    items = [f"k{number}" for number in range(ITEMS_MAX + 1)]
    for work in (
        store.get_many(items),
        store.save_many([Save(key, b"1") for key in items]),
        store.delete_many([Delete(key) for key in items]),
    ):
        error = await refused(work, Kind.MALFORMED)
        assert "16384 items" in error.message
    assert cluster.requests(m.GET, m.WRITE, m.MUTATE) == []
