"""What the gateway refuses to hold: requests, bodies, answers that nobody reads, and clients who are slow."""

from __future__ import annotations

import json
import select
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import grpc
import httpx
import pytest
from gateways import Gateway
from wire_http import STORE, answer_of, connect, head

from kvnode.dapr.settings import Bounds

MIB = 1 << 20


def check_overloaded(status: int, headers: Any, body: Any, code: str) -> None:
    assert (status, body["errorCode"]) == (503, code), body
    assert (headers["x-outcome"], headers["retry-after"]) == ("not-applied", "1")
    assert headers["content-type"] == "application/json"


def until_refused(http: httpx.Client, path: str, more: Callable[[], object]) -> httpx.Response:
    """Ask until there is no room, with more of what takes room before each time."""
    while True:
        more()
        time.sleep(0.01)
        if (answer := http.get(path)).status_code == 503:
            return answer


def until_served(http: httpx.Client) -> None:
    """Ask until there is room again."""
    while http.get(f"{STORE}/nothing").status_code != 204:
        time.sleep(0.01)


# -- requests


@pytest.fixture
def crowded(new_gateway: Any) -> Iterator[tuple[Gateway, httpx.Client]]:
    """A gateway that works on three requests, all of which wait for their bodies."""
    with (
        new_gateway(bounds=Bounds(requests_in_flight_max=3)) as gateway,
        httpx.Client(base_url=gateway.url, timeout=30) as http,
        ExitStack() as opened,
    ):
        until_refused(http, f"{STORE}/nothing", lambda: opened.enter_context(closing(connect(gateway, head(10)))))
        yield gateway, http
        opened.close()
        until_served(http)


def test_requests_beyond_the_most_are_refused_and_nothing_is_written(crowded: Any, key: str) -> None:
    _, http = crowded
    operation = {"operation": "upsert", "request": {"key": key, "value": 1}}
    octets = {"content-type": "application/octet-stream"}
    for code, refused in (
        ("ERR_STATE_SAVE", http.post(STORE, json=[{"key": key, "value": 1}])),
        ("ERR_STATE_SAVE", http.put(f"{STORE}/{key}", content=b"x", headers=octets)),
        ("ERR_STATE_TRANSACTION", http.post(f"{STORE}/transaction", json={"operations": [operation]})),
        ("ERR_STATE_DELETE", http.delete(f"{STORE}/{key}")),
        ("ERR_STATE_GET", http.get(f"{STORE}/{key}")),
        ("ERR_STATE_BULK_GET", http.post(f"{STORE}/bulk", json={"keys": [key]})),
        ("ERR_STATE_LIST", http.get(STORE)),
        ("ERR_STATE", http.put("/v1.0/metadata/a", content="b")),
    ):
        check_overloaded(refused.status_code, refused.headers, refused.json(), code)
        assert "3 requests are under way" in refused.json()["message"]


def test_http_and_grpc_share_the_bound(crowded: Any) -> None:
    gateway, _ = crowded
    with grpc.insecure_channel(gateway.grpc_address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/dapr.proto.runtime.v1.Dapr/GetMetadata")(b"", timeout=20)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "3 requests are under way" in error.details()


def test_health_is_answered_when_nothing_else_is(crowded: Any) -> None:
    _, http = crowded
    for path in ("/v1.0/healthz", "/v1.0/healthz/outbound"):
        assert http.get(path).status_code == 204


def test_requests_that_were_refused_or_given_up_make_room(crowded: Any, key: str) -> None:
    gateway, http = crowded
    for _ in range(20):
        assert http.post(STORE, json=[{"key": key, "value": 1}]).status_code == 503
    assert http.get(f"{gateway.url}/v1.0/metadata").status_code == 503  # the three still count, and only they


# -- bodies


def test_a_body_without_room_is_refused_and_nothing_is_written(new_gateway: Any, key: str) -> None:
    with (
        new_gateway(bounds=Bounds(bodies_bytes_max=MIB)) as gateway,
        httpx.Client(base_url=gateway.url, timeout=30) as http,
    ):
        small, large = [{"key": key, "value": "x" * 100_000}], [{"key": key, "value": "x" * (MIB - 100_000)}]
        assert http.post(STORE, json=large).status_code == 204
        with filled(gateway, http, large):
            refused = http.post(STORE, json=large)
            check_overloaded(refused.status_code, refused.headers, refused.json(), "ERR_STATE_SAVE")
            assert http.delete(f"{STORE}/{key}").status_code == 204  # without a body there is room
            assert http.post(STORE, json=large).status_code == 503
            assert http.get(f"{STORE}/{key}").status_code == 204
            assert http.post(STORE, json=small).status_code == 204  # on the same connection
        while http.post(STORE, json=large).status_code != 204:  # as soon as the other has gone
            time.sleep(0.01)


@contextmanager
def filled(gateway: Gateway, http: httpx.Client, items: Any) -> Iterator[None]:
    """Have a client hold so much within the block that there is no room for these items."""
    while True:
        with closing(connect(gateway, head(MIB) + b" " * 900_000)) as holding:
            while not select.select([holding], [], [], 0.01)[0]:  # else it was itself refused beside a probe
                if http.post(STORE, json=items).status_code == 503:
                    yield
                    return


def test_announced_bytes_keep_nobody_out(new_gateway: Any, key: str) -> None:
    with (
        new_gateway(bounds=Bounds(bodies_bytes_max=4 * MIB)) as gateway,
        httpx.Client(base_url=gateway.url, timeout=30) as http,
        ExitStack() as opened,
    ):
        for _ in range(20):
            opened.enter_context(closing(connect(gateway, head(4 * MIB) + b"[")))
        assert http.post(STORE, json=[{"key": key, "value": "x" * 3 * MIB}]).status_code == 204


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_too_large_is_malformed_and_the_connection_goes_on(
    http: Any, gateway: Any, key: str, chunked: bool
) -> None:
    body = json.dumps([{"key": key, "value": "x" * gateway.settings.bounds.body_bytes_max}]).encode()
    refused = http.post(STORE, content=iter([body]) if chunked else body)
    assert (refused.status_code, refused.json()["errorCode"]) == (400, "ERR_MALFORMED_REQUEST")
    assert refused.headers["x-outcome"] == "not-applied"
    assert http.read(key).status_code == 204


# -- answers


def test_answers_that_nobody_reads_count(new_gateway: Any, key: str) -> None:
    with (
        new_gateway(bounds=Bounds(bodies_bytes_max=8 * MIB)) as gateway,
        httpx.Client(base_url=gateway.url, timeout=30) as http,
        ExitStack() as opened,
    ):
        assert http.post(STORE, json=[{"key": key, "value": "x" * 3 * MIB}]).status_code == 204
        path = f"{STORE}/{key}"
        lazy = f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode() * 3
        refused = until_refused(http, path, lambda: opened.enter_context(closing(connect(gateway, lazy))))
        check_overloaded(refused.status_code, refused.headers, refused.json(), "ERR_STATE_GET")
        opened.close()
        while http.get(path).status_code != 200:  # as soon as they have gone
            time.sleep(0.01)


# -- slow clients


def test_a_client_too_slow_with_its_request_is_cut_off(new_gateway: Any, key: str) -> None:
    body = json.dumps([{"key": key, "value": 1}]).encode()
    with (
        new_gateway(bounds=Bounds(request_timeout_s=0.5)) as gateway,
        closing(connect(gateway, head(len(body)) + body[:-1])) as in_body,
        closing(connect(gateway, head(len(body))[:20])) as in_head,
        closing(connect(gateway)) as silent,
        httpx.Client(base_url=gateway.url) as http,
    ):
        for connection in (in_body, in_head, silent):
            answer = answer_of(connection)
            assert (answer.status, answer.code) == (408, "ERR_MALFORMED_REQUEST")
            assert (answer.headers["x-outcome"], answer.headers["connection"]) == ("not-applied", "close")
        assert http.get(f"{STORE}/{key}").status_code == 204
