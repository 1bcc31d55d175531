"""The form of HTTP answers: headers, the two shapes of errors, values that pass as they are."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from kvnode.dapr import answers, errors
from kvnode.dapr.errors import Call, Kind, StateError
from kvnode.dapr.state import Entry

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)


def entry(data: bytes, is_json: bool = True, expires_at: datetime | None = None) -> Entry:
    return Entry("k", data, is_json, "etag-1", expires_at)


def test_a_value_goes_out_as_it_is_with_its_etag_bare() -> None:
    answer = answers.of_entry(entry(b' {"a" : 1.0}'))
    assert (answer.status, answer.body) == (200, b' {"a" : 1.0}')
    assert dict(answer.headers) == {b"content-type": b"application/json", b"content-length": b"12", b"etag": b"etag-1"}


def test_bytes_are_called_bytes_also_when_there_are_none() -> None:
    answer = answers.of_entry(entry(b"", is_json=False))
    assert (answer.status, answer.body) == (200, b"")
    assert dict(answer.headers)[b"content-type"] == b"application/octet-stream"


def test_what_is_missing_is_204() -> None:
    assert answers.of_entry(None) == answers.Answer(204, [], b"")


@pytest.mark.parametrize("moment", [MOMENT, MOMENT.astimezone(timezone(timedelta(hours=5)))])
def test_the_time_of_expiry_is_in_utc_and_seconds(moment: datetime) -> None:
    answer = answers.of_entry(entry(b"1", expires_at=moment))
    assert dict(answer.headers)[b"metadata.ttlexpiretime"] == b"2026-01-02T03:04:05Z"


def test_a_bulk_get_is_one_array_of_values_as_they_are() -> None:
    failed = errors.of_kind(Kind.UNAVAILABLE, Call.GET, "s", "d", 'why "so"')
    entries = [entry(b"1e5", expires_at=MOMENT), None, entry(b"\xff", is_json=False), failed]
    answer = answers.of_entries(['a"é', "b", "c", "d"], entries)
    assert b'"data":1e5,' in answer.body
    a, b, c, d = json.loads(answer.body)
    assert a == {"key": 'a"é', "data": 1e5, "etag": "etag-1", "metadata": {"ttlExpireTime": "2026-01-02T03:04:05Z"}}
    assert b == {"key": "b"}
    assert c == {"key": "c", "etag": "etag-1", "error": answers.NOT_JSON}
    assert d == {"key": "d", "error": 'fail to get d from state store s: why "so"'}
    assert answers.of_entries([], []).body == b"[]"


def test_a_plain_error_has_two_members_and_a_rich_one_three() -> None:
    plain = answers.of_error(errors.of_kind(Kind.FAILED, Call.SAVE, "s", "k", "why"))
    assert set(json.loads(plain.body)) == {"errorCode", "message"}
    rich = answers.of_error(errors.not_found("s"))
    assert set(json.loads(rich.body)) == {"errorCode", "message", "details"}


@pytest.mark.parametrize(
    ("outcome", "header"), [("not applied", b"not-applied"), ("unknown", b"unknown"), ("partial", b"partial")]
)
def test_an_error_says_what_became_of_the_operation(outcome: errors.Outcome, header: bytes) -> None:
    answer = answers.of_error(StateError(Kind.FAILED, "why", call=Call.SAVE, outcome=outcome))
    assert dict(answer.headers)[b"x-outcome"] == header
    assert b"retry-after" not in dict(answer.headers)


def test_an_overloaded_cluster_says_when_to_come_again() -> None:
    answer = answers.of_error(errors.of_kind(Kind.UNAVAILABLE, Call.SAVE, "s", "k", "why", is_overloaded=True))
    assert dict(answer.headers)[b"retry-after"] == b"1"


def test_a_text_that_is_no_unicode_is_still_json() -> None:
    answer = answers.of_error(errors.malformed("\ud800"))
    assert json.loads(answer.body)["message"] == "\ud800"
