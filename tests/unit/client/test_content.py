"""Values that are stored come back equal; what would not is refused."""

from __future__ import annotations

import enum
import json
import math
from collections import OrderedDict
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvclient.content import NESTING_MAX, RawJson, decode, encode, int_of_text, json_text, text_of_int
from kvclient.errors import InvalidRequest, KvError
from kvclient.item import Item
from kvclient.wire.values import NO_VERSION

TEXT = st.text(st.characters(exclude_categories=("Cs",)))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=20)


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same types all the way down: 1, 1.0 and True are different values."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@given(VALUES)
@example("\u2028 \x00 \U0001f600")
@example([-0.0, 5e-324, 1.7976931348623157e308, 10**400, -(2**64)])
def test_every_json_value_comes_back_equal_and_of_its_type(value: Any) -> None:
    assert same(decode(encode(value)), value)


@given(st.binary())
def test_bytes_come_back_as_bytes(value: bytes) -> None:
    assert same(decode(encode(value)), value)
    assert decode(encode(bytearray(value))) == value


@given(st.integers(0, 9), st.integers(3_990, 12_000), st.booleans())
def test_integers_beyond_the_interpreters_text_limit_come_back_equal(digit: int, digits: int, negative: bool) -> None:
    number = (digit * (10**digits // 9) + 10**digits + 7) * (-1 if negative else 1)
    assert int_of_text(text_of_int(number)) == number
    assert decode(encode({"deep": [number, 1.5, None, "é"]})) == {"deep": [number, 1.5, None, "é"]}


class Colour(enum.StrEnum):
    RED = "red"


class Size(enum.IntEnum):
    BIG = 3


def test_subclasses_that_equal_their_base_come_back_as_the_base() -> None:
    value = OrderedDict({Colour.RED: [Size.BIG, Colour.RED]})
    assert decode(encode(value)) == value == {"red": [3, "red"]}
    with_a_large_integer = {Colour.RED: [Size.BIG, 10**5000]}
    assert decode(encode(with_a_large_integer)) == with_a_large_integer


class Pair(NamedTuple):
    one: int


HUGE = 10**5000


@pytest.mark.parametrize(
    "value",
    [
        (1, 2),
        Pair(1),
        [(1,)],
        {"a": ()},
        {1: "a"},
        {None: 1},
        {"a": {b"b": 1}},
        [b"bytes inside JSON"],
        math.nan,
        [math.inf],
        {"a": -math.inf},
        [HUGE, math.nan],
        "\ud800",
        ["\udfff", HUGE],
        {"\ud800": 1},
        {1, 2},
        object(),
        [memoryview(b"x")],
        [RawJson("1")],
        1j,
        RawJson(""),
        RawJson("{'a': 1}"),
        RawJson("[NaN]"),
        RawJson("Infinity"),
        RawJson("1e999"),
        RawJson('"\ud800"'),
        RawJson("1 2"),
        RawJson("[" * 5000 + "]" * 5000),
        RawJson("[" * (NESTING_MAX + 1) + "]" * (NESTING_MAX + 1)),
    ],
)
def test_what_would_not_come_back_equal_is_refused(value: Any) -> None:
    with pytest.raises(InvalidRequest):
        encode(value)


@pytest.mark.parametrize("text", ["null", "true", "false", "0", "-17", "1.50", "1e3", '"text"', '""', "1" * 5000])
def test_every_json_scalar_is_stored_as_raw_json_untouched(text: str) -> None:
    content = encode(RawJson(text))
    assert json_text(content) == text
    assert len(text) > 4000 or same(decode(content), json.loads(text))


def test_a_value_that_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(InvalidRequest, match="holds itself"):
        encode(endless)


def test_the_deepest_nesting_that_is_taken_comes_back() -> None:
    value: Any = 1
    for _ in range(NESTING_MAX):
        value = [value]
    assert decode(encode(value)) == value


@pytest.mark.parametrize(
    "text", ['{"b": 1.0, "a" : [1e5, 1E400000]}'.replace(", 1E400000", ""), " 1 ", '"\\u00e9"', "9" * 5000]
)
def test_raw_json_is_stored_untouched(text: str) -> None:
    content = encode(RawJson(text))
    assert json_text(content) == text
    if len(text) < 4000:
        assert decode(content) == json.loads(text)
    else:
        assert text_of_int(decode(content)) == text


def test_a_tag_of_a_newer_client_is_an_error_and_not_garbage() -> None:
    with pytest.raises(KvError, match="newer client"):
        decode(b"\x07payload")


@pytest.mark.parametrize("value", [b"", b"\x00\xff", 1, None, RawJson(' {"a" : 1.0} ')])
def test_what_is_stored_can_be_had_undecoded(value: Any) -> None:
    item = Item("k", NO_VERSION, encode(value), 0, 0)
    if isinstance(value, bytes):
        assert (item.raw, item.is_json, item.text) == (value, False, None)
    else:
        assert item.text is not None
        assert (item.raw, item.is_json) == (item.text.encode(), True)


def test_an_item_without_a_value_has_nothing_to_be_had() -> None:
    item = Item("k", NO_VERSION, b"", 0, 0)
    assert (item.raw, item.is_json, item.text, item.value) == (b"", False, None, None)


def test_what_a_newer_client_wrote_is_not_handed_out_undecoded_either() -> None:
    with pytest.raises(KvError, match="newer client"):
        _ = Item("k", NO_VERSION, b"\x09abc", 0, 0).raw
