"""Every row of the error table over HTTP; what attackers and the confused send gets its answer and has no effect."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx
import pytest

TYPE = "type.googleapis.com/google.rpc."
STORE = "/v1.0/state/statestore"


def code(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/json"
    return response.status_code, response.json()["errorCode"]


def rich(response: httpx.Response) -> dict[str, dict[str, Any]]:
    details = response.json()["details"]
    assert details[0]["@type"] == TYPE + "ErrorInfo"
    assert details[0]["domain"] == "dapr.io"
    return {detail["@type"].removeprefix(TYPE): detail for detail in details}


def every_call(http: Any, store: str, key: str) -> list[httpx.Response]:
    """Make each call on a store with one key."""
    path = f"/v1.0/state/{store}"
    operation = {"operation": "upsert", "request": {"key": key, "value": 1}}
    return [
        http.post(path, json=[{"key": key, "value": 1}]),
        http.post(path, json=[{"key": "other", "value": 1}, {"key": key, "value": 1}]),
        http.post(f"{path}/bulk", json={"keys": [key]}),
        http.post(f"{path}/transaction", json={"operations": [operation]}),
    ]


# -- the table


def test_a_store_that_is_not_there(http: Any) -> None:
    responses = every_call(http, "nope", "k")
    responses += [http.read("k", store="nope"), http.delete("/v1.0/state/nope/k"), http.get("/v1.0/state/nope")]
    responses += [http.post("/v1.0-alpha1/state/nope/query", json={})]
    for response in responses:
        assert code(response) == (400, "ERR_STATE_STORE_NOT_FOUND")
        assert response.json()["message"] == "state store nope is not found"
        details = rich(response)
        assert details["ErrorInfo"]["reason"] == "DAPR_STATE_NOT_FOUND"
        assert details["ErrorInfo"]["metadata"] == {"appID": "app"}


def test_no_store_at_all(new_gateway: Any) -> None:
    with new_gateway(stores={}) as gateway, httpx.Client(base_url=gateway.url) as http:
        response = http.get("/v1.0/state/statestore/k")
        assert code(response) == (500, "ERR_STATE_STORE_NOT_CONFIGURED")
        assert response.json()["message"] == "state store statestore is not configured"
        assert rich(response)["ErrorInfo"]["reason"] == "DAPR_STATE_NOT_CONFIGURED"


def test_a_key_with_the_separator(http: Any, key: str) -> None:
    bad = f"{key}||x"
    responses = every_call(http, "statestore", bad)
    responses += [http.read(f"{key}%7C%7Cx"), http.read(f"{key}||x"), http.delete(f"{STORE}/{key}%7C%7Cx")]
    for response in responses:
        assert code(response) == (400, "ERR_MALFORMED_REQUEST")
        assert f"input key/keyPrefix '{bad}' can't contain '||'" in response.json()["message"]
        assert response.json()["message"].startswith("api error: code = InvalidArgument desc = ")
        details = rich(response)
        assert details["ErrorInfo"]["reason"] == "DAPR_STATE_ILLEGAL_KEY"
        assert details["ResourceInfo"]["resource_type"] == "state"
        assert details["ResourceInfo"]["resource_name"] == "statestore"
        assert details["BadRequest"]["field_violations"][0]["field"] == bad
    assert http.read("other").status_code == 204


def test_transactions_over_several_keys_are_not_faked(http: Any, key: str) -> None:
    operations = [{"operation": "upsert", "request": {"key": f"{key}{n}", "value": 1}} for n in range(2)]
    response = http.post(f"{STORE}/transaction", json={"operations": operations})
    assert code(response) == (500, "ERR_STATE_STORE_NOT_SUPPORTED")
    assert "state store statestore doesn't support transactions" in response.json()["message"]
    details = rich(response)
    assert details["ErrorInfo"]["reason"] == "DAPR_STATE_TRANSACTIONS_NOT_SUPPORTED"
    assert details["Help"]["links"][0]["url"].startswith("https://")
    assert details["ResourceInfo"]["resource_name"] == "statestore"
    assert http.read(f"{key}0").status_code == 204


def test_too_many_operations(http: Any, key: str) -> None:
    operation = {"operation": "upsert", "request": {"key": key, "value": 1}}
    assert http.post(f"{STORE}/transaction", json={"operations": [operation] * 128}).status_code == 204
    response = http.post(f"{STORE}/transaction", json={"operations": [operation] * 129})
    assert code(response) == (400, "ERR_STATE_STORE_TOO_MANY_TRANSACTIONS")
    text = "the transaction contains 129 operations, which is more than what the state store supports: 128"
    assert response.json()["message"] == text
    info = rich(response)["ErrorInfo"]
    assert info["reason"] == "DAPR_STATE_TOO_MANY_TRANSACTIONS"
    assert info["metadata"] == {"currentOpsTransaction": "129", "maxOpsPerTransaction": "128"}


@pytest.mark.parametrize("operation", ["Upsert", "UPSERT", "incr", ""])
def test_an_unknown_operation(http: Any, key: str, operation: str) -> None:
    good = {"operation": "upsert", "request": {"key": key, "value": 1}}
    bad = {"operation": operation, "request": {"key": key, "value": 1}}
    response = http.post(f"{STORE}/transaction", json={"operations": [good, bad]})
    assert code(response) == (400, "ERR_NOT_SUPPORTED_STATE_OPERATION")
    assert "details" not in response.json()
    assert http.read(key).status_code == 204


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_nobody_can_query(http: Any, method: str) -> None:
    response = http.request(method, "/v1.0-alpha1/state/statestore/query", json={"filter": {}})
    assert code(response) == (500, "ERR_STATE_STORE_NOT_SUPPORTED")
    assert response.json()["message"] == "state store does not support querying"
    assert rich(response)["ErrorInfo"]["reason"] == "DAPR_STATE_QUERYING_NOT_SUPPORTED"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PATCH", STORE),
        ("DELETE", STORE),
        ("HEAD", f"{STORE}/k"),
        ("PATCH", f"{STORE}/k"),
        ("POST", f"{STORE}/k"),
        ("GET", f"{STORE}/a/b"),
        ("GET", "/v1.0/state"),
        ("GET", "/nothing"),
        ("GET", "/v1.0/invoke/app/method/m"),
        ("GET", "/v2.0/state/statestore/k"),
        ("GET", "/v1.0-alpha1/state/statestore/k"),
        ("GET", "/v1.0-alpha1/state/statestore/query"),
        ("POST", "/v1.0/healthz"),
        ("POST", "/v1.0/metadata"),
        ("GET", "/v1.0/shutdown"),
        ("GET", "/V1.0/state/statestore/k"),
        ("GET", f"{STORE}/.."),
        ("OPTIONS", f"{STORE}/k"),
    ],
)
def test_what_is_no_route_is_answered_as_an_invocation(http: Any, method: str, path: str) -> None:
    response = http.request(method, path)
    assert response.status_code == 404
    if method != "HEAD":
        assert code(response) == (404, "ERR_DIRECT_INVOKE")
        text = "failed getting app id either from the URL path or the header dapr-app-id"
        assert response.json()["message"] == text


# -- what is malformed: nothing is written


@pytest.mark.parametrize(
    "bad",
    [
        {"value": 1},
        {"key": "", "value": 1},
        {"key": None, "value": 1},
        {"key": 5, "value": 1},
        {"key": ["k"], "value": 1},
        {"key": "k" * 1025, "value": 1},
        {"key": "\ud800", "value": 1},
        {"key": "k", "value": 1, "etag": 123},
        {"key": "k", "value": 1, "etag": {}},
        {"key": "k", "value": 1, "metadata": {"ttlInSeconds": 5}},
        {"key": "k", "value": 1, "metadata": []},
        {"key": "k", "value": 1, "options": "strong"},
        {"key": "k", "value": 1, "options": {"consistency": 1}},
        1,
        "item",
        [],
    ],
)
def test_one_bad_item_refuses_all(http: Any, key: str, bad: Any) -> None:
    good = {"key": key, "value": 1}
    for items in ([bad], [good, bad], [bad, good]):
        response = http.save(*items)
        assert code(response) == (400, "ERR_MALFORMED_REQUEST")
        assert response.headers["x-outcome"] == "not-applied"
    if isinstance(bad, dict):
        operations = [{"operation": "upsert", "request": request} for request in (good, bad)]
        response = http.post(f"{STORE}/transaction", content=json.dumps({"operations": operations}))
        assert code(response) == (400, "ERR_MALFORMED_REQUEST")
    assert http.read(key).status_code == 204


def test_a_key_that_is_required_is_asked_for_in_dapr_s_words(http: Any) -> None:
    assert http.save({"value": 1}).json()["message"] == '"key" is a required field'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[",
        b'[{"key":"%s","value":1},]',
        b'[{"key":"%s","value":NaN}]',
        b'[{"key":"%s","value":1e999}]',
        b'[{"key":"%s","value":"\xff"}]',
        b'[{"key":"%s","value":' + b"[" * 50_000 + b"]" * 50_000 + b"}]",
        b'[{"key":"%s","value":' + b"[" * 201 + b"]" * 201 + b"}]",
        b'"[{\\"key\\":"',
        b"\xff\xfe",
    ],
)
def test_a_body_that_cannot_be_read_is_refused(http: Any, key: str, body: bytes) -> None:
    response = http.post(STORE, content=body.replace(b"%s", key.encode()))
    assert code(response) == (400, "ERR_MALFORMED_REQUEST")
    assert http.read(key).status_code == 204


@pytest.mark.parametrize("path", ["bulk", "transaction"])
@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"1", b'{"keys":1,"operations":1}', b"\xff", b"[" * 100_000])
def test_a_body_of_another_route_that_cannot_be_read_is_refused(http: Any, path: str, body: bytes) -> None:
    assert code(http.post(f"{STORE}/{path}", content=body)) == (400, "ERR_MALFORMED_REQUEST")


@pytest.mark.parametrize("path", [f"{STORE}/%ff", f"{STORE}/%ED%A0%80", "/v1.0/state/%ff/k", f"{STORE}/k?x=%ff"])
def test_what_is_no_text_in_the_address_is_refused(gateway: Any, path: str) -> None:
    assert _raw(gateway, f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("path", [f"{STORE}/%zz", f"{STORE}/%", f"{STORE}/a%2"])
def test_a_wrong_escape_in_a_key_is_refused(gateway: Any, path: str) -> None:
    answer = _raw(gateway, f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"ERR_MALFORMED_REQUEST" in answer


def test_a_path_that_climbs_gets_nowhere(gateway: Any, http: Any, key: str) -> None:
    http.save({"key": key, "value": 1})
    for path in (f"/../../v1.0/state/statestore/{key}", f"/v1.0/state/x/../statestore/./{key}"):
        answer = _raw(gateway, f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200")
    answer = _raw(gateway, f"GET {STORE}/../../../etc/passwd HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 404")


def _raw(gateway: Any, request: str, size: int = 1_000_000) -> bytes:
    """Send what no client library would; return the answer up to the end of the connection, or so many bytes of it."""
    host, port = gateway.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(request.encode("latin-1"))
        answer = b""
        while len(answer) < size and (data := connection.recv(65536)):
            answer += data
        return answer[:size]


def test_a_body_beyond_the_limit_is_refused_before_it_is_read(http: Any, gateway: Any, key: str) -> None:
    most = gateway.settings.bounds.body_bytes_max
    body = b'[{"key":"%s","value":"%s"}]' % (key.encode(), b"x" * most)
    response = http.post(STORE, content=body)
    assert code(response) == (400, "ERR_MALFORMED_REQUEST")
    head = f"POST {STORE} HTTP/1.1\r\nhost: x\r\ncontent-length: {most + 1}\r\nexpect: 100-continue\r\n\r\n"
    assert _raw(gateway, head, 12) == b"HTTP/1.1 400"  # and nobody has asked for the body
    assert http.read(key).status_code == 204


def test_a_body_in_chunks_beyond_the_limit_is_refused(http: Any, gateway: Any, key: str) -> None:
    def chunks() -> Any:
        yield b'[{"key":"%s","value":"' % key.encode()
        for _ in range(80):
            yield b"x" * 65536
        yield b'"}]'

    assert code(http.post(STORE, content=chunks())) == (400, "ERR_MALFORMED_REQUEST")
    assert http.read(key).status_code == 204  # on the same connection


def test_a_body_in_chunks_below_the_limit_is_taken(http: Any, key: str) -> None:
    text = f'[{{"key":"{key}","value":"{"x" * 200_000}"}}]'.encode()
    chunks = (text[at : at + 1000] for at in range(0, len(text), 1000))
    assert http.post(STORE, content=chunks).status_code == 204
    assert len(http.read(key).json()) == 200_000


@pytest.mark.parametrize(
    ("params", "status"),
    [
        ({"page_limit": "0"}, 400),
        ({"page_limit": "-1"}, 400),
        ({"page_limit": "x"}, 400),
        ({"page_limit": "9" * 50}, 400),
        ({"page_limit": "٣"}, 400),
        ({"page_token": "!!"}, 400),
        ({"prefix": "k" * 2000}, 400),
        ({"page_limit": "", "page_token": "", "prefix": ""}, 200),
        ({"page_limit": "100000"}, 200),
    ],
)
def test_a_list_that_makes_no_sense_is_refused(http: Any, params: Any, status: int) -> None:
    response = http.get(STORE, params=params)
    assert response.status_code == status
    if status == 400:
        assert code(response) == (400, "ERR_MALFORMED_REQUEST")


# -- bulk saves that fail in part


def test_a_bulk_save_says_what_became_of_each_item(http: Any, key: str) -> None:
    http.save({"key": f"{key}b", "value": 0}, store="strong")
    items = [
        {"key": f"{key}a", "value": 1},
        {"key": f"{key}b", "value": 2, "etag": "x"},
        {"key": f"{key}c", "value": 3},
    ]
    response = http.save(*items, store="strong")
    assert code(response) == (409, "ERR_STATE_SAVE")
    assert response.headers["x-outcome"] == "partial"
    body = response.json()
    assert f"{key}b" in body["message"]
    assert [(item["key"], item["outcome"]) for item in body["items"]] == [
        (f"{key}a", "applied"),
        (f"{key}b", "not-applied"),
        (f"{key}c", "applied"),
    ]
    assert body["items"][1]["errorCode"] == "ERR_STATE_SAVE"
    assert [http.read(key + letter, store="strong").json() for letter in "abc"] == [1, 0, 3]


def test_a_bulk_save_of_which_nothing_was_applied_is_not_partial(http: Any, key: str) -> None:
    response = http.save(*({"key": f"{key}{n}", "value": n, "etag": "x"} for n in range(3)))
    assert (response.status_code, response.headers["x-outcome"]) == (409, "not-applied")
    assert [item["outcome"] for item in response.json()["items"]] == ["not-applied"] * 3
