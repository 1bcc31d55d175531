"""What attackers and broken clients make of HTTP itself, byte by byte, before a real gateway: each gets the documented
answer, nothing is written, and the next one is served."""

from __future__ import annotations

from typing import Any

import pytest
from gateways import Gateway, Http
from wire_http import (
    ABSENT,
    BULK,
    MALFORMED,
    MISMATCH,
    NO_ROUTE,
    OCTETS,
    STORE,
    ask,
    check_nothing_is_there,
    connect,
    request,
    told,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("nothing_unforeseen")


def post(key: str, *lines: bytes, body: bytes | None = None, version: bytes = b"1.1") -> bytes:
    """A save of a key, with other lines than it should have."""
    first = b"POST " + STORE.encode() + b" HTTP/" + version
    whole = b'[{"key":"%s","value":1}]' % key.encode() if body is None else body
    return b"\r\n".join([first, b"host: x", *lines, b"", whole])


LENGTH = b"content-length: %d" % (len('[{"key":"","value":1}]') + 32)
"""Of the body of `post`: a key is 32 characters."""
CHUNKED = b"transfer-encoding: chunked"


def chunk(text: bytes, rest: bytes = b"\r\n0\r\n\r\n") -> bytes:
    return b"%x\r\n%s%s" % (len(text), text, rest)


@pytest.mark.parametrize(
    "lines",
    [
        [b"content-length: -1"],
        [b"content-length: +25"],
        [b"content-length: 0x19"],
        [b"content-length: 1_0"],
        [b"content-length: 25, 25"],
        [b"content-length: "],
        [b"content-length: " + b"9" * 30],
        [b"content-length: 18446744073709551617"],
        [b"content-length: 999999999999"],
        [LENGTH, b"content-length: 1"],
        [LENGTH, CHUNKED],
        [LENGTH, b"transfer-encoding: identity"],
        [LENGTH, b" folded: x"],
        [LENGTH, b"name : x"],
        [LENGTH, b"x: a\0b"],
        [LENGTH, b"x: a\rb"],
        [LENGTH, b": x"],
        [LENGTH, b"no colon"],
        [LENGTH, b"na\xffme: x"],
        [b"transfer-encoding: gzip"],
        [b"transfer-encoding: chunked, gzip"],
        [LENGTH, b"consistency: \xff"],
        [LENGTH, b"consistency: sure"],
        [LENGTH, b"concurrency: sure"],
        [],
        [b"content-length: 0"],
        [b"content-length: 10"],
    ],
)
def test_a_head_that_lies_is_refused(gateway: Gateway, key: str, lines: list[bytes]) -> None:
    assert told(ask(gateway, post(key, *lines))) == MALFORMED
    check_nothing_is_there(gateway, key)


@pytest.mark.parametrize(
    "rest", [b"zz\r\n", b"-1\r\n", b"f" * 17 + b"\r\n", b"5\r\nabcdefgh\r\n0\r\n\r\n", b"\r\n\r\n"]
)
@pytest.mark.parametrize("method", ["POST", "DELETE", "GET"])
def test_a_body_whose_chunks_lie_is_refused(gateway: Gateway, http: Http, key: str, method: str, rest: bytes) -> None:
    path = STORE if method == "POST" else f"{STORE}/{key}"
    http.save({"key": key, "value": 0})
    broken = request(method, path, None, CHUNKED) + chunk(b'[{"key":"%s","value":1}]' % key.encode(), b"\r\n" + rest)
    assert told(ask(gateway, broken)) == MALFORMED
    assert http.read(key).json() == 0


def test_a_body_that_ends_too_soon_writes_nothing(gateway: Gateway, http: Http, key: str) -> None:
    whole = post(key, LENGTH)
    for at in range(0, len(whole), 7):
        connect(gateway, whole[:at]).close()
    http.save({"key": key + "d", "value": 0})
    for broken in (
        request("DELETE", f"{STORE}/{key}d", b"xx")[:-1],
        request("DELETE", f"{STORE}/{key}d", None, CHUNKED),
    ):
        connect(gateway, broken).close()
    check_nothing_is_there(gateway, key)
    assert http.read(key + "d").json() == 0


@pytest.mark.parametrize("rest", [b"x", b"]", b"\x00", b"GET", b"GET / HTTP/9.9\r\n\r\n"])
def test_what_follows_a_whole_request_does_not_change_its_answer(
    gateway: Gateway, http: Http, key: str, rest: bytes
) -> None:
    assert told(ask(gateway, post(key, LENGTH) + rest)) == ABSENT
    assert http.read(key).json() == 1


@pytest.mark.parametrize(
    "sent",
    [
        lambda key: post(key, LENGTH, version=b"1.0"),
        lambda key: post(key, LENGTH, b"expect: 100-continue"),
        lambda key: post(key, LENGTH, b"expect: miracles"),
        lambda key: post(
            key, LENGTH, b"connection: upgrade, http2-settings", b"upgrade: h2c", b"http2-settings: AAMAAABk"
        ),
        lambda key: post(key, LENGTH, b"connection: upgrade", b"upgrade: websocket"),
        lambda key: post(key, CHUNKED, body=chunk(b'[{"key":"%s","value":1}]' % key.encode())),
        lambda key: post(
            key,
            CHUNKED,
            body=b"".join(chunk(b"%c" % c, b"\r\n") for c in b'[{"key":"%s","value":1}]' % key.encode())
            + b"0\r\nx: y\r\n\r\n",
        ),
        lambda key: post(key, LENGTH, b"x: \xff\xfe"),
        lambda key: post(key, LENGTH, b"content-type: text/html"),
        lambda key: b"\r\n\r\n" + post(key, LENGTH),
    ],
)
def test_old_and_roundabout_ways_of_http_are_served(gateway: Gateway, http: Http, key: str, sent: Any) -> None:
    assert told(ask(gateway, sent(key))) == ABSENT
    assert http.read(key).json() == 1


@pytest.mark.parametrize("method", ["PATCH", "OPTIONS", "TRACE", "PROPFIND", "LOCK", "QUERY", "M-SEARCH", "LINK"])
def test_a_method_of_elsewhere_has_no_route(gateway: Gateway, method: str) -> None:
    for path in (STORE, f"{STORE}/k", BULK, "/v1.0/metadata"):
        assert told(ask(gateway, request(method, path, b"x"))) == NO_ROUTE


@pytest.mark.parametrize("method", ["CONNECT", "BREW", "get", "", "\0", "POST\tx", "PRI"])
def test_a_method_of_nobody_is_no_request(gateway: Gateway, method: str) -> None:
    assert told(ask(gateway, request(method, STORE))) == MALFORMED


@pytest.mark.parametrize(
    "noise",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100,  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",  # HTTP/2
        b"GET / HTTP/3\r\n\r\n",
        b"GET / SMTP/1.1\r\n\r\n",
        b"EHLO example.org\r\n",
        b"*1\r\n$4\r\nPING\r\n",  # Redis
        b"\0" * 5000,
        b"\xff" * 5000,
    ],
)
def test_another_protocol_is_no_request(gateway: Gateway, noise: bytes) -> None:
    assert told(ask(gateway, noise)) == MALFORMED


# -- headers


@pytest.mark.parametrize("etag", [b"*", b"\xff\xfe", b'W/"1"', b'"' * 3, b"e" * 8000, b"a b", b"\x01"])
def test_an_etag_of_nobody_is_a_mismatch(gateway: Gateway, http: Http, key: str, etag: bytes) -> None:
    http.save({"key": key, "value": 0})
    expected = (400, "ERR_MALFORMED_REQUEST") if etag == b"\x01" else (409, "ERR_STATE_DELETE")
    assert told(ask(gateway, request("DELETE", f"{STORE}/{key}", None, b"if-match: " + etag))) == expected
    if expected[0] == 409:
        written = told(ask(gateway, request("PUT", f"{STORE}/{key}", b"x", OCTETS, b"if-match: " + etag)))
        assert written == MISMATCH
    assert http.read(key).json() == 0


def test_a_header_too_long_or_too_many_are_refused(gateway: Gateway, key: str) -> None:
    for lines in ([b"cookie: " + b"x" * 20_000], [b"x: y"] * 4000):
        assert told(ask(gateway, post(key, LENGTH, *lines))) == (431, "ERR_MALFORMED_REQUEST")
    check_nothing_is_there(gateway, key)


def test_the_name_of_an_attribute_is_no_way_into_a_header(new_gateway: Any) -> None:
    with new_gateway() as gateway:
        check_attributes(gateway)


def check_attributes(gateway: Gateway) -> None:
    assert ask(gateway, request("PUT", "/v1.0/metadata/a%0D%0Ab%00", b"x\r\ny\0")).status == 204
    answer = ask(gateway, request("GET", "/v1.0/metadata"))
    assert answer.json["extended"]["a\r\nb\0"] == "x\r\ny\0"
    for path in ("/v1.0/metadata/%FF", "/v1.0/metadata/%ED%A0%80", "/v1.0/metadata/%"):
        assert told(ask(gateway, request("PUT", path, b"x"))) == MALFORMED
