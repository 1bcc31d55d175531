"""What an HTTP answer is made of: status, headers, bytes; and the answer that an error becomes.

Decides: the two JSON shapes of Dapr's errors, the headers that tell a caller what became of a write (`x-outcome`) and
when to come again.  Leaves to others: which error it is (`errors`), and when what is answered (`http`).

Values go out as the bytes that were stored; nothing decodes or encodes them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC
from typing import Any, NamedTuple

from kvnode.dapr.errors import Kind, StateError
from kvnode.dapr.state import Entry

Headers = list[tuple[bytes, bytes]]

_JSON = (b"content-type", b"application/json")
_BINARY = (b"content-type", b"application/octet-stream")
_TEXT = (b"content-type", b"text/plain; charset=utf-8")
NOT_JSON = "the value is bytes, not JSON, which a bulk get over HTTP cannot hold: get this key alone, or use gRPC"


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    headers: Headers
    body: bytes = b""


NO_CONTENT = Answer(204, [])


def of_json(status: int, body: Any, headers: Sequence[tuple[bytes, bytes]] = ()) -> Answer:
    """Answer with an object."""
    return of_json_bytes(status, json.dumps(body, separators=(",", ":")).encode(), headers)


def of_json_bytes(status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> Answer:
    """Answer with JSON text."""
    return Answer(status, [_JSON, _length(body), *headers], body)


def of_text(status: int, text: str) -> Answer:
    """Answer with plain text."""
    body = text.encode()
    return Answer(status, [_TEXT, _length(body)], body)


def of_code(status: int, code: str, message: str, headers: Sequence[tuple[bytes, bytes]] = ()) -> Answer:
    """Answer with an error in the plain shape."""
    return of_json(status, {"errorCode": code, "message": message}, headers)


def of_etag(etag: str) -> Answer:
    """Answer that a value was written."""
    return Answer(204, [(b"etag", etag.encode())])


def of_entry(entry: Entry | None) -> Answer:
    """Answer with a value."""
    if entry is None:
        return NO_CONTENT
    kind = _JSON if entry.is_json else _BINARY
    headers = [kind, _length(entry.data), (b"etag", entry.etag.encode())]
    if entry.expires_at is not None:
        headers.append((b"metadata.ttlexpiretime", expire_time(entry).encode()))
    return Answer(200, headers, entry.data)


def of_entries(keys: Sequence[str], entries: Sequence[Entry | StateError | None]) -> Answer:
    """Answer a bulk get: one object for each key, in their order."""
    return of_json_bytes(200, b"[" + b",".join(map(_bulk_item, keys, entries)) + b"]")


def of_error(error: StateError) -> Answer:
    """Answer what a failed operation is told."""
    row = error.row
    message = error.message
    if error.kind is Kind.ILLEGAL_KEY:
        message = f"api error: code = InvalidArgument desc = {message}"
    body: dict[str, Any] = {"errorCode": error.code, "message": message}
    if row.is_rich:
        body["details"] = error.details()
    if error.items:
        body["items"] = [
            {"key": key, "outcome": _outcome(outcome)}
            if cause is None
            else {"key": key, "outcome": _outcome(outcome), "errorCode": cause.code, "message": cause.detail}
            for key, outcome, cause in error.items
        ]
    headers = [(b"x-outcome", _outcome(error.outcome).encode())]
    if error.retry_after_s:
        headers.append((b"retry-after", b"%d" % error.retry_after_s))
    return of_json(row.status, body, headers)


def expire_time(entry: Entry) -> str:
    """Return when an entry expires, as `ttlExpireTime` says it: RFC 3339, UTC, seconds."""
    assert entry.expires_at is not None
    return entry.expires_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _bulk_item(key: str, entry: Entry | StateError | None) -> bytes:
    head = b'{"key":' + json.dumps(key).encode()
    if entry is None:
        return head + b"}"
    if isinstance(entry, StateError):
        return head + b',"error":' + json.dumps(entry.message).encode() + b"}"
    etag = b'"etag":"' + entry.etag.encode() + b'"'
    if not entry.is_json:
        return head + b"," + etag + b',"error":' + json.dumps(NOT_JSON).encode() + b"}"
    more = b"" if entry.expires_at is None else b',"metadata":{"ttlExpireTime":"%s"}' % expire_time(entry).encode()
    return head + b',"data":' + entry.data + b"," + etag + more + b"}"


def _outcome(outcome: str) -> str:
    return outcome.replace(" ", "-")


def _length(body: bytes) -> tuple[bytes, bytes]:
    return b"content-length", b"%d" % len(body)
