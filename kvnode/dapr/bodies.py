"""The JSON bodies of requests, read without loss: every `value` stays the text that it was.

Decides: what is accepted of a body, which is what Dapr's runtime (a Go program) accepts: the first JSON value counts
and what follows it is ignored; names of fields match in any case, the last of several counts; unknown fields are
ignored; null is the same as nothing.  Beyond that, a body that is a JSON string which holds the JSON text is taken for
that text, because `requests.post(url, json=text)` sends it so.  Everything is read before anything is done.

A body is parsed once: the values are cut out of it where the parser of `kvclient.content` says that they end, and that
has checked them.  Raises StateError (malformed) with what is wrong and where.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, NoReturn

from kvclient import InvalidRequest, RawJson
from kvclient.content import raw_json_at
from kvnode.dapr import errors
from kvnode.dapr.errors import StateError
from kvnode.dapr.options import ITEMS_MAX

_NULL = RawJson("null")
_NOTHING: Mapping[str, str] = {}
# One match takes what would be several steps: a small body is read in half the time.
_space = re.compile(r"[ \t\n\r]*").match
_plain_name = re.compile(r'"([^"\\\x00-\x1f]*)"[ \t\n\r]*:[ \t\n\r]*').match
_mark = re.compile(r"[ \t\n\r]*([,\]}])[ \t\n\r]*").match

Reader = Callable[[str, int], tuple[Any, int]]


class Item(NamedTuple):
    """One item of a save or one request of a transaction, its words unchecked."""

    key: str
    value: RawJson = _NULL
    etag: str = ""
    metadata: Mapping[str, str] = _NOTHING
    concurrency: str = ""
    consistency: str = ""


class BulkGet(NamedTuple):
    """The body of a bulk get."""

    keys: list[str]
    parallelism: int = 0
    metadata: Mapping[str, str] = _NOTHING


class Step(NamedTuple):
    """One operation of a transaction."""

    operation: str
    request: Item


def items_of(body: bytes) -> list[Item]:
    """Return the items of a save."""
    return [_item(fields) for fields in _read(body, _ITEMS, "an array of items") or ()]


def bulk_get_of(body: bytes) -> BulkGet:
    """Return the keys of a bulk get."""
    fields = _read(body, _BULK_GET, "an object with keys")
    keys = fields.get("keys")
    if keys is None:
        keys = []
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise errors.malformed(f"keys must be an array of strings, not {keys!r:.80}")
    parallelism = fields.get("parallelism")
    if parallelism is None:
        parallelism = 0
    if type(parallelism) is not int:
        raise errors.malformed(f"parallelism must be a whole number, not {parallelism!r:.80}")
    return BulkGet(keys, parallelism, _metadata(fields))


def steps_of(body: bytes) -> list[Step]:
    """Return the operations of a transaction."""
    fields = _read(body, _TRANSACTION, "an object with operations")
    _metadata(fields)
    return [Step(_text(step, "operation"), _item(step.get("request") or {})) for step in fields.get("operations") or ()]


# -- fields


def _item(fields: dict[str, Any]) -> Item:
    options = fields.get("options")
    if options is None:
        concurrency = consistency = ""
    else:
        if not isinstance(options, dict):
            raise errors.malformed(f"options must be an object, not {options!r:.80}")
        options = {name.casefold(): option for name, option in options.items()}
        concurrency, consistency = _text(options, "concurrency"), _text(options, "consistency")
    if "contenttype" in fields:
        _text(fields, "contenttype")
    return Item(
        _text(fields, "key"),
        fields.get("value", _NULL),
        _text(fields, "etag"),
        _metadata(fields),
        concurrency,
        consistency,
    )


def _text(fields: Mapping[str, Any], name: str) -> str:
    text = fields.get(name)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise errors.malformed(f"{name} must be a string, not {text!r:.80}")
    return text


def _metadata(fields: Mapping[str, Any]) -> Mapping[str, str]:
    metadata = fields.get("metadata")
    if metadata is None:
        return _NOTHING
    if not isinstance(metadata, dict):
        raise errors.malformed(f"metadata must be an object of strings, not {metadata!r:.80}")
    for name, text in metadata.items():
        if not isinstance(text, str | None):
            raise errors.malformed(f"metadata must be strings, but {name!r:.80} is {text!r:.80}")
    return {name: text or "" for name, text in metadata.items()}


# -- JSON


def _read(body: bytes, read: Reader, wanted: str) -> Any:
    """Return what `read` makes of the first JSON value of a body."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise errors.malformed(f"the body is not UTF-8: {error}") from error
    at = _skip(text, 0)
    if text[at : at + 1] == '"':
        text, at = _inner(text, at)
    if at == len(text):
        raise errors.malformed(f"the body is empty: send {wanted}")
    return read(text, at)[0]


def _inner(text: str, at: int) -> tuple[str, int]:
    """Return the text that a string holds, and where its value begins."""
    inner, _ = _string(text, at)
    try:
        inner.encode()
    except UnicodeEncodeError as error:
        raise errors.malformed(f"the text in the body is not valid Unicode: {error.reason}") from error
    return inner, _skip(inner, 0)


def _skip(text: str, at: int) -> int:
    match = _space(text, at)
    return match.end() if match else at


def _wrong(text: str, at: int, wanted: str) -> StateError:
    found = repr(text[at : at + 20]) if at < len(text) else "the end of the body"
    return errors.malformed(f"the body must have {wanted} at character {at}, not {found}")


def _string(text: str, at: int) -> tuple[str, int]:
    if text[at : at + 1] != '"':
        raise _wrong(text, at, "a name in double quotes")
    return _any(text, at)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_reading = json.JSONDecoder(parse_constant=_refuse)
_skipping = json.JSONDecoder(parse_int=len, parse_float=len, parse_constant=_refuse)


def _any(text: str, at: int, decoder: json.JSONDecoder = _reading) -> tuple[Any, int]:
    try:
        return decoder.raw_decode(text, at)
    except (ValueError, RecursionError) as error:
        raise errors.malformed(f"the body is not JSON that can be read: {error}") from error


def _value(text: str, at: int) -> tuple[RawJson, int]:
    try:
        return raw_json_at(text, at)
    except InvalidRequest as error:
        raise errors.malformed(f"a value cannot be stored: {error}") from error


def _array(text: str, at: int, element: Reader) -> tuple[list[Any] | None, int]:
    if text.startswith("null", at):
        return None, at + 4
    if text[at : at + 1] != "[":
        raise _wrong(text, at, "an array")
    elements: list[Any] = []
    at = _skip(text, at + 1)
    if text[at : at + 1] == "]":
        return elements, at + 1
    while True:
        read, at = element(text, at)
        elements.append(read)
        if len(elements) > ITEMS_MAX:
            raise errors.malformed(f"the body has more than {ITEMS_MAX} items: send several requests")
        mark = _mark(text, at)
        if mark is None or mark[1] == "}":
            raise _wrong(text, at, "',' or ']'")
        at = mark.end()
        if mark[1] == "]":
            return elements, at


def _object(text: str, at: int, fields: Mapping[str, Reader]) -> tuple[dict[str, Any], int]:
    """Return an object's fields by their names in lower case; those that `fields` does not name are left out."""
    if text.startswith("null", at):
        return {}, at + 4
    if text[at : at + 1] != "{":
        raise _wrong(text, at, "an object")
    members: dict[str, Any] = {}
    at = _skip(text, at + 1)
    if text[at : at + 1] == "}":
        return members, at + 1
    while True:
        plain = _plain_name(text, at)
        name, at = _name(text, at) if plain is None else (plain[1], plain.end())
        read = fields.get(name)
        if read is None:
            name = name.casefold()
            read = fields.get(name)
        if read is None:
            _, at = _any(text, at, _skipping)
        else:
            members[name], at = read(text, at)
        mark = _mark(text, at)
        if mark is None or mark[1] == "]":
            raise _wrong(text, at, "',' or '}'")
        at = mark.end()
        if mark[1] == "}":
            return members, at


def _name(text: str, at: int) -> tuple[str, int]:
    """Return the name of a member, and where its value begins."""
    name, at = _string(text, at)
    at = _skip(text, at)
    if text[at : at + 1] != ":":
        raise _wrong(text, at, "':'")
    return name, _skip(text, at + 1)


_ITEM: Reader = partial(
    _object,
    fields={"key": _any, "value": _value, "etag": _any, "metadata": _any, "options": _any, "contenttype": _any},
)
_ITEMS: Reader = partial(_array, element=_ITEM)
_STEP: Reader = partial(_object, fields={"operation": _any, "request": _ITEM})
_TRANSACTION: Reader = partial(_object, fields={"operations": partial(_array, element=_STEP), "metadata": _any})
_BULK_GET: Reader = partial(_object, fields={"keys": _any, "parallelism": _any, "metadata": _any})
