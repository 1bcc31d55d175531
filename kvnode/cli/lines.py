"""Values and items as text: arguments of commands, lines of JSON Lines files, results on stdout.

Decides: what VALUE on a command line stores, and how bytes stand in JSON (`{"base64": ...}` in place of `"value"`).
Leaves to others: which Python values can be stored at all (`kvclient.content`).
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, NamedTuple

from kvclient import Item, RawJson
from kvclient.errors import InvalidRequest

LINE_FIELDS = {"key", "value", "base64"}


class Line(NamedTuple):
    """One line of an import: what is to be stored under which key."""

    key: str
    value: Any


def value_of(text: str, kind: str | None = None) -> Any:
    """Return what to store for VALUE: JSON if it parses (or `kind` is "json"), otherwise the text, or its bytes.

    Raises InvalidRequest if it is not what `kind` says.
    """
    if kind == "bytes":
        return text.encode("utf-8", "surrogateescape")
    if kind == "text":
        return text
    try:
        json.loads(text, parse_int=len, parse_float=len, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        if kind == "json":
            raise InvalidRequest(f"the value is not JSON: {error}") from error
        return text
    return RawJson(text)


def value_of_bytes(data: bytes, kind: str | None = None) -> Any:
    """Return what to store for the content of a file: its bytes, unless `kind` says json or text."""
    if kind in (None, "bytes"):
        return data
    try:
        return value_of(data.decode("utf-8"), kind)
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the value is not UTF-8 text: {error.reason} at byte {error.start}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def parse(raw: bytes) -> Line | None:
    """Return what a line of an import says; None for a blank one.  Raises InvalidRequest."""
    if not raw.strip():
        return None
    try:
        text = raw.decode("utf-8-sig")  # some editors begin a file with a byte order mark
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"not UTF-8: {error.reason} at byte {error.start}; save the file as UTF-8") from error
    try:
        fields = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"not a JSON object: {error}") from error
    if not isinstance(fields, dict):
        raise InvalidRequest(f'a line must be {{"key": ..., "value": ...}}, not {type(fields).__name__}')
    unknown = [name for name in fields if name not in LINE_FIELDS]
    if unknown or not isinstance(fields.get("key"), str) or ("value" in fields) == ("base64" in fields):
        names = ", ".join(map(json.dumps, fields)) or "nothing"
        raise InvalidRequest(
            f'a line must have "key" (text) and "value" (or "base64"), and nothing else; it has {names}'
        )
    return Line(fields["key"], _bytes_of(fields["base64"]) if "base64" in fields else fields["value"])


def _bytes_of(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise InvalidRequest(f'"base64" is not base64: {error}') from error


def dump(item: Item) -> str:
    """Return an item as a line of an export, without the line break; `parse` reads it back."""
    key = json.dumps(item.key, ensure_ascii=False)
    if item.text is None:
        return f'{{"key":{key},"base64":"{base64.b64encode(item.value).decode("ascii")}"}}'
    return f'{{"key":{key},"value":{value_text(item)}}}'


def dump_value(item: Item) -> str:
    """Return an item's value for people: JSON on one line, or base64 of bytes, marked as that."""
    if item.text is None:
        return "base64:" + base64.b64encode(item.value).decode("ascii")
    return value_text(item)


def value_text(item: Item) -> str:
    """Return the JSON of an item on one line: the stored text itself unless it has line breaks."""
    text = item.text
    if text is not None and "\n" not in text and "\r" not in text:
        return text
    return to_json(item.value)


def to_json(value: Any) -> str:
    """Return a value as one line of JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def item_json(item: Item) -> str:
    """Return an item as one JSON object: key, value (or base64 of its bytes), etag, created_at, expires_at."""
    created, expires = item.created_at, item.expires_at
    rest = {
        "etag": item.etag,
        "created_at": created.isoformat() if created else None,
        "expires_at": expires.isoformat() if expires else None,
    }
    return f"{dump(item)[:-1]},{to_json(rest)[1:]}"
