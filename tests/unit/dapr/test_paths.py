"""A path is cleaned while it is escaped and decoded afterwards, as Dapr's runtime does."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvnode.dapr.errors import Kind, StateError
from kvnode.dapr.paths import decoded, parts_of, query_of


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("/v1.0/state/s/k", ["v1.0", "state", "s", "k"]),
        ("/v1.0/state/s/k/", ["v1.0", "state", "s", "k"]),
        ("//v1.0///state/s//k", ["v1.0", "state", "s", "k"]),
        ("/v1.0/./state/x/../s/k", ["v1.0", "state", "s", "k"]),
        ("/../../v1.0/state", ["v1.0", "state"]),
        ("/v1.0/state/s/..", ["v1.0", "state"]),
        ("/v1.0/state/s/...", ["v1.0", "state", "s", "..."]),
        ("/v1.0/state/s/%2e%2e", ["v1.0", "state", "s", "%2e%2e"]),  # escaped, so a name
        ("/v1.0/state/s/a%2Fb", ["v1.0", "state", "s", "a%2Fb"]),
        ("/", []),
        ("", []),
        ("*", []),
    ],
)
def test_a_path_is_cleaned_while_it_is_escaped(path: str, parts: list[str]) -> None:
    assert parts_of(path) == parts


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("key", "key"),
        ("a+b", "a b"),
        ("a%2Bb", "a+b"),
        ("a%2Fb", "a/b"),
        ("a%2fb", "a/b"),
        ("%C3%A9", "é"),
        ("%25", "%"),
        ("%2E%2E", ".."),
        ("a%00b", "a\0b"),
        ("a%7C%7Cb", "a||b"),
        ("%252F", "%2F"),
    ],
)
def test_a_part_is_decoded_as_a_query_is(part: str, text: str) -> None:
    assert decoded(part) == text


@pytest.mark.parametrize("part", ["%", "%2", "a%zz", "%%20", "%ff", "%C3", "%ED%A0%80", "+%"])
def test_a_part_that_cannot_be_decoded_is_refused(part: str) -> None:
    with pytest.raises(StateError) as refused:
        decoded(part)
    assert refused.value.kind is Kind.MALFORMED


@given(st.text(st.characters(exclude_categories=("Cs",)), min_size=1))
def test_every_key_that_a_client_escapes_arrives(key: str) -> None:
    if key not in (".", ".."):
        (part,) = parts_of("/" + quote(key, safe=""))
        assert decoded(part) == key


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (b"", {}),
        (b"a=1&b=2", {"a": "1", "b": "2"}),
        (b"a=1&a=2", {"a": "1"}),
        (b"a=&b", {"a": "", "b": ""}),
        (b"metadata.ttlInSeconds=5", {"metadata.ttlInSeconds": "5"}),
        (b"a=x%20y+z%2B", {"a": "x y z+"}),
    ],
)
def test_of_several_parameters_with_one_name_the_first_counts(query: bytes, found: dict[str, str]) -> None:
    assert query_of(query) == found


@pytest.mark.parametrize("query", [b"a=\xff", b"a=%ff"])
def test_a_query_that_cannot_be_decoded_is_refused(query: bytes) -> None:
    with pytest.raises(StateError) as refused:
        query_of(query)
    assert refused.value.kind is Kind.MALFORMED
