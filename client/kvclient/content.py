"""Values as users have them <-> content as replicas store it (`wire.values`: one tag byte, then the payload).

Decides: which Python values may be stored.  The rule is that what is stored comes back equal; what would not is refused
before anything is sent.  `bytes` (and `bytearray`, which equals them) come back as `bytes`; everything else is JSON:

- `None`, `bool`, `int` of any size, finite `float`, `str`, `list`, `dict` with `str` keys, and subclasses that compare
  equal to these (`IntEnum`, `OrderedDict`);
- refused: NaN and infinities, tuples (they would come back as lists), keys that are not `str` (they would come back as
  `str`), lone surrogates (not UTF-8), nesting deeper than `NESTING_MAX`, and every other type.

Caveat: the interpreter refuses to convert integers beyond 4,300 digits to and from text, as a guard against slow input.
Such integers are split here instead of lifting a limit that belongs to the whole process.
"""

from __future__ import annotations

import json
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal, Inexact
from typing import Any, NoReturn

from kvclient.errors import InvalidRequest, KvError
from kvclient.wire.values import TAG_BYTES, TAG_JSON

NESTING_MAX = 200
"""Levels of lists and dicts.  The parser recurses; this leaves it room below the interpreter's default of 1,000
frames."""

_DIGITS_MAX = 4_000
_BITS_SAFE = 13_000  # 13,000 bits are at most 3,914 decimal digits
_BYTES_PREFIX = bytes([TAG_BYTES])
_JSON_PREFIX = bytes([TAG_JSON])
_SCALARS = frozenset({str, int, float, bool, type(None)})

_to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")).encode
_from_json = json.JSONDecoder().decode


class RawJson(str):
    """JSON text to be stored untouched: `put("k", RawJson('{"a": 1.0}'))`.

    It is checked to be JSON (no NaN, no infinities), but numbers, spaces and the order of keys stay as they are
    written. A reader gets the decoded value from `Item.value` and the text itself from `Item.text`.
    """

    __slots__ = ()


class _CheckedJson(RawJson):
    """JSON text that `raw_json_at` has checked, so that it need not be parsed a second time."""

    __slots__ = ()


def encode(value: Any) -> bytes:
    """Return the content that stores `value`.  Raises InvalidRequest for what would not come back equal."""
    kind = type(value)
    if kind is bytes:
        return _BYTES_PREFIX + value  # type: ignore[no-any-return]
    if kind is _CheckedJson:
        return _JSON_PREFIX + _utf8(value)
    if kind not in _SCALARS:
        if isinstance(value, bytes | bytearray):
            return _BYTES_PREFIX + value
        if isinstance(value, RawJson):
            return _JSON_PREFIX + _checked_text(value)
        _check(value, 0)
    try:
        text: str = _to_json(value)
    except ValueError as error:
        text = _encode_slowly(value, error)
    return _JSON_PREFIX + _utf8(text)


def decode(content: bytes) -> Any:
    """Return the value that `content` stores.  Raises KvError if a newer client wrote it in a form unknown here."""
    if content[0] == TAG_BYTES:
        return content[1:]
    text = payload(content).decode()
    try:
        return _from_json(text)
    except json.JSONDecodeError:
        raise
    except ValueError:  # an integer beyond the interpreter's limit
        return json.loads(text, parse_int=int_of_text)


def is_json(content: bytes) -> bool:
    """Return True if `content` stores JSON."""
    return content[0] == TAG_JSON


def payload(content: bytes) -> bytes:
    """Return the bytes, or the JSON text in UTF-8.  Raises KvError if a newer client wrote something else."""
    if content[0] not in (TAG_BYTES, TAG_JSON):
        raise KvError(f"the value has the unknown tag {content[0]}: it was written by a newer client")
    return content[1:]


def json_text(content: bytes) -> str | None:
    """Return the JSON text that `content` stores, or None if it stores something else."""
    return content[1:].decode() if content[0] == TAG_JSON else None


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"a string in the value is not valid Unicode: {error.reason}") from error


def _check(value: Any, depth: int) -> None:
    """Raise InvalidRequest unless `value` is made of what JSON gives back equal."""
    if isinstance(value, dict):
        _check_depth(depth)
        for key, element in value.items():
            if not isinstance(key, str):
                raise InvalidRequest(
                    f"the key {key!r:.80} in the value is {type(key).__name__}, but JSON has only str keys"
                )
            if type(element) not in _SCALARS:
                _check(element, depth + 1)
    elif isinstance(value, list):
        _check_depth(depth)
        for element in value:
            if type(element) not in _SCALARS:
                _check(element, depth + 1)
    elif isinstance(value, tuple):
        raise InvalidRequest(f"the value holds the tuple {value!r:.80}, which would come back as a list: store a list")
    elif isinstance(value, RawJson):
        raise InvalidRequest("RawJson must be the whole value: build the text around it instead of nesting it")
    elif not isinstance(value, str | int | float | None):
        raise InvalidRequest(f"{value!r:.80} is {type(value).__name__}: store bytes, or what JSON can express")


def _check_depth(depth: int) -> None:
    if depth >= NESTING_MAX:
        raise InvalidRequest(f"the value is nested deeper than {NESTING_MAX} levels, or holds itself")


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"the JSON text holds {name}, which is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number - number != 0.0:
        raise InvalidRequest(f"the JSON text holds {text:.80}, which readers would get as infinity")
    return number


# Integers are only looked at, never converted: they may be of any size.
_looking = json.JSONDecoder(parse_int=len, parse_float=_finite, parse_constant=_refuse_constant)


def _checked_text(text: RawJson) -> bytes:
    try:
        _check(_looking.decode(text), 0)
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"RawJson is not JSON: {error}") from error
    except RecursionError as error:
        raise InvalidRequest(f"the JSON text is nested deeper than {NESTING_MAX} levels") from error
    return _utf8(text)


def raw_json_at(text: str, at: int) -> tuple[RawJson, int]:
    """Return the JSON value that begins at `text[at]`, as it is written there, and where it ends.

    For whoever takes values out of a larger JSON text: what this returns is checked, and not parsed again when it is
    stored.  Raises InvalidRequest.
    """
    try:
        value, end = _looking.raw_decode(text, at)
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"it is not JSON: {error}") from error
    except RecursionError as error:
        raise InvalidRequest(f"the JSON text is nested deeper than {NESTING_MAX} levels") from error
    if type(value) not in _SCALARS:
        _check(value, 0)
    return _CheckedJson(text[at:end]), end


def _encode_slowly(value: Any, error: ValueError) -> str:
    """Return the JSON text of a value that the fast encoder refused, or refuse it with a reason."""
    if value is None or isinstance(value, bool | str):
        return str(_to_json(value))
    if isinstance(value, float):
        if value - value != 0.0:
            raise InvalidRequest(f"the value holds {value!r}, which JSON cannot express") from error
        return float.__repr__(value)
    if isinstance(value, int):
        return text_of_int(value)
    if isinstance(value, dict):
        pairs = (f"{_to_json(key)}:{_encode_slowly(element, error)}" for key, element in value.items())
        return "{" + ",".join(pairs) + "}"
    return "[" + ",".join(_encode_slowly(element, error) for element in value) + "]"


def text_of_int(number: int) -> str:
    """Return the decimal text of an integer of any size."""
    if number.bit_length() <= _BITS_SAFE:
        return int.__repr__(number)
    exact = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[Inexact])
    digits = format(_decimal(abs(number), number.bit_length(), exact), "f")
    return "-" + digits if number < 0 else digits


def _decimal(number: int, bits: int, exact: Context) -> Decimal:
    """Return `number` by halves: `decimal` multiplies fast, while dividing such integers takes minutes."""
    if bits <= _BITS_SAFE:
        return Decimal(number)
    low_bits = bits // 2
    high, low = number >> low_bits, number & ((1 << low_bits) - 1)
    shift = exact.power(Decimal(2), low_bits)
    return exact.fma(_decimal(high, bits - low_bits, exact), shift, _decimal(low, low_bits, exact))


def int_of_text(text: str) -> int:
    """Return the integer that a decimal text of any length names."""
    if len(text) <= _DIGITS_MAX:
        return int(text)
    if text[0] == "-":
        return -int_of_text(text[1:])
    half = len(text) // 2
    high: int = int_of_text(text[:-half]) * 10**half
    return high + int_of_text(text[-half:])
