"""What a request says about an operation, checked: the words of Dapr's API -> `Save` and `Delete`.

Decides: which words exist and which of several wins, what an ETag and a time to live may be, which keys are legal.
Whatever is unknown is refused: a request for more than the words say must not become one for less.  Leaves to others:
where the words stand in a request (`bodies`, `http`, `grpc`), and what an operation does (`state`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from kvclient import Concurrency, Consistency, InvalidRequest, RawJson, Ttl
from kvclient.options import key_bytes
from kvclient.wire.values import KEY_BYTES_MAX
from kvnode.dapr import errors
from kvnode.dapr.errors import Call, Kind
from kvnode.dapr.settings import SEPARATOR

ITEMS_MAX = 16_384
"""Items of one bulk call.  To read very many tiny ones takes so long that others would wait; and each that fails is
told of in the answer, and takes much more room there than in the request."""
TTL_S_MAX = 2**31 - 1
TTL_NAME = "ttlInSeconds"
JSON_TYPE = "application/json"

_CONSISTENCIES: dict[str, Consistency | None] = {
    "": None, "eventual": "eventual", "strong": "strong", "quorum": "quorum",
}  # fmt: skip
_CONCURRENCIES: dict[str, Concurrency | None] = {"": None, "first-write": "first-write", "last-write": "last-write"}
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}", re.ASCII)


class Save(NamedTuple):
    """A value to be written under a key."""

    key: str
    value: bytes | RawJson
    etag: str = ""
    """"" is none; else only over that version, whatever `concurrency` says."""
    concurrency: Concurrency | None = None
    """"first-write" without an ETag creates."""
    consistency: Consistency | None = None
    ttl: Ttl | None = None
    """None: the store's default."""


class Delete(NamedTuple):
    """A key to be deleted."""

    key: str
    etag: str = ""
    concurrency: Concurrency | None = None
    consistency: Consistency | None = None


Operation = Save | Delete


def consistency_of(*words: str | None) -> Consistency | None:
    """Return the first word that says something, None if none does.  Raises StateError if any is unknown."""
    chosen: Consistency | None = None
    for word in words:
        if word:
            if word not in _CONSISTENCIES:
                raise errors.malformed(f"consistency must be 'strong', 'eventual' or 'quorum', not {word!r:.80}")
            chosen = chosen or _CONSISTENCIES[word]
    return chosen


def concurrency_of(*words: str | None) -> Concurrency | None:
    """Return the first word that says something, None if none does.  Raises StateError if any is unknown."""
    chosen: Concurrency | None = None
    for word in words:
        if word:
            if word not in _CONCURRENCIES:
                raise errors.malformed(f"concurrency must be 'first-write' or 'last-write', not {word!r:.80}")
            chosen = chosen or _CONCURRENCIES[word]
    return chosen


def ttl_of(metadata: Mapping[str, str], call: Call, store: str, key: str) -> Ttl | None:
    """Return the time to live that metadata states, None if it states none.  Raises StateError.

    -1, 0 and "" are "never", also where the store has a default.
    """
    text = metadata.get(TTL_NAME)
    if text is None:
        return None
    if text == "":
        return "never"
    seconds = int(text) if _INTEGER.fullmatch(text) else -2
    if not -1 <= seconds <= TTL_S_MAX:
        detail = (
            f"incorrect value for metadata '{TTL_NAME}': it must be a whole number of seconds from -1 (never) to"
            f" {TTL_S_MAX}, not {text!r:.80}"
        )
        raise errors.of_kind(Kind.FAILED, call, store, key, detail)
    return float(seconds) if seconds > 0 else "never"


def value_of(data: bytes, content_type: str) -> bytes | RawJson:
    """Return bytes as they are to be stored: as JSON if their content type says so.  Raises StateError.

    Whether it is JSON is found when it is stored; here only that it is text.
    """
    if content_type.partition(";")[0].strip().lower() != JSON_TYPE:
        return data
    try:
        return RawJson(data.decode())
    except UnicodeDecodeError as error:
        raise errors.malformed(f"a value of content type {JSON_TYPE} is not UTF-8: {error}") from error


def check_count(items: int) -> None:
    """Raise StateError if a call has too many items."""
    if items > ITEMS_MAX:
        raise errors.malformed(f"a request may have {ITEMS_MAX} items, not {items}: send several requests")


def check_key(store: str, prefix: str, key: str, *, has_prefix: bool = False) -> str:
    """Return the key as the cluster has it.  Raises StateError; `has_prefix`: it came with one, so it may hold `||`."""
    if not key:
        raise errors.malformed('"key" is a required field')
    if not has_prefix and SEPARATOR in key:
        raise errors.illegal_key(store, key)
    whole = prefix + key
    if not whole.isascii() or len(whole) > KEY_BYTES_MAX:
        try:
            key_bytes(key)
        except InvalidRequest as error:
            raise errors.malformed(str(error)) from error
        if len(whole.encode()) > KEY_BYTES_MAX:
            room = KEY_BYTES_MAX - len(prefix.encode())
            raise errors.malformed(f"a key of this store must have at most {room} bytes of UTF-8: {key!r:.80}")
    return whole


class Said(NamedTuple):
    """What a request says for everything in it, beside what each item says for itself.

    Of several places the first that speaks wins: the query, the item's options, the headers of Dapr's old how-to, the
    metadata; and of metadata that of the query before the item's own.
    """

    consistency: str = ""
    concurrency: str = ""
    header_consistency: str = ""
    header_concurrency: str = ""
    metadata: Mapping[str, str] = {}

    def over(self, metadata: Mapping[str, str]) -> Mapping[str, str]:
        """Return an item's metadata under that of the request."""
        return {**metadata, **self.metadata} if self.metadata else metadata

    def consistency_of(self, metadata: Mapping[str, str], option: str = "") -> Consistency | None:
        """Return the consistency of an item.  Raises StateError."""
        return consistency_of(self.consistency, option, self.header_consistency, metadata.get("consistency"))

    def concurrency_of(self, metadata: Mapping[str, str], option: str = "") -> Concurrency | None:
        """Return the concurrency of an item.  Raises StateError."""
        return concurrency_of(self.concurrency, option, self.header_concurrency, metadata.get("concurrency"))
