"""What attackers and broken clients send, byte by byte, to a real gateway: each gets the documented answer, nothing is
written, and the next one is served."""

from __future__ import annotations

import json
import uuid
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
    TRANSACTION,
    ask,
    check_nothing_is_there,
    request,
    told,
)  # fmt: skip

NO_STORE = (400, "ERR_STATE_STORE_NOT_FOUND")
WRONG_TTL = (500, "ERR_STATE_SAVE")
NO_OPERATION = (400, "ERR_NOT_SUPPORTED_STATE_OPERATION")
NO_TRANSACTION = (500, "ERR_STATE_STORE_NOT_SUPPORTED")

pytestmark = pytest.mark.usefixtures("nothing_unforeseen")


# -- paths


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/%FF", MALFORMED),
        (b"/%ff%fe", MALFORMED),
        (b"/%C3", MALFORMED),
        (b"/%ED%A0%80", MALFORMED),  # a surrogate
        (b"/%C0%AF", MALFORMED),  # an overlong slash
        (b"/%", MALFORMED),
        (b"/%4", MALFORMED),
        (b"/%u0041", MALFORMED),
        (b"/\xff", MALFORMED),
        (b"/a b", MALFORMED),
        (b"/a\x00b", MALFORMED),
        (b"/a\tb", MALFORMED),
        (b"/k?x=%FF", MALFORMED),
        (b"/k?x=\xff", MALFORMED),
        (b"/" + b"k" * 1025, MALFORMED),
        (b"/" + b"%C3%A9" * 513, MALFORMED),
        (b"/" + b"k" * 8000, MALFORMED),
        (b"/" + b"k" * 20_000, (431, "ERR_MALFORMED_REQUEST")),
        (b"/k?" + b"a=b&" * 5000, (431, "ERR_MALFORMED_REQUEST")),
        (b"/a%7C%7Cb", MALFORMED),
        (b"/||", MALFORMED),
        (b"/a/b", NO_ROUTE),
        (b"/a/b/c", NO_ROUTE),
        (b"/../..", NO_ROUTE),
        (b"/../../../../../etc/passwd", NO_ROUTE),
        (b"/../nope/k", NO_STORE),
        (b"%2Fk/k", NO_STORE),
        (b"%00/k", NO_STORE),
        (b"/k?consistency=STRONG", MALFORMED),
        (b"/k?consistency=strong%00", MALFORMED),
        (b"/k?metadata.consistency=sure", MALFORMED),
    ],
)
def test_a_path_with_a_trick_in_it_is_refused(gateway: Gateway, path: bytes, expected: tuple[int, str]) -> None:
    assert told(ask(gateway, request("GET", STORE.encode() + path))) == expected
    if expected != NO_ROUTE:
        written = told(ask(gateway, request("PUT", STORE.encode() + path, b"x", OCTETS)))
        assert written == expected


@pytest.mark.parametrize(
    "path",
    [b"v1.0/state/statestore/k", b"", b"http://x", b"http://", b"//", b"*", b"/%", b"/docs/..%2f..%2fetc/passwd"],
)
def test_what_is_no_path_of_the_api_is_refused(gateway: Gateway, path: bytes) -> None:
    answer = ask(gateway, request("GET", path))
    assert answer.status in (307, 400, 404), answer


@pytest.mark.parametrize(
    ("sent", "key"),
    [
        ("/{}%2Fb", "{}/b"),
        ("/{}+b", "{} b"),
        ("/{}%2Bb", "{}+b"),
        ("/{}%20b", "{} b"),
        ("/{}%00b", "{}\0b"),
        ("/{}%0D%0Aetag:%20x", "{}\r\netag: x"),
        ("/{}%2E%2E", "{}.."),
        ("/..%2F{}", "../{}"),
        ("/%C3%A9{}", "é{}"),
        ("/{}%25FF", "{}%FF"),
        ("/{};a=b", "{};a=b"),
        ("//{}//", "{}"),
        ("/./x/../{}/.", "{}"),
        ("/{}?", "{}"),
        ("/{}%3Fa", "{}?a"),
        ("/{}|b", "{}|b"),
    ],
)
def test_a_legal_key_is_reached_however_it_is_written(gateway: Gateway, http: Http, sent: str, key: str) -> None:
    name = uuid.uuid4().hex
    assert http.save({"key": key.format(name), "value": name}).status_code == 204
    answer = ask(gateway, request("GET", STORE + sent.format(name)))
    assert (answer.status, answer.json) == (200, name)
    answer = ask(gateway, request("PUT", STORE + sent.format(name), b"\r\n\0", OCTETS))
    assert set(answer.headers) == {"date", "etag"}
    answer = ask(gateway, request("GET", STORE + sent.format(name)))
    assert (answer.body, set(answer.headers)) == (b"\r\n\0", {"date", "content-type", "content-length", "etag"})


@pytest.mark.parametrize("key", ["k" * 1024, "é" * 512, "\U0001f600" * 256, "\0" * 1024, "."])
def test_the_longest_and_the_oddest_keys_are_keys(http: Http, key: str) -> None:
    assert http.save({"key": key, "value": 1}).status_code == 204
    assert http.post(BULK, json={"keys": [key]}).json()[0]["data"] == 1


# -- bodies


def case(name: str, body: str | bytes, expected: tuple[int, str] = MALFORMED, path: str = STORE) -> Any:
    raw = body if isinstance(body, bytes) else body.encode("utf-8", "surrogatepass")
    return pytest.param(path, raw, expected, id=name)


def item(fields: str) -> str:
    """A save of KEY whose item has more fields."""
    return '[{"key":"KEY","value":1,' + fields + "}]"


def operation(text: str) -> str:
    return '{"operations":[{"operation":"upsert","request":{"key":"KEY","value":1}},' + text + "]}"


GOOD = '[{"key":"KEY","value":1}]'
DEEP = 100_000
WRONG_SAVES = [
    case("empty", ""),
    case("spaces", " \r\n\t"),
    case("bom", b"\xef\xbb\xbf" + GOOD.encode()),
    case("utf-16", GOOD.encode("utf-16")),
    case("utf-32", GOOD.encode("utf-32-be")),
    case("latin-1", '[{"key":"KEY","value":"é"}]'.encode("latin-1")),
    case("raw surrogate", '[{"key":"KEY","value":"\ud800"}]'),
    case("overlong", b'[{"key":"KEY","value":"\xc0\x80"}]'),
    case("nul first", "\0" + GOOD),
    case("not json", "key=KEY&value=1"),
    case("single quotes", "[{'key':'KEY','value':1}]"),
    case("comment", "/**/" + GOOD),
    case("unfinished", GOOD[:-1]),
    case("trailing comma", '[{"key":"KEY","value":1},]'),
    case("no comma", '[{"key":"KEY" "value":1}]'),
    case("no colon", '[{"key" "KEY"}]'),
    case("a number", "1"),
    case("a long number", "9" * 10_000),
    case("true", "true"),
    case("a string", '"KEY"'),
    case("a string in a string", json.dumps(json.dumps(GOOD))),
    case("a surrogate in a string", '"\\ud800"'),
    case("an object", '{"key":"KEY","value":1}'),
    case("an array of arrays", "[" + GOOD + "]"),
    case("nested arrays", "[" * DEEP),
    case("nested objects", '[{"key":' * DEEP),
    case("control character", '[{"key":"KEY","value":"\x01"}]'),
    case("NaN", '[{"key":"KEY","value":NaN}]'),
    case("Infinity", '[{"key":"KEY","value":[-Infinity]}]'),
    case("too large for a float", '[{"key":"KEY","value":1e400}]'),
    case("leading zero", '[{"key":"KEY","value":01}]'),
    case("plus", '[{"key":"KEY","value":+1}]'),
    case("hexadecimal", '[{"key":"KEY","value":0x1}]'),
    case("half a number", '[{"key":"KEY","value":1.}]'),
    case("a bad escape", '[{"key":"KEY","value":"\\x41"}]'),
    case("a value too deep", '[{"key":"KEY","value":' + "[" * 201 + "]" * 201 + "}]"),
    case("a value much too deep", '[{"key":"KEY","value":' + "[" * DEEP + "]" * DEEP + "}]"),
    case("a value of objects too deep", '[{"key":"KEY","value":' + '{"":' * DEEP + "1" + "}" * DEEP + "}]"),
    case("an unknown field too deep", item('"x":' + "[" * DEEP + "]" * DEEP)),
    case("an unknown field of NaN", item('"x":NaN')),
    case("no key", '[{"key":"KEY","value":1},{"value":1}]'),
    case("null item", '[{"key":"KEY","value":1},null]'),
    case("last key counts", '[{"key":"KEY","key":""}]'),
    case("last key counts in any case", '[{"key":"KEY","Key":null}]'),
    case("key too long", '[{"key":"KEY","value":1},{"key":"' + "k" * 1025 + '"}]'),
    case("key of too many bytes", '[{"key":"KEY","value":1},{"key":"' + "é" * 513 + '"}]'),
    case("key of a megabyte", '[{"key":"KEY","value":1},{"key":"' + "k" * 1_000_000 + '"}]'),
    case("key of a megabyte, illegal", '[{"key":"KEY","value":1},{"key":"||' + "k" * 1_000_000 + '"}]'),
    case("key of a surrogate", '[{"key":"KEY","value":1},{"key":"\\udfff"}]'),
    *(case(f"key {wrong}", '[{"key":"KEY"},{"key":' + wrong + "}]") for wrong in ("1", "[]", "{}", "true", "1e999")),
    *(case(f"etag {wrong}", item('"etag":' + wrong)) for wrong in ("1", "[]", "{}", "false", '["x"]')),
    *(
        case(f"metadata {wrong}", item('"metadata":' + wrong))
        for wrong in ("1", "[]", '"x"', "true", '{"a":1}', '{"a":[]}')
    ),
    *(case(f"options {wrong}", item('"options":' + wrong)) for wrong in ("1", "[]", '"strong"', "true")),
    *(
        case(f"{name} {wrong}", item(f'"options":{{"{name}":{wrong}}}'))
        for name in ("consistency", "concurrency")
        for wrong in ("1", "[]", "{}", "true", '"x"', '"STRONG"', '"\\ud800"')
    ),
    *(case(f"contentType {wrong}", item('"contentType":' + wrong)) for wrong in ("1", "[]", "{}", "true")),
    case("metadata.consistency", item('"metadata":{"consistency":"sure"}')),
    *(
        case(f"ttl {wrong}", item('"metadata":{"ttlInSeconds":"' + wrong + '"}'), WRONG_TTL)
        for wrong in ("x", "1.5", " 5", "-2", "2147483648", "9" * 5000, "1e3", "\\ud800", "٣", "0x10")
    ),
    case("etag of nobody", item('"etag":"\\r\\nx: y"'), MISMATCH),
    case("etag of a surrogate", item('"etag":"\\ud800"'), MISMATCH),
    case("etag of a megabyte", item('"etag":"' + "e" * 1_000_000 + '"'), MISMATCH),
]
WRONG_TRANSACTIONS = [
    *(
        case(f"transaction {wrong[:20]}", wrong, MALFORMED, TRANSACTION)
        for wrong in (
            "",
            "1",
            "[]",
            '"x"',
            "{",
            '{"operations":1}',
            '{"operations":{}}',
            '{"operations":[1]}',
            '{"operations":[[]]}',
            '{"operations":[],"metadata":1}',
            '{"operations":[],"metadata":{"a":1}}',
            '{"operations":' + "[" * DEEP,
        )
    ),
    case("operation 1", operation('{"operation":1,"request":{"key":"KEY"}}'), MALFORMED, TRANSACTION),
    case(
        "operation in capitals", operation('{"operation":"Upsert","request":{"key":"KEY"}}'), NO_OPERATION, TRANSACTION
    ),
    case(
        "operation too long",
        operation('{"operation":"' + "x" * 100_000 + '","request":{"key":"KEY"}}'),
        NO_OPERATION,
        TRANSACTION,
    ),
    case(
        "operation of a surrogate",
        operation('{"operation":"\\ud800","request":{"key":"KEY"}}'),
        NO_OPERATION,
        TRANSACTION,
    ),
    case("null operation", operation("null"), NO_OPERATION, TRANSACTION),
    case("no request", operation('{"operation":"upsert"}'), MALFORMED, TRANSACTION),
    case("request []", operation('{"operation":"delete","request":[]}'), MALFORMED, TRANSACTION),
    case("request key 1", operation('{"operation":"delete","request":{"key":1}}'), MALFORMED, TRANSACTION),
    case(
        "request etag 1", operation('{"operation":"delete","request":{"key":"KEY","etag":1}}'), MALFORMED, TRANSACTION
    ),
    case(
        "request of NaN",
        operation('{"operation":"upsert","request":{"key":"KEY","value":NaN}}'),
        MALFORMED,
        TRANSACTION,
    ),
    case(
        "request with a wrong word",
        operation('{"operation":"upsert","request":{"key":"KEY","options":{"concurrency":"x"}}}'),
        MALFORMED,
        TRANSACTION,
    ),
    case(
        "request of another key",
        operation('{"operation":"upsert","request":{"key":"KEYother"}}'),
        NO_TRANSACTION,
        TRANSACTION,
    ),
    case(
        "request with another etag",
        operation('{"operation":"upsert","request":{"key":"KEY","etag":"x"}}'),
        (500, "ERR_STATE_TRANSACTION"),
        TRANSACTION,
    ),
]
WRONG_BULK_GETS = [
    case(f"bulk {wrong[:30]}", wrong, MALFORMED, BULK)
    for wrong in (
        "", "1", "[]", '"x"', "{", '{"keys":1}', '{"keys":"KEY"}', '{"keys":{}}', '{"keys":[1]}', '{"keys":[null]}',
        '{"keys":[[]]}', '{"keys":[""]}', '{"keys":["\ud800"]}', '{"keys":["' + "k" * 1025 + '"]}',
        '{"keys":["a||b"]}', '{"keys":["KEY"],"parallelism":"1"}', '{"keys":["KEY"],"parallelism":1.5}',
        '{"keys":["KEY"],"parallelism":true}', '{"keys":["KEY"],"parallelism":' + "9" * 5000 + "}",
        '{"keys":["KEY"],"parallelism":NaN}', '{"keys":["KEY"],"metadata":1}', '{"keys":["KEY"],"metadata":{"a":1}}',
        '{"keys":["KEY"],"metadata":{"consistency":"x"}}', '{"keys":' + "[" * DEEP,
    )
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "expected"), [*WRONG_SAVES, *WRONG_TRANSACTIONS, *WRONG_BULK_GETS])
def test_a_wrong_body_is_refused(gateway: Gateway, key: str, path: str, body: bytes, expected: tuple[int, str]) -> None:
    answer = ask(gateway, request("POST", path, body.replace(b"KEY", key.encode()), b"content-type: application/json"))
    assert told(answer) == expected, answer.body
    check_nothing_is_there(gateway, key)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ('[{"key":"@","value":1}]garbage', b"1"),
        ('[{"key":"@","value":1}]\0', b"1"),
        ('[{"kEY":"x","Key":"@","VALUE":1,"value":2}]', b"2"),
        ('[{"key":"@","value":-0}]', b"-0"),
        ('[{"key":"@","value":1e-400}]', b"1e-400"),
        ('[{"key":"@","value":' + "9" * 5000 + "}]", b"9" * 5000),
        ('[{"key":"@","value":' + "[" * 200 + "]" * 200 + "}]", b"[" * 200 + b"]" * 200),
        ('[{"key":"@","value":"\\ud800"}]', b'"\\ud800"'),
        ('[{"key":"@","value":{"a":1,"a":2}}]', b'{"a":1,"a":2}'),
        ('[{"key":"@","value":1,"x":' + "9" * 5000 + "}]", b"1"),
        ('[{"key":"@","etag":null,"metadata":null,"options":null,"contentType":null}]', b"null"),
        ('[{"key":"@","value":1,"metadata":{"\\ud800":"\\ud800"}}]', b"1"),
    ],
)  # fmt: skip
def test_an_odd_body_means_what_it_says(gateway: Gateway, key: str, body: str, value: bytes) -> None:
    assert told(ask(gateway, request("POST", STORE, body.replace("@", key).encode()))) == ABSENT
    assert ask(gateway, request("GET", f"{STORE}/{key}")).body == value
