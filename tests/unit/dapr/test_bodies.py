"""Bodies are read without loss, and as Dapr's runtime reads them; whatever is wrong refuses the whole body."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvclient import RawJson
from kvclient.content import NESTING_MAX, encode, raw_json_at
from kvclient.errors import InvalidRequest
from kvnode.dapr import bodies
from kvnode.dapr.bodies import BulkGet, Item, Step
from kvnode.dapr.errors import Kind, StateError

TEXT = st.text(st.characters(exclude_categories=("Cs",)))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=10)
VALUES_AS_WRITTEN = [
    "12345678901234567890123",
    "1.0",
    "1e5",
    "-0",
    '{"b": 1,  "a": 2}',
    '{"a":1,"a":2}',
    '"\\u00e9 \\ud800"',
    "[ 1 , 2 ]",
    "9" * 5000,
    "null",
    '"é\u2028"',
]


def malformed(read: Any, body: bytes | str) -> str:
    with pytest.raises(StateError) as refused:
        read(body if isinstance(body, bytes) else body.encode())
    assert refused.value.kind is Kind.MALFORMED
    return refused.value.message


# -- values


@pytest.mark.parametrize("text", VALUES_AS_WRITTEN)
def test_a_value_stays_the_text_that_it_was(text: str) -> None:
    (item,) = bodies.items_of(f'[ {{ "key" : "k" , "value" :  {text}  }} ]'.encode())
    assert item.value == text
    assert encode(item.value) == encode(RawJson(text))
    operation = f'{{"operations":[{{"operation":"upsert","request":{{"value":{text},"key":"k"}}}}]}}'
    assert bodies.steps_of(operation.encode()) == [Step("upsert", Item("k", RawJson(text)))]


@given(st.lists(st.tuples(TEXT, VALUES)), st.sampled_from([None, 2]))
@example([("k", 1.7976931348623157e308), ("k", 5e-324)], None)
def test_every_list_of_items_is_read_as_json_reads_it(pairs: list[tuple[str, Any]], indent: int | None) -> None:
    for ascii_only in (True, False):
        written = [{"key": key, "value": value} for key, value in pairs]
        body = json.dumps(written, indent=indent, ensure_ascii=ascii_only).encode()
        items = bodies.items_of(body)
        assert [item.key for item in items] == [key for key, _ in pairs]
        assert [json.loads(item.value) for item in items] == [value for _, value in pairs]


def test_a_missing_value_is_null() -> None:
    assert bodies.items_of(b'[{"key":"k"}]') == [Item("k", RawJson("null"))]


def test_a_value_is_cut_out_of_a_text_and_not_parsed_again() -> None:
    value, end = raw_json_at('xx{"a": [1, 2]}yy', 2)
    assert (value, end) == ('{"a": [1, 2]}', 15)
    assert isinstance(value, RawJson)
    for text in ("nan", "NaN", "1e999", "[1,]", "", "[" * (NESTING_MAX + 1) + "]" * (NESTING_MAX + 1)):
        with pytest.raises(InvalidRequest):
            raw_json_at(text, 0)


# -- forms


@pytest.mark.parametrize("body", [b"[]", b"null", b" [ ] ", b'"[]"', b"[] trailing"])
def test_no_items_is_no_mistake(body: bytes) -> None:
    assert bodies.items_of(body) == []


def test_all_fields_of_an_item_are_read() -> None:
    body = (
        b'[{"key":"k","value":1,"etag":"e","metadata":{"ttlInSeconds":"5","x":null},"contentType":"t",'
        b'"options":{"concurrency":"first-write","consistency":"strong"}}]'
    )
    metadata = {"ttlInSeconds": "5", "x": ""}
    assert bodies.items_of(body) == [Item("k", RawJson("1"), "e", metadata, "first-write", "strong")]


def test_null_is_nothing() -> None:
    body = b'[{"key":"k","value":1,"etag":null,"metadata":null,"options":null,"contentType":null}, null]'
    assert bodies.items_of(body) == [Item("k", RawJson("1")), Item("")]
    body = b'[{"key":"k","options":{"concurrency":null}}]'
    assert bodies.items_of(body) == [Item("k")]


def test_names_match_in_any_case_the_last_counts_and_unknown_ones_do_not() -> None:
    body = (
        b'[{"KEY":"a","Key":"b","vAlUe":1,"value":2,"ETag":"e","other":{"key":[1e999]},"Options":{"Consistency":"x"}}]'
    )
    assert bodies.items_of(body) == [Item("b", RawJson("2"), "e", {}, "", "x")]


def test_what_follows_the_first_value_is_ignored() -> None:
    assert bodies.items_of(b'[{"key":"k"}] [{"key":') == [Item("k")]


def test_a_string_that_holds_the_body_is_taken_for_it() -> None:
    inner = '[{"key":"k\\u00e9","value":{"b": 1.0}}]'
    assert bodies.items_of(json.dumps(inner).encode()) == [Item("ké", RawJson('{"b": 1.0}'))]
    malformed(bodies.items_of, json.dumps(json.dumps(inner)))
    malformed(bodies.items_of, b'"[{\\"key\\":\\"\\ud800\\"}]"')


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b'""',
        b"{}",
        b"1",
        b"nul",
        b"[",
        b"[1]",
        b"[[]]",
        b'[{"key":"k"}',
        b'[{"key":"k"},]',
        b'[{"key":"k",}]',
        b'[{"key" "k"}]',
        b"[{key:1}]",
        b"[{'key':'k'}]",
        b'[{"key":"k","value":}]',
        b'[{"key":"k","value":NaN}]',
        b'[{"key":"k","value":-Infinity}]',
        b'[{"key":"k","value":1e999}]',
        b'[{"key":"k","value":01}]',
        b'[{"key":"k","value":"\n"}]',
        b'[{"key":"k","x":NaN}]',
        b'[{"key":"k"};{"key":"l"}]',
        b'[{"key":"\xff"}]',
        b"\xff",
        b"\xef\xbb\xbf[]",
        b"\x00",
        b"[" * 100_000,
        b'[{"x":' + b"[" * 100_000,
        b'[{"key":"k","value":' + b"[" * 100_000,
        b'[{"key":"k","value":' + b"[" * 201 + b"]" * 201 + b"}]",
        b'[{"key":"k","metadata":' + b'{"a":' * 100_000,
    ],
)
def test_what_is_no_list_of_items_is_refused(body: bytes) -> None:
    malformed(bodies.items_of, body)


FIELDS = ["key", "etag", "contentType", "options", "metadata"]


@pytest.mark.parametrize("value", [1, True, 1.5, [], ["x"], {}, {"a": 1}, "x"])
@pytest.mark.parametrize("field", FIELDS)
def test_a_field_of_the_wrong_type_is_refused(field: str, value: Any) -> None:
    if isinstance(value, str) != (field in ("options", "metadata")) or (value == {} and field not in FIELDS[:3]):
        return
    if field == "options" and isinstance(value, dict):
        value = {"consistency": 1}
    body = json.dumps([{"key": "good"}, {"key": "k", field: value}])
    assert field.lower() in malformed(bodies.items_of, body).lower() or field == "options"


@pytest.mark.parametrize("value", [5, True, [], {}])
def test_metadata_must_be_strings(value: Any) -> None:
    assert "ttlInSeconds" in malformed(bodies.items_of, json.dumps([{"key": "k", "metadata": {"ttlInSeconds": value}}]))


# -- bulk get, transactions


def test_a_bulk_get_is_read() -> None:
    body = b'{"keys":["a","b","a"],"parallelism":-3,"metadata":{"consistency":"strong"},"x":1}'
    assert bodies.bulk_get_of(body) == BulkGet(["a", "b", "a"], -3, {"consistency": "strong"})
    for nothing in (b"{}", b'{"keys":null,"parallelism":null}', b'{"Keys":[]}', b"null"):
        assert bodies.bulk_get_of(nothing) == BulkGet([])


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        '{"keys":"a"}',
        '{"keys":[1]}',
        '{"keys":[null]}',
        '{"keys":{"a":1}}',
        '{"keys":["a"],"parallelism":"1"}',
        '{"keys":["a"],"parallelism":1.5}',
        '{"keys":["a"],"parallelism":true}',
        '{"keys":["a"],"parallelism":' + "9" * 5000 + "}",
        '{"keys":["a"],"metadata":{"a":1}}',
        '{"keys":["a"]',
    ],
)
def test_what_is_no_bulk_get_is_refused(body: str) -> None:
    malformed(bodies.bulk_get_of, body)


def test_a_transaction_is_read() -> None:
    body = (
        b'{"operations":[{"operation":"upsert","request":{"key":"k","value":1}},{"operation":"delete",'
        b'"request":{"key":"k","etag":"e"}},{"operation":"incr"},{"request":null}],"metadata":null}'
    )
    steps = [Step("upsert", Item("k", RawJson("1"))), Step("delete", Item("k", etag="e"))]
    assert bodies.steps_of(body) == [*steps, Step("incr", Item("")), Step("", Item(""))]
    for nothing in (b"{}", b'{"operations":[]}', b'{"operations":null}', b"null"):
        assert bodies.steps_of(nothing) == []


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        '{"operations":{}}',
        '{"operations":[1]}',
        '{"operations":[{"operation":1}]}',
        '{"operations":[{"operation":"upsert","request":[]}]}',
        '{"operations":[{"operation":"upsert","request":{"key":1}}]}',
        '{"operations":[],"metadata":{"a":1}}',
        '{"operations":[],"metadata":[]}',
    ],
)
def test_what_is_no_transaction_is_refused(body: str) -> None:
    malformed(bodies.steps_of, body)


@given(st.binary(max_size=60) | st.text('[]{}":,nul0truefaskey\\', max_size=60).map(str.encode))
def test_random_bytes_are_read_or_refused(body: bytes) -> None:
    for read in (bodies.items_of, bodies.bulk_get_of, bodies.steps_of):
        with contextlib.suppress(StateError):
            read(body)
