"""The component as its own process on a real cluster, driven over its socket as a sidecar drives it."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from gateways import run_process
from grpc_client import Client
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from processes import RealCluster, run_cluster

import kvclient
from kvnode.dapr.protos import components_pb2
from kvnode.dapr.protos.components_pb2 import BulkSetRequest, DeleteRequest, GetRequest, SetRequest, StateOptions
from kvnode.dapr.settings import ComponentSettings

SERVICE = "dapr.proto.components.v1.StateStore"
FIRST_WRITE = StateOptions(concurrency=StateOptions.CONCURRENCY_FIRST_WRITE)


def settings_of(cluster: RealCluster, directory: Path) -> ComponentSettings:
    seeds = tuple(cluster.addresses)
    return ComponentSettings(seeds, cluster.config.cluster_name, directory / "state", directory / "kvnode.sock")


@asynccontextmanager
async def connected(settings: ComponentSettings) -> AsyncIterator[Client]:
    async with grpc.aio.insecure_channel(f"unix:{settings.socket}") as channel:
        yield Client(channel, SERVICE).using(x_component_instance="statestore")


async def init(client: Client, **properties: str) -> None:
    metadata = components_pb2.MetadataRequest(properties=properties)
    await client.call("Init", components_pb2.InitRequest(metadata=metadata))


@pytest.fixture(scope="module")
def settings(real_cluster: RealCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComponentSettings]:
    """A component for the tests that leave it running."""
    chosen = settings_of(real_cluster, tmp_path_factory.mktemp("component"))
    with run_process("kvnode.dapr.component", chosen) as (_, line):
        assert line == f"kvnode component serves state.kvnode at {chosen.socket}\n"
        yield chosen


async def test_a_sidecars_whole_conversation(settings: ComponentSettings, real_cluster: RealCluster, key: str) -> None:
    async with connected(settings) as client:
        stub = reflection_pb2_grpc.ServerReflectionStub(client.channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        [listed] = [answer async for answer in stub.ServerReflectionInfo(iter([asked]))]
        assert SERVICE in [service.name for service in listed.list_services_response.service]
        await init(client, store="carts", consistency="strong", keyPrefix="appid", actorStateStore="false")
        assert list((await client.call("Features")).features) == ["ETAG", "TTL"]

        await client.call("Set", SetRequest(key=f"app||{key}", value=b"1", options=FIRST_WRITE))
        found = await client.call("Get", GetRequest(key=f"app||{key}"))
        assert found.data == b"1"
        changed = SetRequest(key=f"app||{key}", value=b"2", etag=found.etag, metadata={"ttlInSeconds": "100"})
        await client.call("Set", changed)
        lost = await client.refused("Set", changed)
        assert lost.code is grpc.StatusCode.FAILED_PRECONDITION
        assert lost.request is not None
        assert [violation.field for violation in lost.request.field_violations] == ["etag"]

        names = [f"app||{key}||{number}" for number in range(10)]
        await client.call("BulkSet", BulkSetRequest(items=[SetRequest(key=name, value=b"x") for name in names]))
        wanted = [*reversed(names), "app||missing"]
        bulk = components_pb2.BulkGetRequest(items=[GetRequest(key=name) for name in wanted])
        assert [item.key for item in (await client.call("BulkGet", bulk)).items] == wanted
        deletes = components_pb2.BulkDeleteRequest(items=[DeleteRequest(key=name) for name in names])
        await client.call("BulkDelete", deletes)
        assert [item.data for item in (await client.call("BulkGet", bulk)).items] == [b""] * 11
    async with kvclient.connect(real_cluster.addresses) as kv:
        item = await kv.store("carts").get(f"app||{key}", consistency="strong")
        assert item is not None
        assert (item.value, item.expires_at is not None) == (b"2", True)


async def test_a_component_that_was_killed_comes_back_under_its_socket_with_its_instances(
    real_cluster: RealCluster, tmp_path: Path, key: str
) -> None:
    settings = settings_of(real_cluster, tmp_path)
    with run_process("kvnode.dapr.component", settings) as (process, _):
        async with connected(settings) as client:
            await init(client, store="carts")
            await client.call("Set", SetRequest(key=key, value=b"1"))
            process.kill()
            process.wait()
            left_over = settings.socket
            assert left_over is not None
            assert left_over.is_socket()
            with run_process("kvnode.dapr.component", settings):
                while True:  # the channel connects again by itself, and the sidecar sends no second Init
                    try:
                        found = await client.call("Get", GetRequest(key=key))
                        break
                    except grpc.aio.AioRpcError as error:
                        if error.code() is not grpc.StatusCode.UNAVAILABLE:
                            raise
                    await asyncio.sleep(0.05)
                assert found.data == b"1"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_takes_the_socket_away_and_ends_the_process(
    real_cluster: RealCluster, tmp_path: Path, number: signal.Signals
) -> None:
    settings = settings_of(real_cluster, tmp_path)
    assert settings.socket is not None
    with run_process("kvnode.dapr.component", settings) as (process, _):
        async with connected(settings) as client:
            await client.call("Ping")
        process.send_signal(number)
        assert process.wait(30) == 0
        assert not settings.socket.exists()


async def test_two_components_do_not_share_a_socket(settings: ComponentSettings, tmp_path: Path) -> None:
    other = ComponentSettings(settings.seeds, settings.cluster, tmp_path / "state", settings.socket)
    with run_process("kvnode.dapr.component", other) as (process, line):
        assert (process.wait(30), line) == (1, "")
    async with connected(settings) as client:
        await client.call("Ping")
    assert settings.socket is not None
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(settings.socket))


async def test_a_sidecar_learns_whether_a_write_was_applied(tmp_path: Path) -> None:
    with run_cluster(tmp_path / "cluster") as cluster:
        settings = settings_of(cluster, tmp_path)
        with run_process("kvnode.dapr.component", settings):
            async with connected(settings) as client:
                await init(client, consistency="strong")
                await client.call("Set", SetRequest(key="k", value=b"1"))
                await check_unknown(cluster, client)
                await check_not_applied(cluster, client)


async def check_unknown(cluster: RealCluster, client: Client) -> None:
    nodes = [node.id for node in cluster.config.nodes]
    for node in nodes:
        cluster.tell("pause", node)
    lost = await client.refused("Set", SetRequest(key="k", value=b"2"), timeout=2)
    for node in nodes:
        cluster.tell("resume", node)
    assert lost.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (lost.facts["http_code"], lost.facts["outcome"]) == ("504", "unknown")


async def check_not_applied(cluster: RealCluster, client: Client) -> None:
    await client.call("Set", SetRequest(key="k", value=b"3"))
    for node in ("n2", "n3"):
        cluster.tell("kill", node)
    for call, request in (
        ("Set", SetRequest(key="k", value=b"4")),
        ("Get", GetRequest(key="k")),
        ("Delete", DeleteRequest(key="k")),
    ):
        lost = await unavailable(client, call, request)
        assert (lost.facts["kit_error"], lost.facts["http_code"]) == ("true", "503")
        assert lost.facts["outcome"] == "not-applied"


async def unavailable(client: Client, call: str, request: Any) -> Any:
    """Call until the loss of the quorum is known; before that, the outcome is unknown."""
    while True:
        lost = await client.refused(call, request)
        if lost.code is grpc.StatusCode.UNAVAILABLE:
            return lost
        assert lost.code is grpc.StatusCode.DEADLINE_EXCEEDED
