"""The runtime's gRPC service over a real socket, on a scripted cluster: every row of the gRPC columns of the tables."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_client import Client, Refusal

import kvclient
from kvclient.wire import messages as m
from kvnode.dapr import errors, rpc
from kvnode.dapr import grpc as runtime
from kvnode.dapr.about import About
from kvnode.dapr.admission import Admission
from kvnode.dapr.listening import AddressError
from kvnode.dapr.protos import common_pb2, runtime_pb2
from kvnode.dapr.settings import Bounds, DaprStore, GatewaySettings
from kvnode.dapr.state import States

STORES = {"s": DaprStore("s", "users"), "app": DaprStore("app", "apps", "app||", ttl_s=60)}
SETTINGS = GatewaySettings(
    seeds=(), cluster="test", stores=STORES, app_id="app", grpc_port=0, bounds=Bounds(body_bytes_max=100_000)
)
Options = common_pb2.StateOptions
Item = common_pb2.StateItem


class Gateway:
    """Servers that a test starts."""

    def __init__(self, kv: kvclient.Kv) -> None:
        self.kv = kv
        self.stops = 0
        self._open = AsyncExitStack()

    async def start(
        self, settings: GatewaySettings = SETTINGS, *, begun: bool = True, admission: Admission | None = None
    ) -> Client:
        made = runtime.Runtime(settings, About(settings), self._stop)
        if begun:
            made.begin(States(self.kv, settings))
        self.address = await self._open.enter_async_context(
            runtime.serving(made, settings, admission or Admission(settings.bounds))
        )
        return await self.connect()

    async def connect(self) -> Client:
        """Return a client with a connection of its own."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        channel = await self._open.enter_async_context(grpc.aio.insecure_channel(self.address, options=options))
        return Client(channel, runtime.SERVICE)

    def _stop(self) -> None:
        self.stops += 1

    async def close(self) -> None:
        await self._open.aclose()


@pytest.fixture
async def gateway(kv: kvclient.Kv) -> AsyncIterator[Gateway]:
    made = Gateway(kv)
    yield made
    await made.close()


@pytest.fixture
async def client(gateway: Gateway) -> Client:
    return await gateway.start()


def saving(*items: Item, store: str = "s") -> runtime_pb2.SaveStateRequest:
    return runtime_pb2.SaveStateRequest(store_name=store, states=items)


def item(key: str, value: bytes = b"1", etag: str | None = None, first: bool = False, **metadata: str) -> Item:
    made = Item(key=key, value=value, metadata=metadata)
    if etag is not None:
        made.etag.value = etag
    if first:
        made.options.concurrency = Options.CONCURRENCY_FIRST_WRITE
    return made


async def get(client: Client, key: str, store: str = "s", **fields: Any) -> runtime_pb2.GetStateResponse:
    request = runtime_pb2.GetStateRequest(store_name=store, key=key, **fields)
    answer: runtime_pb2.GetStateResponse = await client.call("GetState", request)
    return answer


# -- what works


async def test_what_was_saved_is_read_with_its_etag_and_an_absent_key_is_empty(client: Client) -> None:
    await client.call("SaveState", saving(item("k", b"\x00\xff")))
    found = await get(client, "k")
    assert (found.data, bool(found.etag), dict(found.metadata)) == (b"\x00\xff", True, {})
    absent = await get(client, "none")
    assert (absent.data, absent.etag, dict(absent.metadata)) == (b"", "", {})


async def test_an_empty_value_is_there_and_has_an_etag(client: Client) -> None:
    await client.call("SaveState", saving(item("k", b"")))
    found = await get(client, "k")
    assert (found.data, bool(found.etag)) == (b"", True)


async def test_json_is_stored_as_json_untouched(client: Client, kv: kvclient.Kv) -> None:
    text = '{"b": 1.0, "a": 12345678901234567890}'
    await client.call("SaveState", saving(item("k", text.encode(), contentType="application/json; charset=utf-8")))
    stored = await kv.store("users").get("k")
    assert stored is not None
    assert stored.text == text
    assert (await get(client, "k")).data == text.encode()


async def test_an_expiry_is_kept_and_told(client: Client, cluster: Any) -> None:
    await client.call("SaveState", saving(item("k", ttlInSeconds="100")))
    assert cluster.requests(m.WRITE)[-1][6] == 100_000
    told = (await get(client, "k")).metadata["ttlExpireTime"]
    assert len(told) == len("2026-01-01T00:00:00Z")
    bulk = await client.call("GetBulkState", runtime_pb2.GetBulkStateRequest(store_name="s", keys=["k"]))
    assert bulk.items[0].metadata["ttlExpireTime"] == told


async def test_keys_are_prefixed_in_the_cluster_and_nowhere_else(client: Client, kv: kvclient.Kv) -> None:
    await client.call("SaveState", saving(item("k", b"7"), store="app"))
    stored = await kv.store("apps").get("app||k")
    assert stored is not None
    assert stored.expires_at is not None  # the store's default
    bulk = await client.call("GetBulkState", runtime_pb2.GetBulkStateRequest(store_name="app", keys=["k"]))
    assert [(each.key, each.data) for each in bulk.items] == [("k", b"7")]


@pytest.mark.parametrize(
    ("number", "metadata", "strong"),
    [
        (Options.CONSISTENCY_UNSPECIFIED, {}, 0),
        (Options.CONSISTENCY_STRONG, {}, 1),
        (Options.CONSISTENCY_UNSPECIFIED, {"consistency": "strong"}, 1),
        (Options.CONSISTENCY_EVENTUAL, {"consistency": "strong"}, 0),  # the field wins
    ],
)
async def test_consistency_is_said_by_the_field_or_by_metadata(
    client: Client, cluster: Any, number: Any, metadata: dict[str, str], strong: int
) -> None:
    await get(client, "k", consistency=number, metadata=metadata)
    assert cluster.requests(m.GET)[-1][3] == strong
    save = item("k", **metadata)
    save.options.consistency = number
    await client.call("SaveState", saving(save))
    assert len(cluster.requests(m.MUTATE)) == strong


async def test_a_bulk_get_answers_in_the_order_of_the_request_with_duplicates(client: Client) -> None:
    await client.call("SaveState", saving(item("a", b"1"), item("b", b"2")))
    keys = ["b", "missing", "a", "b"]
    for parallelism in (0, 1, -3, 50):
        request = runtime_pb2.GetBulkStateRequest(store_name="s", keys=keys, parallelism=parallelism)
        bulk = await client.call("GetBulkState", request)
        assert [(each.key, each.data, bool(each.etag)) for each in bulk.items] == [
            ("b", b"2", True), ("missing", b"", False), ("a", b"1", True), ("b", b"2", True),
        ]  # fmt: skip
    assert not (await client.call("GetBulkState", runtime_pb2.GetBulkStateRequest(store_name="s"))).items


async def test_what_cannot_be_read_has_an_error_in_its_place(client: Client, cluster: Any) -> None:
    await client.call("SaveState", saving(item("a"), item("b")))

    def rule(message: list[Any]) -> Any:
        is_b = message[0] == m.GET and message[2].endswith(b"\0b")
        return cluster.nodes[0].failed(message, "quorum-unreachable") if is_b else None

    cluster.everywhere(rule)
    request = runtime_pb2.GetBulkStateRequest(store_name="s", keys=["a", "b"])
    first, second = (await client.call("GetBulkState", request)).items
    assert (first.data, first.error) == (b"1", "")
    assert (second.key, second.data, second.etag) == ("b", b"", "")
    assert "scripted" in second.error


async def test_nothing_to_save_or_to_delete_or_to_do_is_no_failure(client: Client, cluster: Any) -> None:
    await client.call("SaveState", saving())
    await client.call("DeleteBulkState", runtime_pb2.DeleteBulkStateRequest(store_name="s"))
    await client.call("ExecuteStateTransaction", runtime_pb2.ExecuteStateTransactionRequest(storeName="s"))
    assert not cluster.requests()


async def test_deletes_alone_and_in_bulk(client: Client) -> None:
    await client.call("SaveState", saving(item("a"), item("b"), item("c")))
    await client.call("DeleteState", runtime_pb2.DeleteStateRequest(store_name="s", key="a"))
    await client.call("DeleteState", runtime_pb2.DeleteStateRequest(store_name="s", key="a"))
    both = runtime_pb2.DeleteBulkStateRequest(store_name="s", states=[item("b"), item("missing")])
    await client.call("DeleteBulkState", both)
    bulk = await client.call("GetBulkState", runtime_pb2.GetBulkStateRequest(store_name="s", keys=["a", "b", "c"]))
    assert [each.data for each in bulk.items] == [b"", b"", b"1"]


def transaction(*steps: tuple[str, Item], store: str = "s") -> runtime_pb2.ExecuteStateTransactionRequest:
    operations = [runtime_pb2.TransactionalStateOperation(operationType=what, request=item) for what, item in steps]
    return runtime_pb2.ExecuteStateTransactionRequest(storeName=store, operations=operations)


async def test_a_transaction_on_one_key_is_done_at_once(client: Client, cluster: Any) -> None:
    steps = [("upsert", item("k", b"1")), ("delete", item("k")), ("upsert", item("k", b"2"))]
    await client.call("ExecuteStateTransaction", transaction(*steps))
    assert (await get(client, "k")).data == b"2"
    assert len(cluster.requests(m.MUTATE)) == 1


# -- the table of ETags


@pytest.mark.parametrize("empty", [None, ""])
async def test_a_first_write_without_an_etag_creates(client: Client, empty: str | None) -> None:
    await client.call("SaveState", saving(item("k", etag=empty, first=True)))
    lost = await client.refused("SaveState", saving(item("k", etag=empty, first=True)))
    assert (lost.code, lost.reason) == (grpc.StatusCode.ABORTED, "ERR_STATE_SAVE")
    assert "possible etag mismatch" in lost.message
    assert lost.facts["outcome"] == "not-applied"


async def test_an_etag_is_checked_whatever_the_concurrency_says(client: Client) -> None:
    await client.call("SaveState", saving(item("k")))
    etag = (await get(client, "k")).etag
    await client.call("SaveState", saving(item("k", b"2", etag)))
    for word in (Options.CONCURRENCY_UNSPECIFIED, Options.CONCURRENCY_FIRST_WRITE, Options.CONCURRENCY_LAST_WRITE):
        for wrong in (etag, "unparsable", "x" * 1000):
            save = item("k", b"3", wrong)
            save.options.concurrency = word
            assert (await client.refused("SaveState", saving(save))).code is grpc.StatusCode.ABORTED
            delete = runtime_pb2.DeleteStateRequest(store_name="s", key="k", options=Options(concurrency=word))
            delete.etag.value = wrong
            lost = await client.refused("DeleteState", delete)
            assert (lost.code, lost.reason) == (grpc.StatusCode.ABORTED, "ERR_STATE_DELETE")
    assert (await get(client, "k")).data == b"2"


async def test_an_etag_of_a_missing_key_is_a_mismatch(client: Client) -> None:
    lost = await client.refused("SaveState", saving(item("k", etag="x")))
    assert lost.code is grpc.StatusCode.ABORTED
    assert (await get(client, "k")).etag == ""


# -- the table of errors


@pytest.mark.parametrize(
    ("call", "request_"),
    [
        ("GetState", runtime_pb2.GetStateRequest(store_name="none", key="k")),
        ("GetBulkState", runtime_pb2.GetBulkStateRequest(store_name="none")),
        ("SaveState", saving(store="none")),
        ("DeleteState", runtime_pb2.DeleteStateRequest(store_name="none", key="k")),
        ("DeleteBulkState", runtime_pb2.DeleteBulkStateRequest(store_name="none")),
        ("ExecuteStateTransaction", runtime_pb2.ExecuteStateTransactionRequest(storeName="none")),
        ("QueryStateAlpha1", runtime_pb2.QueryStateRequest(store_name="none")),
    ],
)
async def test_an_unknown_store_and_no_store_at_all(gateway: Gateway, call: str, request_: Any) -> None:
    unknown = await (await gateway.start()).refused(call, request_)
    assert (unknown.code, unknown.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "DAPR_STATE_NOT_FOUND")
    assert unknown.message == "state store none is not found"
    none = await (await gateway.start(replace(SETTINGS, stores={}))).refused(call, request_)
    assert (none.code, none.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "DAPR_STATE_NOT_CONFIGURED")
    assert none.message == "state store none is not configured"


@pytest.mark.parametrize(
    ("call", "of_key"),
    [
        ("GetState", lambda key: runtime_pb2.GetStateRequest(store_name="s", key=key)),
        ("GetBulkState", lambda key: runtime_pb2.GetBulkStateRequest(store_name="s", keys=["k", key])),
        ("SaveState", lambda key: saving(item("k"), item(key))),
        ("DeleteState", lambda key: runtime_pb2.DeleteStateRequest(store_name="s", key=key)),
        ("DeleteBulkState", lambda key: runtime_pb2.DeleteBulkStateRequest(store_name="s", states=[item(key)])),
        ("ExecuteStateTransaction", lambda key: transaction(("upsert", item(key)))),
    ],
)
async def test_illegal_keys_are_refused_before_anything_is_asked(
    client: Client, cluster: Any, call: str, of_key: Callable[[str], Any]
) -> None:
    refused = await client.refused(call, of_key("a||b"))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "DAPR_STATE_ILLEGAL_KEY")
    assert "input key/keyPrefix 'a||b' can't contain '||'" in refused.message
    for key in ("", "k" * 1025, "ä" * 600):
        refused = await client.refused(call, of_key(key))
        assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "ERR_MALFORMED_REQUEST")
    assert not cluster.requests()


async def test_a_transaction_over_several_keys_is_not_supported(client: Client) -> None:
    refused = await client.refused("ExecuteStateTransaction", transaction(("upsert", item("a")), ("upsert", item("b"))))
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNIMPLEMENTED, "DAPR_STATE_TRANSACTIONS_NOT_SUPPORTED")
    assert refused.message.startswith("state store s doesn't support transactions")


async def test_too_many_operations_say_how_many_may_be(client: Client) -> None:
    refused = await client.refused("ExecuteStateTransaction", transaction(*[("upsert", item("a"))] * 129))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "DAPR_STATE_TOO_MANY_TRANSACTIONS")
    assert (refused.facts["currentOpsTransaction"], refused.facts["maxOpsPerTransaction"]) == ("129", "128")


async def test_an_unknown_operation_is_unimplemented(client: Client) -> None:
    refused = await client.refused("ExecuteStateTransaction", transaction(("UPSERT", item("a"))))
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNIMPLEMENTED, "ERR_NOT_SUPPORTED_STATE_OPERATION")


async def test_a_transaction_that_fails_is_internal_even_for_an_etag(client: Client) -> None:
    refused = await client.refused("ExecuteStateTransaction", transaction(("upsert", item("k", etag="x"))))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INTERNAL, "ERR_STATE_TRANSACTION")
    assert refused.message.startswith("error while executing state transaction: ")
    assert refused.facts["outcome"] == "not-applied"


async def test_queries_are_not_supported(client: Client) -> None:
    refused = await client.refused("QueryStateAlpha1", runtime_pb2.QueryStateRequest(store_name="s", query="{}"))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INTERNAL, "DAPR_STATE_QUERYING_NOT_SUPPORTED")
    assert refused.message == "state store does not support querying"


@pytest.mark.parametrize("seconds", ["-2", "x", "1.5", "2147483648"])
async def test_an_impossible_time_to_live_fails_the_save(client: Client, cluster: Any, seconds: str) -> None:
    refused = await client.refused("SaveState", saving(item("k", ttlInSeconds=seconds)))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INTERNAL, "ERR_STATE_SAVE")
    assert "incorrect value for metadata 'ttlInSeconds'" in refused.message
    assert not cluster.requests()


@pytest.mark.parametrize("field", ["concurrency", "consistency"])
async def test_a_number_or_word_that_means_nothing_is_refused_not_ignored(
    client: Client, cluster: Any, field: str
) -> None:
    numbered = item("k")
    setattr(numbered.options, field, 7)
    for wrong in (numbered, item("k", **{field: "sometimes"})):
        refused = await client.refused("SaveState", saving(wrong))
        assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "ERR_MALFORMED_REQUEST")
        assert field in refused.message
        delete = runtime_pb2.DeleteBulkStateRequest(store_name="s", states=[wrong])
        assert (await client.refused("DeleteBulkState", delete)).code is grpc.StatusCode.INVALID_ARGUMENT
    read = runtime_pb2.GetStateRequest(store_name="s", key="k", consistency=7)  # type: ignore[arg-type]
    assert (await client.refused("GetState", read)).code is grpc.StatusCode.INVALID_ARGUMENT
    assert not cluster.requests()


@pytest.mark.parametrize(
    ("call", "request_", "reason"),
    [
        ("GetState", runtime_pb2.GetStateRequest(store_name="s", key="k"), "ERR_STATE_GET"),
        ("SaveState", saving(item("k")), "ERR_STATE_SAVE"),
        ("DeleteState", runtime_pb2.DeleteStateRequest(store_name="s", key="k"), "ERR_STATE_DELETE"),
        (
            "DeleteBulkState",
            runtime_pb2.DeleteBulkStateRequest(store_name="s", states=[item("k"), item("l")]),
            "ERR_STATE_BULK_DELETE",
        ),
        ("ExecuteStateTransaction", transaction(("upsert", item("k"))), "ERR_STATE_TRANSACTION"),
    ],
)
async def test_without_a_quorum_a_call_is_unavailable_and_not_applied(
    client: Client, cluster: Any, call: str, request_: Any, reason: str
) -> None:
    cluster.everywhere(lambda message: cluster.nodes[0].failed(message, "quorum-unreachable"))
    refused = await client.refused(call, request_)
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, reason)
    assert refused.facts["outcome"] == "not-applied"


async def test_a_write_whose_answer_is_lost_is_unknown(client: Client, cluster: Any) -> None:
    cluster.everywhere(lambda message: cluster.nodes[0].DROP if message[0] == m.WRITE else None)
    for call, request in (
        ("SaveState", saving(item("k"))),
        ("DeleteState", runtime_pb2.DeleteStateRequest(store_name="s", key="k")),
    ):
        refused = await client.refused(call, request)
        assert refused.code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert refused.facts["outcome"] == "unknown"


async def test_an_overloaded_cluster_says_when_to_come_again(client: Client, cluster: Any) -> None:
    cluster.everywhere(lambda message: cluster.nodes[0].failed(message, "overloaded"))
    refused = await client.refused("SaveState", saving(item("k")))
    assert refused.code is grpc.StatusCode.UNAVAILABLE
    assert refused.trailers["grpc-retry-pushback-ms"] == "1000"


async def test_the_callers_deadline_is_the_clusters(client: Client, cluster: Any) -> None:
    cluster.everywhere(lambda message: cluster.nodes[0].HOLD)
    refused = await client.refused("GetState", runtime_pb2.GetStateRequest(store_name="s", key="k"), timeout=1)
    assert cluster.requests(m.GET)[0][5] < 1000
    assert refused.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    assert refused.facts["outcome"] == "not-applied"  # the gateway's words, not the channel's: it was in time
    cluster.everywhere(None)
    await get(client, "k")
    assert cluster.requests(m.GET)[-1][5] > 10_000
    no_deadline = runtime_pb2.GetStateRequest(store_name="s", key="k")
    await client.call("GetState", no_deadline, timeout=None)
    assert cluster.requests(m.GET)[-1][5] == 5000
    await client.call("GetState", no_deadline, timeout=100_000)
    assert cluster.requests(m.GET)[-1][5] == 3_600_000


# -- bulk calls whose items end differently


async def test_a_bulk_save_that_partly_failed_names_what_failed(client: Client) -> None:
    await client.call("SaveState", saving(item("there")))
    refused = await client.refused("SaveState", saving(item("a"), item("there", first=True), item("b")))
    assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "ERR_STATE_SAVE")
    assert refused.facts["outcome"] == "partial"
    assert json.loads(refused.facts["failed"]) == {"not-applied": [1]}
    assert refused.facts["failures"] == "1"
    assert "there" in refused.message
    bulk = await client.call("GetBulkState", runtime_pb2.GetBulkStateRequest(store_name="s", keys=["a", "b"]))
    assert [each.data for each in bulk.items] == [b"1", b"1"]


async def test_a_refusal_of_long_keys_fits_into_what_clients_accept(client: Client) -> None:
    keys = [f"{number:04}{'€' * 340}" for number in range(50)]
    await client.call("SaveState", saving(*(item(key) for key in keys)))
    refused = await client.refused("SaveState", saving(*(item(key, first=True) for key in keys)))
    assert refused.code is grpc.StatusCode.ABORTED
    assert refused.facts["failures"] == "50"
    assert json.loads(refused.facts["failed"]) == {"not-applied": list(range(50))}
    lone = await client.refused("SaveState", saving(item(keys[0], first=True)))
    assert lone.facts["outcome"] == "not-applied"
    assert (await client.refused("GetState", runtime_pb2.GetStateRequest(store_name="€" * 30_000))).info is not None


# -- who is let in


async def test_without_the_token_nothing_is_answered(gateway: Gateway, cluster: Any) -> None:
    client = await gateway.start(replace(SETTINGS, token="sesam"))
    for caller in (client, client.using(dapr_api_token=""), client.using(dapr_api_token="Sesam")):
        for call in ("GetState", "GetMetadata", "Shutdown"):
            refused = await caller.refused(call)
            assert (refused.code, refused.message) == (grpc.StatusCode.UNAUTHENTICATED, "invalid api token")
            assert refused.info is not None
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await caller.raw(f"/{runtime.SERVICE}/InvokeService", b"")
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert not cluster.requests()
    await get(client.using(dapr_api_token="sesam"), "k")


async def test_other_calls_of_dapr_are_unimplemented_and_say_why(client: Client) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.raw(f"/{runtime.SERVICE}/PublishEvent", b"")
    refused = Refusal(caught.value)
    assert refused.code is grpc.StatusCode.UNIMPLEMENTED
    assert "PublishEvent" in refused.message
    stream = client.channel.stream_stream(f"/{runtime.SERVICE}/SubscribeTopicEventsAlpha1")()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream.read()
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.raw("/dapr.proto.runtime.v1.Other/Call", b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("raw", [b"\xff", b"\x0a\x05ab", b"\x0a\x02\xff\xfe", b"\x12\x02\xc3\x28"])
async def test_bytes_that_are_no_message_are_refused(client: Client, cluster: Any, raw: bytes) -> None:
    refused = await client.refused("GetState", raw)
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "ERR_MALFORMED_REQUEST")
    assert not cluster.requests()


async def test_a_message_that_is_too_large_is_refused_and_not_applied(client: Client, cluster: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.call("SaveState", saving(item("k", bytes(100_001))))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert not cluster.requests()
    assert not (await get(client, "k")).etag


@pytest.mark.parametrize("bounds", [Bounds(requests_in_flight_max=1), Bounds(bodies_bytes_max=100)])
async def test_beyond_its_bounds_the_gateway_refuses_at_once(gateway: Gateway, cluster: Any, bounds: Bounds) -> None:
    client = await gateway.start(replace(SETTINGS, bounds=bounds))
    cluster.everywhere(lambda message: cluster.nodes[0].HOLD if message[0] == m.WRITE else None)
    async with asyncio.TaskGroup() as group:
        held = group.create_task(client.call("SaveState", saving(item("k", bytes(60)))))
        while not cluster.requests(m.WRITE):
            await asyncio.sleep(0)
        refused = await (await gateway.connect()).refused("SaveState", saving(item("l", bytes(60))))
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "ERR_STATE_SAVE")
        assert refused.facts["outcome"] == "not-applied"
        cluster.everywhere(None)
        for node in cluster.nodes:
            node.release()
        await held
    await client.call("SaveState", saving(item("l", bytes(60))))
    assert len(cluster.requests(m.WRITE)) == 2


async def test_a_defect_is_logged_and_its_outcome_unknown(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*arguments: Any, **options: Any) -> Any:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(runtime.messages, "save_of", broken)
    refused = await client.refused("SaveState", saving(item("k")))
    assert (refused.code, refused.facts["outcome"]) == (grpc.StatusCode.INTERNAL, "unknown")
    assert "a defect" in caplog.text
    assert "a defect" not in refused.message


# -- about the gateway


async def test_before_the_cluster_is_reached_a_call_is_unavailable_and_not_applied(gateway: Gateway) -> None:
    client = await gateway.start(begun=False)
    for call in ("GetState", "SaveState", "DeleteState", "GetBulkState", "DeleteBulkState", "ExecuteStateTransaction"):
        refused = await client.refused(call)
        assert (refused.code, refused.facts["outcome"]) == (grpc.StatusCode.UNAVAILABLE, "not-applied")
    assert (await client.call("GetMetadata")).id == "app"


async def test_an_address_in_use_is_refused_not_shared(gateway: Gateway) -> None:
    await gateway.start()
    port = int(gateway.address.rpartition(":")[2])
    with pytest.raises(AddressError, match=f"cannot listen on 127.0.0.1:{port}: another process does"):
        await gateway.start(replace(SETTINGS, grpc_port=port))


async def test_the_gateway_says_what_it_serves(client: Client) -> None:
    await client.call("SetMetadata", runtime_pb2.SetMetadataRequest(key="team", value="blue"))
    told = await client.call("GetMetadata")
    assert told.id == "app"
    assert told.runtime_version
    assert told.extended_metadata["team"] == "blue"
    assert {(each.name, each.type, tuple(each.capabilities)) for each in told.registered_components} == {
        ("s", "state.kvnode", ("ETAG", "TTL")), ("app", "state.kvnode", ("ETAG", "TTL")),
    }  # fmt: skip
    assert told.actor_runtime.runtime_status == runtime_pb2.ActorRuntime.DISABLED


async def test_facts_are_bounded(client: Client) -> None:
    refused = await client.refused("SetMetadata", runtime_pb2.SetMetadataRequest(key="k", value="x" * 10_000))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "ERR_MALFORMED_REQUEST")


async def test_a_request_stops_the_gateway_only_where_that_is_allowed(gateway: Gateway) -> None:
    refused = await (await gateway.start()).refused("Shutdown")
    assert refused.code is grpc.StatusCode.PERMISSION_DENIED
    assert refused.info is not None
    assert gateway.stops == 0
    await (await gateway.start(replace(SETTINGS, allow_shutdown=True))).call("Shutdown")
    assert gateway.stops == 1


def test_every_refusal_fits_into_eight_kibibytes_of_trailers() -> None:
    facts = {"failed": "x" * rpc.TEXT_BYTES_MAX, "outcome": "partial", "failures": "1000"}
    fault = rpc.Fault(grpc.StatusCode.ABORTED, rpc.cut("€" * 5000), rpc.error_info("ERR_STATE_SAVE", facts))
    percent_encoded = 3 * len(fault.message.encode())
    in_base64 = 4 * len(fault.trailers()[0][1]) // 3
    assert percent_encoded + in_base64 < 7 * 1024


def test_failed_items_are_told_as_far_as_there_is_room() -> None:
    items = [errors.ItemOutcome("k", "unknown" if number % 2 else "not applied", None) for number in range(10_000)]
    facts = rpc.facts_of(errors.StateError(errors.Kind.UNKNOWN, "x", outcome="unknown", items=items))
    assert len(facts["failed"]) <= rpc.TEXT_BYTES_MAX
    told = json.loads(facts["failed"])
    assert told["not-applied"][:3] == [0, 2, 4]
    assert told["unknown"][:3] == [1, 3, 5]
    assert facts["failures"] == "10000"


def test_a_text_is_cut_between_characters() -> None:
    assert rpc.cut("short") == "short"
    cut = rpc.cut("€" * 1000)
    assert len(cut.encode()) <= rpc.TEXT_BYTES_MAX
    assert cut.endswith("€…")


async def test_a_large_answer_counts_until_it_is_read_and_is_refused_where_there_is_no_room(gateway: Gateway) -> None:
    bounds = Bounds(bodies_bytes_max=150_000)
    settings = replace(SETTINGS, bounds=bounds)
    admission = Admission(bounds)
    client = await gateway.start(settings, admission=admission)
    await client.call("SaveState", saving(item("k", bytes(100_000))))
    await get(client, "k")
    while admission.bytes_held:  # let go when the call has ended here too
        await asyncio.sleep(0)
    two = runtime_pb2.GetBulkStateRequest(store_name="s", keys=["k", "k"])
    refused = await client.refused("GetBulkState", two)
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "ERR_STATE_BULK_GET")
    assert admission.bytes_held == 0
    await get(client, "k")


async def test_a_bulk_get_of_more_than_there_is_room_for_is_refused_and_holds_nothing(
    gateway: Gateway, kv: kvclient.Kv
) -> None:
    settings = replace(SETTINGS, bounds=Bounds(bodies_bytes_max=1_000_000))
    admission = Admission(settings.bounds)
    client = await gateway.start(settings, admission=admission)
    await kv.store("users").put("k", b"x" * 100_000)

    async def get_bulk(copies: int) -> Any:
        return await client.call("GetBulkState", runtime_pb2.GetBulkStateRequest(store_name="s", keys=["k"] * copies))

    assert len((await get_bulk(9)).items) == 9
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await get_bulk(11)
    refusal = Refusal(caught.value)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "ERR_STATE_BULK_GET")
    assert refusal.facts["outcome"] == "not-applied"
    async with asyncio.timeout(10):
        while admission.bytes_held or admission.calls:
            await asyncio.sleep(0.01)


async def test_a_call_with_too_many_items_is_refused_before_they_are_looked_at(client: Client, cluster: Any) -> None:
    for name, request in (
        ("SaveState", saving(*[item("k", b"")] * 16_385)),
        ("DeleteBulkState", runtime_pb2.DeleteBulkStateRequest(store_name="s", states=[item("k", b"")] * 16_385)),
        ("GetBulkState", runtime_pb2.GetBulkStateRequest(store_name="s", keys=["k"] * 16_385)),
    ):
        refusal = await client.refused(name, request)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "ERR_MALFORMED_REQUEST")
    assert cluster.requests(m.GET, m.WRITE, m.MUTATE) == []
