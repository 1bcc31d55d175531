"""What a caller over HTTP is told when the cluster fails in ways that only a scripted one does on demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from kvclient.wire import messages as m
from kvnode.dapr import gateway as process
from kvnode.dapr.settings import DaprStore, GatewaySettings
from kvnode.dapr.state import StateStore


@pytest.fixture
async def http(cluster: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a real gateway that speaks for a scripted cluster."""
    seeds = tuple(node.address for node in cluster.nodes)
    settings = GatewaySettings(seeds, "test", {"s": DaprStore("s", "default")}, http_port=0, grpc_port=0)
    stopped, served = asyncio.Event(), asyncio.get_running_loop().create_future()
    serving = asyncio.ensure_future(process.serve(settings, stopped, lambda http, grpc: served.set_result(http)))
    async with httpx.AsyncClient(base_url=f"http://{await served}", timeout=30) as client:
        yield client
    stopped.set()
    await serving


def calls(http: httpx.AsyncClient) -> dict[str, Any]:
    operation = {"operation": "upsert", "request": {"key": "k", "value": 1}}
    return {
        "ERR_STATE_SAVE": lambda: http.post("/v1.0/state/s", json=[{"key": "k", "value": 1}]),
        "ERR_STATE_DELETE": lambda: http.delete("/v1.0/state/s/k"),
        "ERR_STATE_TRANSACTION": lambda: http.post("/v1.0/state/s/transaction", json={"operations": [operation]}),
        "ERR_STATE_GET": lambda: http.get("/v1.0/state/s/k"),
        "ERR_STATE_LIST": lambda: http.get("/v1.0/state/s"),
    }


WRITES = ("ERR_STATE_SAVE", "ERR_STATE_DELETE", "ERR_STATE_TRANSACTION")
UNAVAILABLE = ("quorum-unreachable", "overloaded", "deadline-exceeded", "clock-skew")


@pytest.mark.parametrize("reason", UNAVAILABLE)
async def test_what_was_refused_is_503_and_not_applied(cluster: Any, http: httpx.AsyncClient, reason: str) -> None:
    cluster.everywhere(lambda message: cluster.nodes[0].failed(message, reason))
    for code, call in calls(http).items():
        response = await call()
        assert (response.status_code, response.json()["errorCode"]) == (503, code)
        assert response.headers["x-outcome"] == "not-applied"
        assert response.headers.get("retry-after") == ("1" if reason == "overloaded" else None)
        assert set(response.json()) == {"errorCode", "message"}


async def test_what_nobody_knows_is_504_and_unknown(cluster: Any, http: httpx.AsyncClient) -> None:
    cluster.everywhere(lambda message: cluster.nodes[0].failed(message, "outcome-unknown", "unknown", 1))
    for code in WRITES:
        response = await calls(http)[code]()
        assert (response.status_code, response.json()["errorCode"]) == (504, code)
        assert response.headers["x-outcome"] == "unknown"


async def test_a_bulk_save_may_end_in_every_way_at_once(cluster: Any, http: httpx.AsyncClient) -> None:
    def rule(message: list[Any]) -> Any:
        if message[0] == m.WRITE and message[2].endswith(b"\0b"):
            return cluster.nodes[0].failed(message, "quorum-unreachable")
        if message[0] == m.WRITE and message[2].endswith(b"\0c"):
            return cluster.nodes[0].failed(message, "outcome-unknown", "unknown", 1)
        return None

    cluster.everywhere(rule)
    response = await http.post("/v1.0/state/s", json=[{"key": key, "value": 1} for key in "abc"])
    assert (response.status_code, response.headers["x-outcome"]) == (504, "partial")
    assert [(item["key"], item["outcome"]) for item in response.json()["items"]] == [
        ("a", "applied"),
        ("b", "not-applied"),
        ("c", "unknown"),
    ]
    assert (await http.get("/v1.0/state/s/a")).json() == 1


async def test_any_other_failure_is_500(cluster: Any, http: httpx.AsyncClient) -> None:
    cluster.everywhere(lambda message: cluster.nodes[0].failed(message, "error", "not applied", 1))
    for code in WRITES:
        response = await calls(http)[code]()
        assert (response.status_code, response.json()["errorCode"]) == (500, code)
        assert response.headers["x-outcome"] == "not-applied"


async def test_a_defect_is_500_with_an_unknown_outcome_and_the_next_request_is_served(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("a broken wheel")

    with monkeypatch.context() as patch:
        patch.setattr(StateStore, "get", broken)
        response = await http.get("/v1.0/state/s/k")
    assert (response.status_code, response.json()["errorCode"]) == (500, "ERR_INTERNAL")
    assert response.headers["x-outcome"] == "unknown"
    assert "wheel" not in response.text
    assert "a broken wheel" in caplog.text
    assert (await http.get("/v1.0/state/s/k")).status_code == 204


async def test_a_client_that_goes_away_leaves_no_trace(cluster: Any, http: httpx.AsyncClient) -> None:
    address = http.base_url
    _, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(b"POST /v1.0/state/s HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n[{")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await http.get("/v1.0/state/s/k")).status_code == 204
    assert cluster.requests(m.WRITE, m.MUTATE) == []


async def test_a_value_is_neither_decoded_nor_encoded(cluster: Any, http: httpx.AsyncClient) -> None:
    await http.post("/v1.0/state/s", content=b'[{"key":"k","value": {"b": 1.0,  "a":"\\u00e9"} }]')
    (write,) = cluster.requests(m.WRITE)
    assert write[5] == b'\x01{"b": 1.0,  "a":"\\u00e9"}'
    assert (await http.get("/v1.0/state/s/k")).content == write[5][1:]


async def test_a_request_has_so_many_items_and_no_more(cluster: Any, http: httpx.AsyncClient) -> None:
    operation = {"operation": "upsert", "request": {"key": "k", "value": 1}}
    for path, body in (
        ("", [{"key": "k", "value": 1}] * 16_385),
        ("/bulk", {"keys": ["k"] * 16_385}),
        ("/transaction", {"operations": [operation] * 16_385}),
    ):
        response = await http.post(f"/v1.0/state/s{path}", json=body)
        assert (response.status_code, response.json()["errorCode"]) == (400, "ERR_MALFORMED_REQUEST")
        assert "16384 items" in response.json()["message"]
    assert cluster.requests(m.GET, m.WRITE, m.MUTATE) == []
    too_many = await http.post("/v1.0/state/s/transaction", json={"operations": [operation] * 129})
    assert too_many.json()["errorCode"] == "ERR_STATE_STORE_TOO_MANY_TRANSACTIONS"


async def test_one_value_asked_for_often_does_not_fill_the_memory(cluster: Any, http: httpx.AsyncClient) -> None:
    await http.post("/v1.0/state/s", json=[{"key": "k", "value": "x" * 1_000_000}])
    refused = await http.post("/v1.0/state/s/bulk", json={"keys": ["k"] * 1000})
    assert sum("data" in found for found in refused.json()) == 67  # 64 MiB
    served = await http.post("/v1.0/state/s/bulk", json={"keys": ["k"] * 3})
    assert [len(found["data"]) for found in served.json()] == [1_000_000] * 3


OCTETS = {"content-type": "application/octet-stream"}


async def test_a_condition_that_is_not_heeded_is_refused_and_never_left_out(
    cluster: Any, http: httpx.AsyncClient
) -> None:
    operation = {"operation": "upsert", "request": {"key": "k", "value": 1}}
    for header, call in (
        ("if-match", lambda **_: http.post("/v1.0/state/s", json=[{"key": "k", "value": 1}], **_)),
        ("if-match", lambda **_: http.post("/v1.0/state/s/transaction", json={"operations": [operation]}, **_)),
        ("if-none-match", lambda **_: http.post("/v1.0/state/s", json=[{"key": "k", "value": 1}], **_)),
        ("if-none-match", lambda **_: http.delete("/v1.0/state/s/k", **_)),
        ("if-none-match", lambda headers: http.put("/v1.0/state/s/k", content=b"1", headers={**OCTETS, **headers})),
    ):
        response = await call(headers={header: "*"})
        assert (response.status_code, response.json()["errorCode"]) == (400, "ERR_MALFORMED_REQUEST")
        assert response.headers["x-outcome"] == "not-applied"
    assert cluster.requests(m.WRITE, m.MUTATE) == []


async def test_an_etag_of_nothing_in_quotes_is_a_condition(http: httpx.AsyncClient) -> None:
    await http.post("/v1.0/state/s", json=[{"key": "k", "value": 1}])
    assert (await http.delete("/v1.0/state/s/k", headers={"if-match": '""'})).status_code == 409
    over = await http.put("/v1.0/state/s/k", content=b"2", headers={**OCTETS, "if-match": '""'})
    assert over.status_code == 409
    assert (await http.get("/v1.0/state/s/k")).json() == 1


async def test_bytes_for_a_key_that_is_called_like_a_bulk_call_are_not_taken_for_one(
    cluster: Any, http: httpx.AsyncClient
) -> None:
    for word in ("bulk", "transaction"):
        response = await http.put(f"/v1.0/state/s/{word}", content=b"{}", headers=OCTETS)
        assert (response.status_code, response.json()["errorCode"]) == (400, "ERR_MALFORMED_REQUEST")
    assert cluster.requests(m.WRITE, m.MUTATE) == []


@pytest.mark.parametrize("word", ["strong", "quorum", "stronk"])
async def test_a_list_is_not_promised_to_be_stronger_than_it_is(http: httpx.AsyncClient, word: str) -> None:
    for how in ({"params": {"consistency": word}}, {"headers": {"consistency": word}}):
        assert (await http.get("/v1.0/state/s", **how)).status_code == 400
    assert (await http.get("/v1.0/state/s?consistency=eventual")).status_code == 200
