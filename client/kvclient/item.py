"""What a read, a write or a lost check gives back: one key's value with its version and times.

Decides: the fields that users see, and that decoding waits until somebody looks: a client that puts ten thousand items
a second looks at few of them.  Leaves to others: the layout (`wire.values`) and the meaning of content (`content`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from kvclient import content as contents
from kvclient.wire.values import BODY_HEADER_BYTES, VERSION_BYTES, Version, body_times, etag_of

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_UNDECODED: Final = object()


class Item:
    """One value of a key as it was read or written.  Frozen; two items are equal if key and version are.

    Made by this package only.  `value` is decoded at the first look and kept: do not change a list or dict in place.
    """

    __slots__ = ("_content", "_created_ms", "_expires_ms", "_explain", "_key", "_value", "_version")

    def __init__(
        self,
        key: str,
        version: Version,
        content: bytes,
        expires_ms: int,
        created_ms: int,
        explain: Mapping[str, Any] | None = None,
    ) -> None:
        self._key = key
        self._version = version
        self._content = content
        self._expires_ms = expires_ms
        self._created_ms = created_ms
        self._explain = explain
        self._value: Any = _UNDECODED

    @property
    def key(self) -> str:
        """The key, without its store."""
        return self._key

    @property
    def value(self) -> Any:
        """What was stored: `bytes`, or the value of the JSON text.  None for an item of `scan(values=False)`."""
        if self._value is _UNDECODED:
            self._value = contents.decode(self._content) if self._content else None
        return self._value

    @property
    def text(self) -> str | None:
        """The JSON text exactly as it is stored (see `RawJson`), or None if `bytes` are stored."""
        return contents.json_text(self._content) if self._content else None

    @property
    def is_json(self) -> bool:
        """True if JSON is stored, False for `bytes`, and for an item of `scan(values=False)`."""
        return contents.is_json(self._content) if self._content else False

    @property
    def raw(self) -> bytes:
        """What is stored, undecoded: the `bytes`, or the JSON text in UTF-8.  Empty for `scan(values=False)`."""
        return contents.payload(self._content) if self._content else b""

    @property
    def etag(self) -> str:
        """The version as opaque, URL-safe text: give it to `put(etag=...)` to write only over this very value."""
        return etag_of(self._version)

    @property
    def version(self) -> Version:
        """The 44 bytes that order the values of one key: the later value has the greater version."""
        return self._version

    @property
    def expires_at(self) -> datetime | None:
        """The moment (UTC) from which the key counts as absent, or None if it never expires."""
        return _EPOCH + timedelta(milliseconds=self._expires_ms) if self._expires_ms else None

    @property
    def created_at(self) -> datetime | None:
        """The moment (UTC, server time) at which this value was written; None for an item of `scan(values=False)`."""
        return _EPOCH + timedelta(milliseconds=self._created_ms) if self._created_ms else None

    @property
    def explain(self) -> Mapping[str, Any] | None:
        """With `explain=True`: which replicas answered and what was repaired.  Otherwise None.

        An eventual write that lost against a later value at once carries `{"superseded": True}` here without being
        asked.
        """
        return self._explain

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Item):
            return NotImplemented
        return self._key == other._key and self._version == other._version

    def __hash__(self) -> int:
        return hash((self._key, self._version))

    def __reduce__(self) -> tuple[type[Item], tuple[Any, ...]]:
        explain = None if self._explain is None else dict(self._explain)
        return Item, (self._key, self._version, self._content, self._expires_ms, self._created_ms, explain)

    def __repr__(self) -> str:
        return f"Item(key={self.key!r}, value={self.value!r:.200}, etag={self.etag!r})"


def item_of_body(key: str, body: bytes, explain: Mapping[str, Any] | None = None) -> Item | None:
    """Return the item that a record's body holds; None for an empty body or a tombstone (an absent key)."""
    if len(body) <= BODY_HEADER_BYTES:
        return None
    expires_ms, created_ms = body_times(body)
    return Item(key, Version(body[:VERSION_BYTES]), body[BODY_HEADER_BYTES:], expires_ms, created_ms, explain)
