"""Several operations on one key as one change: what a caller lists, and its form on the wire.

The content of a TRANSACT is msgpack: `[[kind, check, etag, content, ttl_ms], ...]`, kind 0 put, 1 delete.  The
operations run in order, each on the result of the one before; if any check fails, none of them happened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgpack  # type: ignore[import-untyped]

from kvclient import content as contents
from kvclient.errors import InvalidRequest
from kvclient.options import Ttl, etag_on_wire, ttl_ms_of
from kvclient.wire.messages import CHECK_ABSENT, CHECK_ETAG, CHECK_NONE, DELETE, PUT

OPERATIONS_MAX = 128


@dataclass(frozen=True, slots=True)
class Put:
    """Write `value`; with `etag` only over that version, with `create` only if the key is absent.

    `create` None, without an `etag`: as the store's `concurrency` has it, so a store of first-write creates.  `ttl` in
    seconds, or "never"; None takes the store's default.
    """

    value: Any
    etag: str | None = None
    create: bool | None = None
    ttl: Ttl | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete the key; with `etag` only if that version stands there."""

    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Packed:
    """A transaction ready to be sent.  `last` and `ttl_ms` are those of the value that stands in the end, if any."""

    content: bytes
    last: bytes
    ttl_ms: int


def pack(operations: Sequence[Put | Delete], ttl_ms_default: int, bytes_max: int, *, is_first_write: bool) -> Packed:
    """Return the wire form of a transaction.  Raises InvalidRequest.

    `is_first_write`: puts that do not say are first-writes.
    """
    if not 1 <= len(operations) <= OPERATIONS_MAX:
        raise InvalidRequest(f"a transaction must have 1 to {OPERATIONS_MAX} operations, not {len(operations)}")
    rows = [_row(operation, ttl_ms_default, is_first_write) for operation in operations]
    packed: bytes = msgpack.packb(rows)
    if len(packed) > bytes_max:
        raise InvalidRequest(f"a transaction of {len(packed)} bytes exceeds the {bytes_max} bytes of a value")
    _, _, _, last, ttl_ms = rows[-1]
    return Packed(packed, last, ttl_ms)


def _row(operation: Put | Delete, ttl_ms_default: int, is_first_write: bool) -> tuple[int, int, str, bytes, int]:
    if isinstance(operation, Delete):
        return DELETE, _check(operation.etag, create=False), etag_on_wire(operation.etag), b"", 0
    if not isinstance(operation, Put):
        raise InvalidRequest(f"a transaction is made of kvclient.Put and kvclient.Delete, not {operation!r:.80}")
    ttl_ms = ttl_ms_default if operation.ttl is None else ttl_ms_of(operation.ttl)
    create = is_first_write and operation.etag is None if operation.create is None else operation.create
    check = _check(operation.etag, create=create)
    return PUT, check, etag_on_wire(operation.etag), contents.encode(operation.value), ttl_ms


def _check(etag: str | None, *, create: bool) -> int:
    if etag is None:
        return CHECK_ABSENT if create else CHECK_NONE
    if create or not isinstance(etag, str):
        raise InvalidRequest(f"etag must be str and without create=True, not {etag!r:.80}")
    return CHECK_ETAG
