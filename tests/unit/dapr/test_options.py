"""The words of a request: which wins, and that none is ever taken for less than it says."""

from __future__ import annotations

import pytest

from kvclient import RawJson
from kvnode.dapr import options
from kvnode.dapr.errors import Call, Kind, StateError


@pytest.mark.parametrize(
    ("words", "wins"),
    [
        ((), None),
        ((None, "", None), None),
        (("strong",), "strong"),
        ((None, "eventual", "strong"), "eventual"),
        (("", "quorum"), "quorum"),
    ],
)
def test_the_first_word_for_consistency_wins(words: tuple[str | None, ...], wins: str | None) -> None:
    assert options.consistency_of(*words) == wins


@pytest.mark.parametrize("word", ["Strong", "STRONG", " strong", "linearizable", "0", "first-write"])
def test_an_unknown_consistency_is_refused_wherever_it_stands(word: str) -> None:
    for words in ((word,), ("strong", word), (None, word)):
        with pytest.raises(StateError, match="consistency must be") as refused:
            options.consistency_of(*words)
        assert refused.value.kind is Kind.MALFORMED


@pytest.mark.parametrize("word", ["FirstWrite", "first_write", "strong", " "])
def test_an_unknown_concurrency_is_refused(word: str) -> None:
    with pytest.raises(StateError, match="concurrency must be") as refused:
        options.concurrency_of(None, word)
    assert refused.value.kind is Kind.MALFORMED
    assert options.concurrency_of(None, "", "first-write", "last-write") == "first-write"


@pytest.mark.parametrize(
    ("text", "ttl"),
    [("-1", "never"), ("0", "never"), ("", "never"), ("+5", 5.0), ("1", 1.0), ("007", 7.0), ("2147483647", 2147483647)],
)
def test_a_time_to_live_is_seconds_or_never(text: str, ttl: object) -> None:
    assert options.ttl_of({"ttlInSeconds": text}, Call.SAVE, "s", "k") == ttl


def test_no_time_to_live_is_none_said() -> None:
    assert options.ttl_of({}, Call.SAVE, "s", "k") is None
    assert options.ttl_of({"TTLINSECONDS": "x"}, Call.SAVE, "s", "k") is None  # names are case-sensitive


@pytest.mark.parametrize("text", ["-2", "2147483648", "1.5", "1e3", " 1", "1_0", "ten", "٣", "9" * 5000, "nan"])
def test_a_wrong_time_to_live_is_refused_as_dapr_does(text: str) -> None:
    with pytest.raises(StateError, match="incorrect value for metadata 'ttlInSeconds'") as refused:
        options.ttl_of({"ttlInSeconds": text}, Call.SAVE, "s", "k")
    assert (refused.value.row.status, refused.value.code) == (500, "ERR_STATE_SAVE")


@pytest.mark.parametrize(
    ("content_type", "is_json"),
    [
        ("", False),
        ("application/octet-stream", False),
        ("text/json", False),
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
    ],
)
def test_bytes_are_json_if_their_content_type_says_so(content_type: str, is_json: bool) -> None:
    value = options.value_of(b'{"a": 1}', content_type)
    assert isinstance(value, RawJson) == is_json
    assert value == ('{"a": 1}' if is_json else b'{"a": 1}')


def test_json_that_is_not_text_is_refused() -> None:
    with pytest.raises(StateError, match="not UTF-8") as refused:
        options.value_of(b"\xff", "application/json")
    assert refused.value.kind is Kind.MALFORMED


def test_a_key_gets_its_prefix() -> None:
    assert options.check_key("s", "", "k") == "k"
    assert options.check_key("s", "app||", "k") == "app||k"
    assert options.check_key("s", "", "app||k", has_prefix=True) == "app||k"
    assert options.check_key("s", "", "a|b") == "a|b"


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("", Kind.MALFORMED),
        ("||", Kind.ILLEGAL_KEY),
        ("a||b", Kind.ILLEGAL_KEY),
        ("k" * 1025, Kind.MALFORMED),
        ("é" * 513, Kind.MALFORMED),
        ("\ud800", Kind.MALFORMED),
    ],
)
def test_an_impossible_key_is_refused(key: str, kind: Kind) -> None:
    with pytest.raises(StateError) as refused:
        options.check_key("s", "", key)
    assert refused.value.kind is kind


def test_the_prefix_counts_towards_the_length_of_a_key() -> None:
    assert len(options.check_key("s", "app||", "k" * 1019)) == 1024
    with pytest.raises(StateError, match="at most 1019 bytes"):
        options.check_key("s", "app||", "k" * 1020)
