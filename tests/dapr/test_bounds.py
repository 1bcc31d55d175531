"""What the gateway refuses to hold: requests, bodies, answers that nobody reads, and clients who are slow."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import httpx
import pytest
from gateways import Gateway

from kvnode.dapr.settings import Bounds

STORE = "/v1.0/state/statestore"
MIB = 1 << 20


def connect(gateway: Gateway, request: bytes = b"") -> socket.socket:
    """Connect, and send what there is of a request."""
    host, port = gateway.address.rsplit(":", 1)
    connection = socket.create_connection((host, int(port)), timeout=30)
    connection.sendall(request)
    return connection


def head(length: int, method: str = "POST", path: str = STORE) -> bytes:
    return f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n".encode()


def answer_of(connection: socket.socket) -> tuple[int, dict[str, str], Any]:
    """Return the next answer of a connection: status, headers, the JSON of its body."""
    with connection.makefile("rb") as stream:
        status = int(stream.readline().split()[1])
        lines = iter(lambda: stream.readline().strip().decode().lower(), "")
        headers = dict(line.split(": ", 1) for line in lines)
        body = stream.read(int(headers.get("content-length", "0")))
    return status, headers, json.loads(body) if body else None


def check_overloaded(status: int, headers: Any, body: Any, code: str) -> None:
    assert (status, body["errorCode"]) == (503, code), body
    assert (headers["x-outcome"], headers["retry-after"]) == ("not-applied", "1")
    assert headers["content-type"] == "application/json"


def until_refused(http: httpx.Client) -> httpx.Response:
    """Ask until there is no room."""
    while (answer := http.get(f"{STORE}/nothing")).status_code == 204:
        time.sleep(0.01)
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
        for _ in range(3):
            opened.enter_context(closing(connect(gateway, head(10))))
        until_refused(http)
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
        with closing(connect(gateway, head(MIB) + b" " * 900_000)):
            until_no_room(http, large)
            refused = http.delete(f"{STORE}/{key}")
            assert refused.status_code == 204  # without a body there is room
            refused = http.post(STORE, json=large)
            check_overloaded(refused.status_code, refused.headers, refused.json(), "ERR_STATE_SAVE")
            assert http.get(f"{STORE}/{key}").status_code == 204
            assert http.post(STORE, json=small).status_code == 204  # on the same connection
        while http.post(STORE, json=large).status_code != 204:  # as soon as the other has gone
            time.sleep(0.01)


def until_no_room(http: httpx.Client, items: Any) -> None:
    while http.post(STORE, json=items).status_code == 204:
        time.sleep(0.01)


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
        for _ in range(4):
            opened.enter_context(closing(connect(gateway, lazy)))
        while (refused := http.get(path)).status_code == 200:
            time.sleep(0.01)
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
        assert in_body.recv(1000) == b""  # an answer is being made, so nothing can be said
        for connection in (in_head, silent):
            status, headers, refusal = answer_of(connection)
            assert (status, refusal["errorCode"]) == (408, "ERR_MALFORMED_REQUEST")
            assert (headers["x-outcome"], headers["connection"]) == ("not-applied", "close")
        assert http.get(f"{STORE}/{key}").status_code == 204
