"""Dapr's protobuf messages <-> what the store understands (`options`, `state`), for both gRPC services.

Decides: which field a word stands in, and that a number which no word has is refused.  Leaves to others: what the words
mean (`options`), the calls (`grpc`, `component`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kvnode.dapr import errors, options
from kvnode.dapr.answers import expire_time
from kvnode.dapr.errors import Call
from kvnode.dapr.options import Delete, Save
from kvnode.dapr.state import Entry, StateStore

EXPIRES_NAME = "ttlExpireTime"

_CONSISTENCIES = {0: "", 1: "eventual", 2: "strong"}
_CONCURRENCIES = {0: "", 1: "first-write", 2: "last-write"}


def consistency_word(number: int) -> str:
    """Return the word of a consistency's number; "": it does not say.  Raises StateError."""
    return _word(_CONSISTENCIES, "consistency", number)


def concurrency_word(number: int) -> str:
    """Return the word of a concurrency's number; "": it does not say.  Raises StateError."""
    return _word(_CONCURRENCIES, "concurrency", number)


def save_of(item: Any, call: Call, store: str, *, content_type: str = "", consistency: str = "") -> Save:
    """Return what a StateItem or a SetRequest asks for.  Raises StateError.

    `content_type` and `consistency` are for items that do not say.
    """
    metadata: Mapping[str, str] = item.metadata
    return Save(
        key=item.key,
        value=options.value_of(item.value, metadata.get("contentType", "") or content_type),
        etag=item.etag.value,
        concurrency=options.concurrency_of(concurrency_word(item.options.concurrency), metadata.get("concurrency")),
        consistency=options.consistency_of(
            consistency_word(item.options.consistency), metadata.get("consistency"), consistency
        ),
        ttl=options.ttl_of(metadata, call, store, item.key),
    )


def delete_of(item: Any, *, consistency: str = "") -> Delete:
    """Return what a StateItem, a DeleteStateRequest or a DeleteRequest asks to delete.  Raises StateError."""
    metadata: Mapping[str, str] = item.metadata
    return Delete(
        key=item.key,
        etag=item.etag.value,
        concurrency=options.concurrency_of(concurrency_word(item.options.concurrency), metadata.get("concurrency")),
        consistency=options.consistency_of(
            consistency_word(item.options.consistency), metadata.get("consistency"), consistency
        ),
    )


async def save_all(store: StateStore, saves: Sequence[Save]) -> None:
    """Write what one request asks for: one item, or each for itself.  Raises StateError, one for all."""
    if len(saves) == 1:
        await store.save(saves[0])
        return
    results = await store.save_many(saves)
    if (error := errors.joined(Call.SAVE, store.name, [save.key for save in saves], results)) is not None:
        raise error


async def delete_all(store: StateStore, deletes: Sequence[Delete]) -> None:
    """Delete what one request asks for, each key for itself.  Raises StateError, one for all."""
    results = await store.delete_many(deletes)
    keys = [delete.key for delete in deletes]
    if (error := errors.joined(Call.BULK_DELETE, store.name, keys, results)) is not None:
        raise error


def metadata_of(entry: Entry) -> dict[str, str]:
    """Return what is told about a value beside it: when it expires, if it does."""
    if entry.expires_at is None:
        return {}
    return {EXPIRES_NAME: expire_time(entry)}


def _word(words: Mapping[int, str], what: str, number: int) -> str:
    word = words.get(number)
    if word is None:
        raise errors.malformed(f"{what} {number} is none of {', '.join(f'{n} {w}' for n, w in words.items() if w)}")
    return word
