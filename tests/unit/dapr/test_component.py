"""The component at its Unix socket, driven as a sidecar drives it, on a scripted cluster."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pb2
from grpc_client import Client, Refusal
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import kvclient
from kvclient import ConfigError
from kvclient.wire import messages as m
from kvnode.dapr import component
from kvnode.dapr.instances import Instances
from kvnode.dapr.protos import components_pb2
from kvnode.dapr.protos.components_pb2 import BulkSetRequest, DeleteRequest, GetRequest, SetRequest, StateOptions
from kvnode.dapr.settings import ComponentSettings


class Process:
    """What a component's process has: its settings and where it listens."""

    def __init__(self, cluster: Any, directory: Path) -> None:
        self.settings = ComponentSettings(
            seeds=tuple(node.address for node in cluster.nodes),
            cluster="test",
            directory=directory / "state",
            socket=directory / "sockets" / "kvnode.sock",
        )

    @property
    def path(self) -> Path:
        assert self.settings.socket is not None
        return self.settings.socket

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Client]:
        """Run it and connect to it; gives a client of the instance "statestore"."""
        stopped, announced = asyncio.Event(), asyncio.Event()
        serving = asyncio.ensure_future(component.serve(self.settings, stopped, lambda path: announced.set()))
        serving.add_done_callback(lambda _: announced.set())
        await announced.wait()
        if serving.done():
            await serving
        try:
            async with self.connected() as client:
                yield client
        finally:
            stopped.set()
            await serving

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Client]:
        async with grpc.aio.insecure_channel(f"unix:{self.path}") as channel:
            yield Client(channel, component.STATE_STORE).using(x_component_instance="statestore")


@pytest.fixture
def process(cluster: Any, tmp_path: Path) -> Process:
    return Process(cluster, tmp_path)


@pytest.fixture
async def client(process: Process) -> AsyncIterator[Client]:
    async with process.running() as made:
        await init(made, store="users")
        yield made


async def init(client: Client, **properties: str) -> None:
    metadata = components_pb2.MetadataRequest(properties=properties)
    await client.call("Init", components_pb2.InitRequest(metadata=metadata))


async def refused_init(client: Client, properties: Mapping[str, str], timeout: float = 20) -> Refusal:
    metadata = components_pb2.MetadataRequest(properties=dict(properties))
    return await client.refused("Init", components_pb2.InitRequest(metadata=metadata), timeout)


def setting(key: str, value: bytes = b"1", etag: str | None = None, first: bool = False, **more: Any) -> SetRequest:
    made = SetRequest(key=key, value=value, **more)
    if etag is not None:
        made.etag.value = etag
    if first:
        made.options.concurrency = StateOptions.CONCURRENCY_FIRST_WRITE
    return made


async def get(client: Client, key: str, **fields: Any) -> components_pb2.GetResponse:
    answer: components_pb2.GetResponse = await client.call("Get", GetRequest(key=key, **fields))
    return answer


# -- being found


async def test_reflection_names_the_state_store_and_no_transactions(client: Client) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(client.channel)  # v1alpha, which sidecars ask for
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=component.STATE_STORE),
    ]
    listed, file = [answer async for answer in stub.ServerReflectionInfo(iter(asked))]
    names = {service.name for service in listed.list_services_response.service}
    assert {component.STATE_STORE, component.MULTI_MAX_SIZE} <= names
    assert "dapr.proto.components.v1.TransactionalStateStore" not in names
    described = descriptor_pb2.FileDescriptorProto.FromString(file.file_descriptor_response.file_descriptor_proto[0])
    assert described.package == "dapr.proto.components.v1"


async def test_features_say_what_is_kept_and_transactions_are_not_among_them(client: Client) -> None:
    assert list((await client.call("Features")).features) == ["ETAG", "TTL"]
    await client.call("Ping")
    sizes = Client(client.channel, component.MULTI_MAX_SIZE, client.metadata)
    assert (await sizes.call("MultiMaxSize")).max_size == 128
    transactions = Client(client.channel, "dapr.proto.components.v1.TransactionalStateStore", client.metadata)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await transactions.call("Transact")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_socket_appears_open_to_its_group_and_goes_with_the_component(process: Process) -> None:
    async with process.running():
        assert stat.S_IMODE(process.path.lstat().st_mode) == 0o660
        assert [file.name for file in process.path.parent.iterdir()] == ["kvnode.sock"]
    assert not list(process.path.parent.iterdir())


async def test_a_socket_left_over_is_replaced(process: Process) -> None:
    process.path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(process.path))
    async with process.running() as client:
        await client.call("Ping")


async def test_a_socket_that_somebody_listens_at_is_left_alone(process: Process) -> None:
    process.path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(process.path))
        other.listen()
        with pytest.raises(ConfigError, match="another process listens"):
            async with process.running():
                pass
        assert process.path.exists()


async def test_a_file_that_is_no_socket_is_left_alone(process: Process) -> None:
    process.path.parent.mkdir()
    process.path.write_text("precious")
    with pytest.raises(ConfigError, match="no socket"):
        async with process.running():
            pass
    assert process.path.read_text() == "precious"


async def test_a_path_that_fits_into_no_address_is_refused(cluster: Any, tmp_path: Path) -> None:
    process = Process(cluster, tmp_path / ("x" * 100))
    with pytest.raises(ConfigError, match="104 bytes"):
        async with process.running():
            pass


async def test_the_component_takes_only_its_own_socket_away(process: Process) -> None:
    with socket.socket(socket.AF_UNIX) as successor:
        async with process.running():
            process.path.unlink()
            successor.bind(str(process.path))
        assert process.path.exists()


# -- instances


async def test_each_instance_has_the_properties_of_its_own_init(
    process: Process, cluster: Any, kv: kvclient.Kv
) -> None:
    async with process.running() as first:
        second = first.using(x_component_instance="sessions")
        await init(first, store="users", consistency="strong", keyPrefix="name")
        await init(second, TTLINSECONDS="60")
        await first.call("Set", setting("app||k", b"1"))
        await second.call("Set", setting("app||k", b"2"))
    assert [(await kv.store(name).get("app||k")).value for name in ("users", "sessions")] == [b"1", b"2"]
    assert len(cluster.requests(m.MUTATE)) == 1
    assert cluster.requests(m.WRITE)[-1][6] == 60_000


async def test_an_instance_without_an_init_is_not_configured(process: Process, cluster: Any) -> None:
    async with process.running() as client:
        for caller in (client, Client(client.channel, component.STATE_STORE)):
            for call in ("Get", "Set", "Delete", "BulkGet", "BulkSet", "BulkDelete"):
                refused = await caller.refused(call)
                assert (refused.code, refused.reason) == (
                    grpc.StatusCode.FAILED_PRECONDITION,
                    "DAPR_STATE_NOT_CONFIGURED",
                )
                assert refused.facts["http_code"] == "500"
    assert not cluster.requests()


async def test_a_restarted_component_knows_its_instances_without_a_second_init(process: Process) -> None:
    async with process.running() as client:
        await init(client, store="users", ttlInSeconds="60", primaryEncryptionKey="secret")
        await client.call("Set", setting("k", b"1"))
    assert "secret" not in (process.settings.directory / "instances.json").read_text()
    async with process.running() as client:
        found = await get(client, "k")
        assert (found.data, "ttlExpireTime" in found.metadata) == (b"1", True)
        await init(client, store="others")
        assert (await get(client, "k")).data == b""
    async with process.running() as client:
        assert (await get(client, "k")).data == b""


@pytest.mark.parametrize(
    ("properties", "text"),
    [
        ({"consitency": "strong"}, "did you mean consistency?"),
        ({"redisHost": "x"}, "unknown name 'redisHost'"),
        ({"consistency": "sometimes"}, "consistency must be"),
        ({"ttlInSeconds": "-2"}, "'ttlInSeconds': it must be"),
        ({"ttlInSeconds": "soon"}, "'ttlInSeconds': it must be"),
        ({"store": "a\0b"}, "NUL"),
        ({"store": "x" * 200}, "128 bytes"),
        ({"store": "x" * 2000}, "1024 characters"),
    ],
)
async def test_an_init_that_cannot_be_obeyed_is_refused_and_changes_nothing(
    process: Process, client: Client, properties: Mapping[str, str], text: str
) -> None:
    before = (process.settings.directory / "instances.json").read_bytes()
    refused = await refused_init(client, properties)
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "ERR_MALFORMED_REQUEST")
    assert text in refused.message
    assert refused.facts["kit_error"] == "true"
    await client.call("Set", setting("k"))
    assert (process.settings.directory / "instances.json").read_bytes() == before


async def test_instances_are_bounded(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvnode.dapr.instances.INSTANCES_MAX", 2)
    async with process.running() as client:
        await init(client)
        await init(client.using(x_component_instance="b"))
        assert "2 instances" in (await refused_init(client.using(x_component_instance="c"), {})).message
        await init(client, store="users")


async def test_an_init_that_is_given_up_is_served_as_it_is_kept(
    process: Process, kv: kvclient.Kv, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, begun, may_end = Instances.keep, threading.Event(), threading.Event()

    def slow(instances: Instances, instance: str, used: Mapping[str, str]) -> None:
        begun.set()
        assert may_end.wait(10)
        keep(instances, instance, used)

    async with process.running() as client:
        orders = client.using(x_component_instance="orders")
        await init(orders, store="old")
        monkeypatch.setattr(Instances, "keep", slow)
        giving_up = asyncio.ensure_future(init(orders, store="new"))
        assert await asyncio.to_thread(begun.wait, 10)
        giving_up.cancel()
        other = asyncio.ensure_future(init(client.using(x_component_instance="other"), store="new"))
        await asyncio.sleep(0.1)
        may_end.set()
        await other
        await orders.call("Set", setting("k"))
    kept = json.loads((process.settings.directory / "instances.json").read_text())["instances"]
    assert kept == {"orders": {"store": "new"}, "other": {"store": "new"}}
    assert await kv.store("new").get("k") is not None


async def test_what_cannot_be_written_is_refused_and_the_old_file_stays(
    process: Process, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    before = (process.settings.directory / "instances.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("kvnode.dapr.instances.os.fsync", full)
        refused = await refused_init(client, {"store": "others"})
    assert refused.code is grpc.StatusCode.INTERNAL
    assert "No space left" in refused.message
    assert [path.name for path in process.settings.directory.glob("instances.json*")] == ["instances.json"]
    assert (process.settings.directory / "instances.json").read_bytes() == before


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2}', '{"format": 1, "instances": {"a": {"b": "c"}}}'])
async def test_a_file_that_cannot_be_read_is_an_error_at_the_start(process: Process, text: str) -> None:
    process.settings.directory.mkdir()
    (process.settings.directory / "instances.json").write_text(text)
    with pytest.raises(ConfigError):
        async with process.running():
            pass
    assert not process.path.exists()


async def test_a_directory_belongs_to_one_component(process: Process, cluster: Any, tmp_path: Path) -> None:
    other = Process(cluster, tmp_path)
    other.settings = ComponentSettings(
        process.settings.seeds, "test", process.settings.directory, tmp_path / "sockets" / "other.sock"
    )
    async with process.running():
        with pytest.raises(ConfigError, match="in use by another component"):
            async with other.running():
                pass
    async with other.running():
        pass


# -- what works


async def test_what_was_set_is_read_with_its_etag_and_an_absent_key_is_empty(client: Client) -> None:
    await client.call("Set", setting("app||k", b"\x00\xff"))
    found = await get(client, "app||k")
    assert (found.data, bool(found.etag.value), dict(found.metadata)) == (b"\x00\xff", True, {})
    absent = await get(client, "app||none")
    assert (absent.data, absent.HasField("etag")) == (b"", False)


@pytest.mark.parametrize(
    "how", [{"content_type": "application/json"}, {"metadata": {"contentType": "application/json"}}]
)
async def test_json_is_stored_as_json(client: Client, kv: kvclient.Kv, how: Any) -> None:
    await client.call("Set", setting("k", b'{"a": 1.0}', **how))
    stored = await kv.store("users").get("k")
    assert stored is not None
    assert stored.text == '{"a": 1.0}'
    assert (await get(client, "k")).content_type == "application/json"


async def test_a_key_with_prefixes_of_actors_is_a_key(client: Client) -> None:
    await client.call("Set", setting("app||actor||1||state", b"7"))
    assert (await get(client, "app||actor||1||state")).data == b"7"


async def test_what_actors_ask_is_strong_unless_they_say_otherwise(client: Client, cluster: Any) -> None:
    partition = {"partitionKey": "app||actor||1"}
    await get(client, "k", metadata=partition)
    assert cluster.requests(m.GET)[-1][3] == 1
    await get(client, "k", metadata=partition, consistency=StateOptions.CONSISTENCY_EVENTUAL)
    assert cluster.requests(m.GET)[-1][3] == 0
    await client.call("Set", setting("k", metadata=partition))
    await client.call("Delete", DeleteRequest(key="k", metadata=partition))
    assert len(cluster.requests(m.MUTATE)) == 2
    bulk = components_pb2.BulkGetRequest(items=[GetRequest(key="a", metadata=partition), GetRequest(key="b")])
    await client.call("BulkGet", bulk)
    asked = {request[2].partition(b"\0")[2]: request[3] for request in cluster.requests(m.GET)}
    assert (asked[b"a"], asked[b"b"]) == (1, 0)


async def test_a_bulk_get_answers_each_key_in_the_order_of_the_request(client: Client, cluster: Any) -> None:
    await client.call("BulkSet", BulkSetRequest(items=[setting("a", b"1"), setting("b", b"2"), setting("c", b"3")]))

    def rule(message: list[Any]) -> Any:
        is_b = message[0] == m.GET and message[2].endswith(b"\0b")
        return cluster.nodes[0].failed(message, "quorum-unreachable") if is_b else None

    cluster.everywhere(rule)
    strong = StateOptions.CONSISTENCY_STRONG
    items = [GetRequest(key=key) for key in ("c", "none", "b", "a")] + [GetRequest(key="c", consistency=strong)]
    found = (await client.call("BulkGet", components_pb2.BulkGetRequest(items=items))).items
    assert [(item.key, item.data) for item in found] == [
        ("c", b"3"), ("none", b""), ("b", b""), ("a", b"1"), ("c", b"3"),
    ]  # fmt: skip
    assert [bool(item.error) for item in found] == [False, False, True, False, False]
    assert [item.HasField("etag") for item in found] == [True, False, False, True, True]


async def test_nothing_to_do_in_bulk_is_no_failure(client: Client) -> None:
    for call in ("BulkGet", "BulkSet", "BulkDelete"):
        await client.call(call)


# -- the table of errors: what a sidecar makes of it


def assert_etag(refused: Refusal, code: grpc.StatusCode) -> None:
    assert refused.code is code
    assert refused.request is not None
    [violation] = refused.request.field_violations
    assert violation.field == "etag"
    assert violation.description


def assert_kit_of(refused: Refusal, code: grpc.StatusCode, http_code: int) -> None:
    assert_kit(refused, code, http_code, refused.facts["tag"])


def assert_kit(refused: Refusal, code: grpc.StatusCode, http_code: int, tag: str) -> None:
    assert refused.code is code
    assert (refused.facts["kit_error"], refused.facts["http_code"], refused.facts["tag"]) == (
        "true", str(http_code), tag,
    )  # fmt: skip
    assert refused.info is not None
    assert refused.info.domain == "dapr.io"


async def test_a_mismatch_is_told_by_the_field_etag(client: Client) -> None:
    await client.call("Set", setting("k", first=True))
    assert_etag(await client.refused("Set", setting("k", first=True)), grpc.StatusCode.FAILED_PRECONDITION)
    assert_etag(await client.refused("Set", setting("k", etag="", first=True)), grpc.StatusCode.FAILED_PRECONDITION)
    assert_etag(await client.refused("Set", setting("k", etag="x")), grpc.StatusCode.FAILED_PRECONDITION)
    assert_etag(
        await client.refused("BulkSet", BulkSetRequest(items=[setting("a"), setting("k", etag="x")])),
        grpc.StatusCode.FAILED_PRECONDITION,
    )
    delete = DeleteRequest(key="k")
    delete.etag.value = "x"
    assert_etag(await client.refused("Delete", delete), grpc.StatusCode.FAILED_PRECONDITION)
    bulk = components_pb2.BulkDeleteRequest(items=[DeleteRequest(key="other"), delete])
    assert_etag(await client.refused("BulkDelete", bulk), grpc.StatusCode.FAILED_PRECONDITION)
    assert (await get(client, "k")).data == b"1"


def test_an_invalid_etag_would_be_told_by_the_field_too() -> None:
    from kvnode.dapr import errors

    error = errors.of_kind(errors.Kind.ETAG_INVALID, errors.Call.SAVE, "s", "k", "not an ETag")
    fault = component.fault_of(error)
    assert fault.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in fault.detail.field_violations] == ["etag"]  # type: ignore[attr-defined]


async def test_without_a_quorum_a_call_is_503_and_not_applied(client: Client, cluster: Any) -> None:
    cluster.everywhere(lambda message: cluster.nodes[0].failed(message, "quorum-unreachable"))
    for call, request, tag in (
        ("Get", GetRequest(key="k"), "ERR_STATE_GET"),
        ("Set", setting("k"), "ERR_STATE_SAVE"),
        ("Delete", DeleteRequest(key="k"), "ERR_STATE_DELETE"),
        ("BulkSet", BulkSetRequest(items=[setting("a"), setting("b")]), "ERR_STATE_SAVE"),
        ("BulkDelete", components_pb2.BulkDeleteRequest(items=[DeleteRequest(key="a")] * 2), "ERR_STATE_BULK_DELETE"),
    ):
        refused = await client.refused(call, request)
        assert_kit(refused, grpc.StatusCode.UNAVAILABLE, 503, tag)
        assert refused.facts["outcome"] == "not-applied"


async def test_the_words_of_the_api_are_left_to_the_sidecar_which_puts_its_own(client: Client, cluster: Any) -> None:
    await client.call("Set", setting("k"))
    said = [
        await client.refused("Set", setting("k", etag="x")),
        await client.refused("Set", setting("k", metadata={"ttlInSeconds": "-5"})),
        await client.refused("Delete", DeleteRequest(key="k", etag=components_pb2.Etag(value="x"))),
    ]
    cluster.everywhere(lambda message: cluster.nodes[0].failed(message, "quorum-unreachable"))
    said.append(await client.refused("Get", GetRequest(key="k")))
    for refused in said:
        assert "fail to" not in refused.message
        assert "failed" not in refused.message
        assert "error from state store" not in refused.message


async def test_a_write_whose_answer_is_lost_is_504_and_unknown(client: Client, cluster: Any) -> None:
    cluster.everywhere(lambda message: cluster.nodes[0].DROP if message[0] == m.WRITE else None)
    refused = await client.refused("Set", setting("k"))
    assert_kit(refused, grpc.StatusCode.DEADLINE_EXCEEDED, 504, "ERR_STATE_SAVE")
    assert refused.facts["outcome"] == "unknown"


async def test_other_failures_keep_their_status_for_the_caller(client: Client, cluster: Any) -> None:
    bad_json = setting("k", b"{", content_type="application/json")
    assert_kit(await client.refused("Set", bad_json), grpc.StatusCode.INVALID_ARGUMENT, 400, "ERR_MALFORMED_REQUEST")
    bad_ttl = setting("k", metadata={"ttlInSeconds": "-5"})
    assert_kit(await client.refused("Set", bad_ttl), grpc.StatusCode.INTERNAL, 500, "ERR_STATE_SAVE")
    numbered = setting("k")
    numbered.options.concurrency = 9  # type: ignore[assignment]
    assert_kit(await client.refused("Set", numbered), grpc.StatusCode.INVALID_ARGUMENT, 400, "ERR_MALFORMED_REQUEST")
    assert_kit(await client.refused("Set", b"\xff"), grpc.StatusCode.INVALID_ARGUMENT, 400, "ERR_MALFORMED_REQUEST")
    assert not cluster.requests()


async def test_a_bulk_set_is_not_all_or_nothing(client: Client) -> None:
    await client.call("Set", setting("there", b"old"))
    items = [setting("a"), setting("there", b"new", first=True), setting("b")]
    refused = await client.refused("BulkSet", BulkSetRequest(items=items))
    assert_etag(refused, grpc.StatusCode.FAILED_PRECONDITION)
    assert refused.message.startswith("there: 'there' ")
    assert [(await get(client, key)).data for key in ("a", "there", "b")] == [b"1", b"old", b"1"]


async def test_a_malformed_item_refuses_a_bulk_set_before_anything_is_written(client: Client, cluster: Any) -> None:
    for wrong in (setting(""), setting("k", metadata={"ttlInSeconds": "x"}), setting("k" * 1025)):
        await client.refused("BulkSet", BulkSetRequest(items=[setting("a"), wrong]))
    assert not cluster.requests()


async def test_calls_under_way_end_when_the_component_stops(process: Process, cluster: Any) -> None:
    cluster.everywhere(lambda message: cluster.nodes[0].HOLD if message[0] == m.WRITE else None)
    async with process.connected() as client:
        async with process.running():
            await init(client)
            held = asyncio.ensure_future(client.call("Set", setting("k")))
            while not cluster.requests(m.WRITE):
                await asyncio.sleep(0)
            asyncio.get_running_loop().call_later(0.2, lambda: [node.release() for node in cluster.nodes])
        await held


async def test_before_the_cluster_is_reached_an_init_waits_and_other_calls_are_not_applied(
    process: Process, cluster: Any
) -> None:
    for node in cluster.nodes:
        await node.stop()
    stopped = asyncio.Event()
    serving = asyncio.ensure_future(component.serve(process.settings, stopped, lambda path: None))
    while not process.path.exists():
        await asyncio.sleep(0)
    async with process.connected() as client:
        await client.call("Ping")
        for call in ("Get", "Set", "Delete", "BulkGet", "BulkSet", "BulkDelete"):
            assert_kit_of(await client.refused(call), grpc.StatusCode.UNAVAILABLE, 503)
        early = await refused_init(client, {}, timeout=0.5)
        assert_kit_of(early, grpc.StatusCode.UNAVAILABLE, 503)
        waiting = asyncio.ensure_future(init(client, store="users"))
        await cluster.start()
        await waiting
        await client.call("Set", setting("k"))
    stopped.set()
    await serving


async def test_a_component_stops_although_it_never_reached_its_cluster(process: Process, cluster: Any) -> None:
    for node in cluster.nodes:
        await node.stop()
    stopped = asyncio.Event()
    serving = asyncio.ensure_future(component.serve(process.settings, stopped, lambda path: None))
    while not process.path.exists():
        await asyncio.sleep(0)
    stopped.set()
    await serving
    assert not process.path.exists()


def test_the_socket_lies_where_sidecars_look() -> None:
    from kvnode.dapr import sockets

    assert sockets.default_path({}) == Path("/tmp/dapr-components-sockets/kvnode.sock")
    assert sockets.default_path({sockets.FOLDER_NAME: "/run/x"}) == Path("/run/x/kvnode.sock")
