"""Dapr's own SDK for Python, unmodified, both kinds of it, against the gateway's process and a real cluster."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from dapr.aio.clients import DaprClient as AioClient
from dapr.clients import DaprClient
from dapr.clients.exceptions import DaprGrpcError, DaprInternalError
from dapr.clients.grpc._request import TransactionalStateOperation, TransactionOperationType
from dapr.clients.grpc._state import Concurrency, Consistency, StateItem, StateOptions
from gateways import Gateway, run_gateway_process, settings_of
from grpc_client import Refusal
from processes import RealCluster, run_cluster

from kvnode.dapr.settings import GatewaySettings

STRONG = StateOptions(consistency=Consistency.strong)
FIRST_WRITE = StateOptions(concurrency=Concurrency.first_write)
DELETE = TransactionOperationType.delete


@pytest.fixture(scope="module")
def process(settings: GatewaySettings) -> Iterator[Gateway]:
    """A gateway as its own process."""
    with run_gateway_process(settings) as running:
        yield running


@contextlib.contextmanager
def environment(gateway: Gateway, **more: str) -> Iterator[None]:
    """The variables by which the SDK finds its sidecar; with the default ports it needs none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAPR_HTTP_PORT", gateway.address.rpartition(":")[2])
        patch.setenv("DAPR_GRPC_PORT", gateway.grpc_address.rpartition(":")[2])
        for name, text in more.items():
            patch.setenv(name, text)
        yield


@pytest.fixture
def client(process: Gateway) -> Iterator[DaprClient]:
    with environment(process), DaprClient() as made:
        yield made


@pytest.fixture
async def aio_client(process: Gateway) -> AsyncIterator[AioClient]:
    with environment(process):
        async with AioClient() as made:
            yield made


def refused(work: Callable[[], Any]) -> DaprGrpcError:
    """The error of a refused call, as the SDK tells it."""
    with pytest.raises(DaprGrpcError) as caught:
        work()
    return caught.value


def outcome_of(error: DaprGrpcError) -> str:
    """What became of a call, in the words of its one detail."""
    status = error.get_grpc_status()
    assert status is not None
    assert len(status.details) == 1
    info = error.status_details().error_info
    assert info["domain"] == "dapr.io"
    return str(info["metadata"]["outcome"])


# -- the synchronous client


def test_save_get_delete(client: DaprClient, key: str) -> None:
    assert client.get_state("statestore", key).data == b""
    client.save_state("statestore", key, "text", options=STRONG)
    found = client.get_state("statestore", key, state_metadata={"consistency": "strong"})
    assert (found.text(), bool(found.etag)) == ("text", True)
    client.save_state("statestore", key, b"\x00\xff")
    client.delete_state("statestore", key, options=STRONG)
    gone = client.get_state("statestore", key, state_metadata={"consistency": "strong"})
    assert (gone.data, gone.etag) == (b"", "")


def test_a_lost_etag_is_aborted(client: DaprClient, key: str) -> None:
    client.save_state("strong", key, "1", options=FIRST_WRITE)
    etag = client.get_state("strong", key).etag
    client.save_state("strong", key, "2", etag=etag)
    for work in (
        lambda: client.save_state("strong", key, "3", etag=etag),
        lambda: client.save_state("strong", key, "3", options=FIRST_WRITE),
        lambda: client.save_state("strong", key, "3", etag="nonsense"),
    ):
        lost = refused(work)
        assert (lost.code(), lost.error_code()) == (grpc.StatusCode.ABORTED, "ERR_STATE_SAVE")
        assert outcome_of(lost) == "not-applied"
    lost = refused(lambda: client.delete_state("strong", key, etag=etag))
    assert (lost.code(), lost.error_code()) == (grpc.StatusCode.ABORTED, "ERR_STATE_DELETE")
    assert client.get_state("strong", key).data == b"2"


def test_many_at_once(client: DaprClient, key: str) -> None:
    names = [f"{key}-{number}" for number in range(20)]
    client.save_bulk_state("strong", [StateItem(key=name, value=name) for name in names])
    asked = [*reversed(names), f"{key}-missing", names[0]]
    found = client.get_bulk_state("strong", asked, parallelism=3).items
    assert [item.key for item in found] == asked
    assert [item.text() for item in found] == [*reversed(names), "", names[0]]
    mixed = [StateItem(key=f"{key}-new", value="x"), StateItem(key=names[0], value="x", etag="wrong")]
    lost = refused(lambda: client.save_bulk_state("strong", mixed))
    assert (lost.code(), outcome_of(lost)) == (grpc.StatusCode.ABORTED, "partial")
    assert client.get_state("strong", f"{key}-new").data == b"x"
    assert client.get_state("strong", names[0]).text() == names[0]


def test_a_transaction_of_one_key_is_done_and_of_two_refused(client: DaprClient, key: str) -> None:
    client.execute_state_transaction(
        "strong",
        [
            TransactionalStateOperation(key=key, data="1"),
            TransactionalStateOperation(key=key, operation_type=DELETE),
            TransactionalStateOperation(key=key, data="2"),
        ],
    )
    assert client.get_state("strong", key).data == b"2"
    stale = [TransactionalStateOperation(key=key, data="3", etag="wrong")]
    lost = refused(lambda: client.execute_state_transaction("strong", stale))
    assert (lost.code(), lost.error_code()) == (grpc.StatusCode.INTERNAL, "ERR_STATE_TRANSACTION")
    two = [TransactionalStateOperation(key=key, data="4"), TransactionalStateOperation(key=key + "b", data="4")]
    lost = refused(lambda: client.execute_state_transaction("strong", two))
    assert (lost.code(), lost.error_code()) == (
        grpc.StatusCode.UNIMPLEMENTED,
        "DAPR_STATE_TRANSACTIONS_NOT_SUPPORTED",
    )
    assert client.get_state("strong", key).data == b"2"


def test_expiry_and_json_are_shared_with_http(client: DaprClient, process: Gateway, key: str) -> None:
    text = '{"b": 1.0, "a": 12345678901234567890}'
    client.save_state("strong", key, text, state_metadata={"contentType": "application/json", "ttlInSeconds": "100"})
    read = httpx.get(f"{process.url}/v1.0/state/strong/{key}")
    assert (read.text, read.headers["content-type"]) == (text, "application/json")
    assert read.headers["metadata.ttlExpireTime"]
    assert read.headers["etag"] == client.get_state("strong", key).etag
    httpx.post(f"{process.url}/v1.0/state/strong", content=f'[{{"key":"{key}","value":{text}}}]').raise_for_status()
    assert client.get_state("strong", key).text() == text
    client.save_state("strong", key, text, state_metadata={"ttlInSeconds": "1"}, options=STRONG)
    while client.get_state("strong", key).data:  # an expired key is absent
        pass


def test_what_a_store_does_not_have(client: DaprClient) -> None:
    unknown = refused(lambda: client.get_state("nostore", "k"))
    assert (unknown.code(), unknown.error_code()) == (grpc.StatusCode.INVALID_ARGUMENT, "DAPR_STATE_NOT_FOUND")
    assert unknown.details() == "state store nostore is not found"
    query = refused(lambda: client.query_state("strong", json.dumps({"filter": {}})))
    assert (query.code(), query.error_code()) == (grpc.StatusCode.INTERNAL, "DAPR_STATE_QUERYING_NOT_SUPPORTED")
    illegal = refused(lambda: client.save_state("strong", "a||b", "x"))
    assert (illegal.code(), illegal.error_code()) == (grpc.StatusCode.INVALID_ARGUMENT, "DAPR_STATE_ILLEGAL_KEY")
    other = refused(lambda: client.publish_event("pubsub", "topic", "x"))
    assert other.code() is grpc.StatusCode.UNIMPLEMENTED


def test_the_gateway_describes_itself_to_the_sdk(client: DaprClient, process: Gateway) -> None:
    client.set_metadata("team", "blue")
    told = client.get_metadata()
    assert told.application_id == "app"
    assert told.extended_metadata["team"] == "blue"
    assert {component.name: list(component.capabilities) for component in told.registered_components} == {
        name: ["ETAG", "TTL"] for name in process.settings.stores
    }
    assert httpx.get(f"{process.url}/v1.0/metadata").json()["extended"]["team"] == "blue"
    with pytest.raises(grpc.RpcError) as caught:
        client.shutdown()
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_a_client_that_was_too_late_reads_and_tries_again(client: DaprClient, key: str) -> None:
    client.save_state("strong", key, "0")
    from concurrent.futures import ThreadPoolExecutor

    def increment(_: int) -> None:
        while True:
            found = client.get_state("strong", key)
            try:
                client.save_state("strong", key, str(int(found.data) + 1), etag=found.etag)
            except DaprGrpcError as error:
                if error.code() is not grpc.StatusCode.ABORTED:
                    raise
            else:
                return

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(increment, range(40)))
    assert client.get_state("strong", key).data == b"40"


# -- the asynchronous client


async def test_save_get_delete_without_waiting(aio_client: AioClient, key: str) -> None:
    await aio_client.save_state("strong", key, "text", options=FIRST_WRITE)
    found = await aio_client.get_state("strong", key)
    assert (found.text(), bool(found.etag)) == ("text", True)
    with pytest.raises(DaprInternalError) as caught:  # this client tells the status by the cause alone
        await aio_client.save_state("strong", key, "x", options=FIRST_WRITE)
    assert isinstance(caught.value.__cause__, grpc.aio.AioRpcError)
    lost = Refusal(caught.value.__cause__)
    assert (lost.code, lost.reason) == (grpc.StatusCode.ABORTED, "ERR_STATE_SAVE")
    assert lost.facts["outcome"] == "not-applied"
    await aio_client.save_bulk_state("strong", [StateItem(key=key + each, value=each) for each in "abc"])
    bulk = await aio_client.get_bulk_state("strong", [key + each for each in "cba"])
    assert [item.text() for item in bulk.items] == ["c", "b", "a"]
    await aio_client.execute_state_transaction("strong", [TransactionalStateOperation(key=key, data="2")])
    await aio_client.delete_state("strong", key, etag=(await aio_client.get_state("strong", key)).etag)
    assert (await aio_client.get_state("strong", key)).data == b""


# -- the process


def test_the_token_of_the_environment_opens_the_gateway(settings: GatewaySettings, key: str) -> None:
    with run_gateway_process(replace(settings, token="sesam")) as gateway:
        with environment(gateway, DAPR_API_TOKEN="sesam"), DaprClient() as client:
            client.save_state("strong", key, "x")
            assert client.get_state("strong", key).data == b"x"
        for wrong in ({"DAPR_API_TOKEN": "Sesam"}, {}):
            with environment(gateway, **wrong), DaprClient() as client:
                assert refused(lambda: client.get_state("strong", key)).code() is grpc.StatusCode.UNAUTHENTICATED


def test_the_sdk_may_stop_a_gateway_that_allows_it(settings: GatewaySettings) -> None:
    with run_gateway_process(replace(settings, allow_shutdown=True)) as gateway, environment(gateway):
        with DaprClient() as client:
            client.shutdown()
        with contextlib.suppress(httpx.TransportError):
            while True:
                httpx.get(f"{gateway.url}/v1.0/healthz")


def test_a_program_needs_nothing_but_the_sdk(process: Gateway, key: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(f"""
from dapr.clients import DaprClient
with DaprClient() as client:
    client.save_state("strong", "{key}", "value")
    print(client.get_state("strong", "{key}").text())
""")
    with environment(process):
        done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "value\n"), done.stderr


# -- the truth about outcomes


def test_without_a_quorum_not_applied_and_without_an_answer_unknown(tmp_path: Path) -> None:
    with (
        run_cluster(tmp_path / "cluster") as cluster,
        run_gateway_process(settings_of(cluster)) as gateway,
        environment(gateway),
        DaprClient() as client,
    ):
        client.save_state("strong", "k", "1")
        with environment(gateway, DAPR_API_TIMEOUT_SECONDS="2"):
            check_unknown(cluster, client)
        client.save_state("strong", "k", "1")
        cluster.tell("kill", "n3")
        client.save_state("strong", "k", "2")
        cluster.tell("kill", "n2")
        check_not_applied(gateway, client)


def check_unknown(cluster: RealCluster, client: DaprClient) -> None:
    nodes = [node.id for node in cluster.config.nodes]
    for node in nodes:
        cluster.tell("pause", node)
    try:
        lost = refused(lambda: client.save_state("strong", "k", "unknown"))
        assert lost.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert (lost.error_code(), outcome_of(lost)) == ("ERR_STATE_SAVE", "unknown")
    finally:
        for node in nodes:
            cluster.tell("resume", node)


def check_not_applied(gateway: Gateway, client: DaprClient) -> None:
    while httpx.get(f"{gateway.url}/v1.0/healthz/outbound").status_code == 204:
        pass
    for code, work in {
        "ERR_STATE_SAVE": lambda: client.save_state("strong", "k", "3"),
        "ERR_STATE_DELETE": lambda: client.delete_state("strong", "k"),
        "ERR_STATE_GET": lambda: client.get_state("strong", "k"),
        "ERR_STATE_TRANSACTION": lambda: client.execute_state_transaction(
            "strong", [TransactionalStateOperation(key="k", data="3")]
        ),
    }.items():
        lost = refused(work)
        assert (lost.code(), lost.error_code()) == (grpc.StatusCode.UNAVAILABLE, code)
        assert outcome_of(lost) == "not-applied"
    [item] = client.get_bulk_state("strong", ["k"]).items
    assert item.error
