"""Values on a command line and lines of an import: what is stored, and what is refused with which words."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvclient import Item, RawJson
from kvclient.content import encode
from kvclient.errors import InvalidRequest
from kvclient.wire.values import NO_VERSION, VERSION_BYTES, Version
from kvnode.cli import lines

VERSION = Version(bytes(VERSION_BYTES))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def item(key: str, value: object) -> Item:
    return Item(key, VERSION, encode(value), 0, 1)


@given(st.text(min_size=1).filter(lambda key: key.isprintable()), JSON | st.binary())
def test_a_dumped_item_is_one_line_that_parses_back_to_it(key: str, value: object) -> None:
    text = lines.dump(item(key, value))
    assert "\n" not in text
    assert lines.parse(text.encode()) == (key, value)


def test_json_text_is_dumped_as_it_is_stored_unless_it_has_line_breaks() -> None:
    assert lines.dump(item("k", RawJson('{"a":  1.00}'))) == '{"key":"k","value":{"a":  1.00}}'
    assert lines.dump(item("k", RawJson('{"a":\n1.50}'))) == '{"key":"k","value":{"a":1.5}}'


def test_an_item_as_json_is_one_object_with_its_times() -> None:
    assert json.loads(lines.item_json(Item("k", VERSION, encode(1), 5000, 1000))) == {
        "key": "k",
        "value": 1,
        "etag": Item("k", VERSION, b"", 0, 0).etag,
        "created_at": "1970-01-01T00:00:01+00:00",
        "expires_at": "1970-01-01T00:00:05+00:00",
    }
    assert NO_VERSION == b""


@pytest.mark.parametrize("text", ["1", "-1.5e9", "true", "null", '"a"', '{"a": [1]}', " 1 ", "9" * 5000])
def test_an_argument_that_is_json_is_stored_untouched(text: str) -> None:
    value = lines.value_of(text)
    assert isinstance(value, RawJson)
    assert value == text


@pytest.mark.parametrize("text", ["", "hello", "{", "NaN", "Infinity", "1 2", "'a'", "[" * 100_000])
def test_an_argument_that_is_not_json_is_text(text: str) -> None:
    assert type(lines.value_of(text)) is str
    with pytest.raises(InvalidRequest, match="not JSON"):
        lines.value_of(text, "json")


def test_kinds_that_are_asked_for_are_kept_to() -> None:
    assert lines.value_of("1", "text") == "1"
    assert not isinstance(lines.value_of("1", "text"), RawJson)
    assert lines.value_of("é", "bytes") == "é".encode()
    assert lines.value_of_bytes(b"1") == b"1"
    assert isinstance(lines.value_of_bytes(b"1", "json"), RawJson)
    with pytest.raises(InvalidRequest, match="not UTF-8"):
        lines.value_of_bytes(b"\xff", "text")


@pytest.mark.parametrize("raw", [b"\n", b"  \t\r\n", b""])
def test_a_blank_line_says_nothing(raw: bytes) -> None:
    assert lines.parse(raw) is None


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"{", "not a JSON object"),
        (b"\xff", "not UTF-8: invalid start byte at byte 0"),
        ('{"key": "k", "value": 1}'.encode("utf-16"), "not UTF-8"),
        ('{"key": "k", "value": "é"}'.encode("latin-1"), "not UTF-8"),
        ('{"key": "k", "value": 1}'.encode("utf-16-le"), "not a JSON object"),
        (b'{"key": "k", "value": NaN}', "NaN"),
        (b"[" * 100_000, "not a JSON object"),
        (b"[1]", "not list"),
        (b"1", "not int"),
        (b"{}", "nothing"),
        (b'{"key": "k"}', '"value"'),
        (b'{"key": 1, "value": 1}', '"key"'),
        (b'{"key": "k", "value": 1, "base64": ""}', '"base64"'),
        (b'{"key": "k", "value": 1, "ttl": 1}', 'and nothing else; it has "key", "value", "ttl"'),
        (b'{"key": "k", "base64": "?"}', "base64"),
        (b'{"key": "k", "base64": 5}', "base64"),
    ],
)
def test_a_bad_line_is_refused_with_what_is_wrong(raw: bytes, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        lines.parse(raw)


def test_a_byte_order_mark_of_utf8_is_passed_over() -> None:
    assert lines.parse(b'\xef\xbb\xbf{"key": "k", "value": 1}') == lines.Line("k", 1)
